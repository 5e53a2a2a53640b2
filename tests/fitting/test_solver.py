"""The solver reaches optima that SciPy cannot better, and says how each start ended."""

import jax
import numpy as np
import pytest
import scipy.optimize
from known_laws import CHINCHILLA, TRUTH, pose

from cptlaw import laws
from cptlaw.fitting import estimate, newton, solver
from cptlaw.fitting.objective import NAMES, Objective


@pytest.mark.parametrize("objective", list(NAMES))
def test_every_objective_reaches_what_scipy_cannot_better(chinchilla_table, objective):
    problem, rows = pose(chinchilla_table, "chinchilla", Objective(objective, 1e-3))
    best = estimate.optimise(problem, rows.fitted, 16)
    with jax.enable_x64():

        def value(theta):
            predicted = problem.law.predict(dict(zip(problem.free, theta)), problem.x)
            residual = np.log(predicted / problem.y) if problem.objective.in_log else predicted - problem.y
            return float(problem.objective.terms(residual, np.ones(30), problem.objective.stages()[-1]).value.sum())

        assert value(best.theta) == pytest.approx(best.value, rel=1e-9)
        other = scipy.optimize.minimize(
            value, best.theta, method="Nelder-Mead", options={"maxiter": 300, "xatol": 1e-10}
        )
    assert other.fun >= best.value - 1e-7 * abs(best.value)
    assert best.agree > 0.9


def test_least_squares_equals_scipy_trf(dcpt_table):
    problem, rows = pose(dcpt_table[dcpt_table["eval"] == "code"], "dcpt_l6", Objective("squared"))
    best = estimate.optimise(problem, rows.fitted, 16)
    low, high = problem.box

    def residual(theta):
        return np.log(problem.law.predict(dict(zip(problem.free, theta)), problem.x)) - np.log(problem.y)

    start = np.clip(best.theta * 1.05, low + 1e-9, high)
    other = scipy.optimize.least_squares(residual, start, bounds=(low, high), x_scale="jac", xtol=1e-15, ftol=1e-15)
    assert best.value <= other.cost * (1 + 1e-9)


@pytest.mark.parametrize("name", ["dcpt", *(n for n in laws.names() if n.startswith("dcpt_l"))])
def test_every_form_recovers_its_own_truth(name, dcpt_table):
    law = laws.get(name)
    table = dcpt_table[dcpt_table["eval"] == "code"].reset_index(drop=True)
    theta = TRUTH | {"b": 1.8, "c": 2.5, "sigma": 0.4, "D_min": 0.5}
    if name == "dcpt_l5b":
        theta["sigma"] = 2.0
    x = {
        "params": table["params"].to_numpy(),
        "tokens": table["tokens"].to_numpy(),
        "ratio": table["w_code"].to_numpy(),
    }
    exact = law.predict(theta, x)
    problem, rows = pose(table.assign(loss=exact), name, Objective())
    best = estimate.optimise(problem, rows.fitted, 16)
    far = {"params": 8e9, "tokens": 40e9, "ratio": np.array([0.05, 0.5, 1.0])}
    np.testing.assert_allclose(law.predict(problem.reported(best.theta), far), law.predict(theta, far), rtol=2e-4)


@pytest.mark.parametrize("n", [1, 32, 33, 100, 1000, 54321])
def test_buckets_are_few_and_hold_what_they_are_for(n):
    assert n <= solver.bucket(n) <= max(32, 1.3 * n + 32)
    assert len({solver.bucket(m) for m in range(1, 5000)}) < 40


def test_linear_parameters_are_solved_for_within_their_box(chinchilla_table):
    problem, _ = pose(chinchilla_table, "chinchilla", Objective("squared"))
    start = np.array([[9.0, 9.0, 0.35, 9.0, 0.37], [9.0, 9.0, 4.9, 9.0, 4.9]])
    weights, y = np.ones((2, 30)), np.tile(problem.y, (2, 1))
    found = solver.project_linear(problem, start, weights, y)
    assert found[:, [2, 4]].tolist() == [[0.35, 0.37], [4.9, 4.9]]  # the others stay
    assert found[0, [0, 1, 3]] == pytest.approx([CHINCHILLA[k] for k in ("E", "A", "B")], rel=0.03)
    assert (found >= 0).all()


def test_a_lane_answers_the_same_alone_and_in_company(chinchilla_table):
    problem, _ = pose(chinchilla_table, "chinchilla", Objective())
    starts = estimate.draw_starts(problem, 40, seed=0)
    together = solver.solve(problem, starts, project=True)
    alone = solver.solve(problem, starts[7:8], project=True)
    np.testing.assert_array_equal(alone.theta[0], together.theta[7])
    assert set(together.code) <= {newton.CONVERGED, newton.ON_BOUND, newton.STALLED} and together.steps.min() > 0


def test_rows_of_weight_zero_may_hold_anything(chinchilla_table):
    problem, _ = pose(chinchilla_table, "chinchilla", Objective())
    weights = np.ones(30)
    weights[4] = 0
    start = np.array([[1.7, 0.5, 0.35, 1.2, 0.37]])
    odd = problem.y.copy()
    odd[4] = np.inf
    found = [solver.solve(problem, start, weights[None], y[None]) for y in (problem.y, odd)]
    np.testing.assert_array_equal(found[0].theta, found[1].theta)


def test_a_start_without_a_finite_loss_says_so(chinchilla_table):
    problem, _ = pose(chinchilla_table, "chinchilla", Objective())
    found = solver.solve(problem, np.full((1, 5), np.nan))
    assert newton.CODES[found.code[0]] == "non-finite"
