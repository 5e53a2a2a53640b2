"""How scales are found: the restricted likelihood, its descent, and the rows that are kept."""

import numpy as np
import pytest

from cptlaw import laws
from cptlaw.errors import UserError
from cptlaw.fitting import kernels
from cptlaw.fitting.condition import CHECKPOINTS, MOST_ROWS, condition, descend, restricted, thin


def test_gradient_of_the_restricted_likelihood():
    rng = np.random.default_rng(0)
    place = rng.normal(size=(12, 2))
    matrices = np.stack(
        [np.eye(12), kernels.matern52(kernels.distance(place, place)), np.kron(np.eye(6), np.ones((2, 2)))]
    )
    about = np.array([[-4.0, 1.0], [-3.0, 0.7], [-5.0, 1.0]])
    value = restricted(0.05 * rng.normal(size=12), rng.normal(size=(12, 3)), matrices, about, rows=8)
    here = np.array([-3.5, -3.2, -4.1])
    numeric = [(value(here + 1e-5 * e)[0] - value(here - 1e-5 * e)[0]) / 2e-5 for e in np.eye(3)]
    np.testing.assert_allclose(value(here)[1], numeric, rtol=1e-6)


def test_descent_ends_where_the_slope_is_zero():
    def rosenbrock(x):
        a, b = x
        return (1 - a) ** 2 + 100 * (b - a * a) ** 2, np.array(
            [-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)]
        )

    np.testing.assert_allclose(descend(rosenbrock, np.array([-1.2, 1.0])), 1, atol=1e-2)


def test_thinning_keeps_ends_and_does_not_depend_on_order():
    run = np.repeat(["a", "b"], 40)
    tokens = np.tile(np.arange(1, 41) * 1e9, 2)
    kept = thin({"tokens": tokens}, run)
    assert len(kept) == 2 * CHECKPOINTS and {0, 39, 40, 79} <= set(kept.tolist())
    shuffled = np.random.default_rng(0).permutation(80)
    again = shuffled[thin({"tokens": tokens[shuffled]}, run[shuffled])]
    assert set(again.tolist()) == set(kept.tolist())
    many = np.arange(20_000)
    x = {"params": np.geomspace(1e7, 1e10, 20_000), "tokens": np.tile(np.geomspace(1e9, 1e11, 100), 200)}
    assert len(thin(x, many.astype(str))) <= MOST_ROWS


def test_parameters_that_are_held_do_not_move_and_few_rows_are_refused():
    law, theta = laws.get("chinchilla"), {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e8, 1e9, 3), np.geomspace(1e9, 16e9, 4)))
    x, runs = {"params": n, "tokens": d}, [f"{size:g}" for size in n]
    loss = law.predict({**theta, "E": 1.75}, x)
    held = condition(law, theta, x, loss, runs, held=("E",))
    assert "E" not in held.moving and held.fixed["E"] == 1.7
    free = condition(law, theta, x, loss, runs)
    assert free.moving == law.names and "E" not in free.fixed
    with pytest.raises(UserError, match="2 rows are too few"):
        condition(law, theta, {name: value[:2] for name, value in x.items()}, loss[:2], runs[:2])
