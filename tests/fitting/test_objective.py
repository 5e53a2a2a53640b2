"""Every objective's values and derivatives, by hand and by differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cptlaw.errors import UserError
from cptlaw.fitting.objective import NAMES, OVER_PREDICTION, Objective

RESIDUALS = np.array([-0.3, -0.02, -4e-4, 3e-4, 0.011, 0.2])
WEIGHTS = np.array([1.0, 2.0, 1.0, 0.0, 1.0, 3.0])


def terms(objective, residual, weight=WEIGHTS, delta=None):
    with jax.enable_x64():
        found = objective.terms(jnp.asarray(residual), jnp.asarray(weight), jnp.asarray(delta or objective.delta))
        return [np.asarray(term) for term in found]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "huber_scale"])
def test_slope_curvature_and_secant_are_those_of_the_value(name):
    objective, step = Objective(name, 1e-3), 1e-7
    value, slope, curvature, secant = terms(objective, RESIDUALS)
    high, low = (terms(objective, RESIDUALS + sign * step) for sign in (1, -1))
    np.testing.assert_allclose((high[0] - low[0]) / (2 * step), slope, atol=1e-6 * np.abs(slope).max())
    np.testing.assert_allclose((high[1] - low[1]) / (2 * step), curvature, atol=1e-6 * max(1, curvature.max()))
    np.testing.assert_allclose(secant * RESIDUALS, slope, rtol=1e-12)
    assert value[3] == slope[3] == 0  # weight 0


def test_values_by_hand():
    assert terms(Objective("huber", 1e-3), [2e-3, 5e-4], np.ones(2))[0] == pytest.approx([1.5e-6, 1.25e-7])
    assert terms(Objective("squared"), [0.1, -0.2], np.ones(2))[0] == pytest.approx([0.005, 0.02])
    over, under = terms(Objective("asymmetric"), [0.1, -0.1], np.ones(2), delta=1e-9)[0]
    assert over == pytest.approx(OVER_PREDICTION * 0.1, rel=1e-6) and under == pytest.approx(0.1, rel=1e-6)


def test_the_fitted_scale_minimises_the_likelihood():
    objective = Objective("huber_scale", 1.0)
    value, slope, _, _ = terms(objective, RESIDUALS)
    # The value does not change to first order with a common factor of the residuals but for its logarithm: the scale
    # takes the factor up.
    larger = terms(objective, RESIDUALS * 1.5)[0].sum()
    assert larger - value.sum() == pytest.approx(WEIGHTS.sum() * np.log(1.5), rel=1e-6)
    assert slope @ RESIDUALS == pytest.approx(WEIGHTS.sum(), rel=1e-6)  # the equation of the scale


@pytest.mark.parametrize("name", list(NAMES))
def test_stages_end_at_what_was_asked(name):
    stages = Objective(name, 1e-3).stages()
    assert list(stages) == sorted(stages, reverse=True)
    assert name == "asymmetric" or stages[-1] == 1e-3
    assert Objective(name).in_log == (name in ("huber", "huber_scale", "squared"))


def test_what_is_no_objective_is_refused():
    with pytest.raises(UserError, match="there are huber"):
        Objective("hubert")
    for delta in (0.0, -1.0, np.nan):
        with pytest.raises(UserError, match="must be positive"):
            Objective("huber", delta)
