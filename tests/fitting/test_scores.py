"""Scores by hand."""

import numpy as np
import pytest

from cptlaw.fitting.scores import HUBER_DELTA, score


def test_scores_by_hand():
    observed = np.array([2.0, 4.0])
    found = score(observed, observed * np.exp([5e-4, -0.02]))
    assert found["mean_log"] == pytest.approx((5e-4 + 0.02) / 2)
    assert found["rms_log"] == pytest.approx(np.sqrt((5e-4**2 + 0.02**2) / 2))
    assert found["huber"] == pytest.approx(0.5 * 5e-4**2 + HUBER_DELTA * (0.02 - HUBER_DELTA / 2))
    miss = 2 * np.expm1(5e-4), 4 * -np.expm1(-0.02)
    assert found["mae"] == pytest.approx(sum(miss) / 2)
    assert found["r2"] == pytest.approx(1 - (miss[0] ** 2 + miss[1] ** 2) / 2)


def test_equal_observations_have_no_r2():
    assert np.isnan(score(np.full(3, 2.0), np.full(3, 2.1))["r2"])


def test_a_prediction_that_is_no_loss_scores_worst_not_best():
    assert not score(np.array([2.0, 2.0]), np.array([-1.0, 2.0]))["mean_log"] < 1
