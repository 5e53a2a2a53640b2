"""The compiled steps: derivatives by differences, lanes that end, and lanes that are exchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_laws import CHINCHILLA

from cptlaw import laws
from cptlaw.fitting import newton
from cptlaw.fitting.objective import Objective

LAW = laws.get("chinchilla")
ROWS = 24


@pytest.fixture(scope="module")
def problem():
    """(what all lanes share, one lane's weights and losses, the free parameters)."""
    rng = np.random.default_rng(0)
    x = {"params": np.exp(rng.uniform(17, 21, ROWS)), "tokens": np.exp(rng.uniform(20, 24, ROWS))}
    loss = np.asarray(LAW.predict(CHINCHILLA, x)) * np.exp(1e-3 * rng.standard_normal(ROWS))
    size = len(LAW.names)
    with jax.enable_x64():
        common = newton.Common(
            jax.tree.map(jnp.asarray, x),
            {},
            jnp.zeros(size),
            jnp.full(size, 50.0),
            jnp.asarray(0.02),
            jnp.asarray(1e-12),
            jnp.asarray(400),
        )
        yield common, newton.Lane(jnp.ones(ROWS), jnp.asarray(loss)), LAW.names


def test_the_gradient_is_that_of_the_value(problem):
    common, own, names = problem
    residuals = newton._Residuals(LAW, Objective(), names)
    measure = jax.jit(lambda t, *data: residuals.measure(*residuals.differentiated(t, *data), *data))
    theta = np.array([CHINCHILLA[name] for name in names]) * 1.05
    with jax.enable_x64():
        _, gradient, curvature, metric = measure(jnp.asarray(theta), own, common)
        steps = 1e-6 * np.diag(theta)
        numeric = [
            (measure(jnp.asarray(theta + h), own, common)[0]
             - measure(jnp.asarray(theta - h), own, common)[0]) / (2 * h.max())
            for h in steps
        ]  # fmt: skip
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5)
    for matrix in (curvature, metric):
        np.testing.assert_allclose(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() > -1e-9


def test_lanes_end_where_nothing_is_lower_and_a_lane_that_is_not_running_stays(problem):
    common, own, names = problem
    truth = np.array([CHINCHILLA[name] for name in names])
    begin = np.stack([truth * 1.1, truth * 0.9, truth * 2])
    advance = newton.program(LAW, Objective(), names)
    with jax.enable_x64():
        lanes = jax.tree.map(jnp.asarray, newton.fresh(begin, np.array([True, True, False])))
        data = jax.tree.map(lambda value: jnp.stack([value] * 3), own)
        values = []
        while bool(jnp.any(lanes.code == newton.RUNNING)):
            lanes = advance(lanes, data, common)
            values.append(np.asarray(lanes.value[:2]))
    assert (np.diff(values, axis=0) <= 0).all()
    assert lanes.code[:2].tolist() == [newton.CONVERGED] * 2
    np.testing.assert_allclose(lanes.theta[0], lanes.theta[1], rtol=1e-5)
    np.testing.assert_array_equal(lanes.theta[2], begin[2])


def test_merge_takes_whole_lanes():
    taken = jnp.array([True, False])
    new, old = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2)}
    found = newton.merge(taken, new, old)
    assert found["a"].tolist() == [[1, 1, 1], [0, 0, 0]] and found["b"].tolist() == [1, 0]
