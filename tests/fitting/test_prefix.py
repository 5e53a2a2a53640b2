"""The end of a run from its beginning, alone and with earlier runs, hot and cooled down, dense and sparse."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import tables
from cptlaw.errors import UserError
from cptlaw.fitting import prefix

T = np.array([1e6, 2e6, 4e6, 8e6, 16e6])


def table(runs=12, noise=0.0, seed=0, cooled=0.0):
    """Runs whose losses fall as powers of tokens that differ by share; `cooled`: what a cool-down at the end takes."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, share in enumerate(np.linspace(0.1, 0.9, runs)):
        loss = 2.0 + (1 - share) * (T / 1e6) ** -(0.2 + 0.3 * share) + noise * rng.normal(size=5)
        loss[-1] -= cooled * (1 + share)
        lr = np.where((T > 8e6) & (cooled > 0), 0.0, 1e-3)
        rows += [
            {"run": f"r{i}", "params": 1e8, "tokens": t, "w_code": share, "w_web": 1 - share, "eval": "code", "loss": y,
             "lr": rate} for t, y, rate in zip([0, *T], [3.2, *loss], [1e-3, *lr])
        ]  # fmt: skip
    return pd.DataFrame(rows)


def test_earlier_runs_tell_what_a_run_alone_cannot():
    curves = prefix.curves(table())
    asked, earlier = curves[5], curves[:5] + curves[6:]
    so_far, truth = asked.until(4e6), asked.loss[-1]
    alone, taught = prefix.ending(so_far, 16e6), prefix.ending(so_far, 16e6, earlier)
    assert alone.earlier == 0 and taught.earlier == 11
    assert abs(taught.point - truth) < 1e-3 < abs(so_far.loss[-1] - truth)
    assert taught.low <= truth <= taught.high and taught.high - taught.low < alone.high - alone.low
    assert alone.low <= truth <= alone.high
    one_point = prefix.ending(asked.until(1e6), 16e6, earlier)  # of which a run alone says nothing
    assert abs(one_point.point - truth) < 0.02
    with pytest.raises(UserError, match="two numbers of tokens"):
        prefix.ending(asked.until(1e6), 16e6)


def test_alone_the_exponent_is_learned_from_a_clean_run_and_given_to_a_short_one():
    tokens = 1e6 * 2.0 ** np.arange(8)
    for exponent in (0.15, 0.8):
        curve = prefix.Curve("r", "code", tokens[:6], np.exp(1.0 + 0.5 * (tokens[:6] / 1e6) ** -exponent))
        assert np.log(prefix.ending(curve, tokens[-1]).point) == pytest.approx(1 + 0.5 * 128**-exponent, abs=3e-3)
    curve = prefix.Curve("r", "code", np.array([1e6, 2e6]), np.exp([1.0, 0.9]))
    found = prefix.ending(curve, 8e6)
    slopes = [-0.1 / ((2**b - 1) / b) * (1 - 4**-b) / b for b in (0.05, 1.0)]  # flattening hardly, and soon
    assert slopes[0] < np.log(found.point) - 0.9 < slopes[1]
    assert found.above(found.point) == pytest.approx(0.5)
    assert found.above(found.high) == pytest.approx(0.05, abs=2e-3)  # the 90% interval's upper bound


def test_a_cool_down_is_known_from_runs_that_had_one_alone():
    cooled, hot = prefix.curves(table(cooled=0.1)), prefix.curves(table())
    asked = cooled[5]
    so_far = asked.until(8e6)
    assert asked.cooled and not so_far.cooled
    found = prefix.ending(so_far, 16e6, cooled[:5] + cooled[6:] + hot, cooled=True)
    assert found.earlier == 11 and abs(found.point - asked.loss[-1]) < 5e-3
    with pytest.raises(UserError, match="cooled down"):
        prefix.ending(so_far, 16e6, hot, cooled=True)


def test_dense_metrics_are_averaged_into_few_points():
    tokens = np.arange(1, 4001) * 1e3
    rows = pd.DataFrame({"run": "r", "eval": "train", "tokens": tokens})
    rows["loss"] = 2 + (tokens / 1e3) ** -0.3 + 0.05 * np.random.default_rng(0).normal(size=4000)
    (curve,) = prefix.curves(rows)
    assert len(curve.tokens) < 80 and (np.diff(curve.tokens) > 0).all() and curve.tokens[-1] > 3.5e6
    assert abs(prefix.ending(curve, 8e6).point - (2 + 8e3**-0.3)) < 0.02


def test_a_real_run_of_a_larger_model_ends_within_its_interval():
    rows = tables.load("cpt8")
    curves = [one for one in prefix.curves(rows[(rows["eval"] == "code") & (rows["w_wiki"] < 0.9)]) if not one.cooled]
    (asked,) = [one for one in curves if one.run.startswith("755k-code0.33")]
    so_far = asked.until(asked.tokens[-1] / 2)
    said = prefix.ending(so_far, asked.tokens[-1], [one for one in curves if one.params < 2e5][::2])
    assert said.low <= asked.loss[-1] <= said.high
    assert abs(said.point - asked.loss[-1]) < 0.3 * (so_far.loss[-1] - asked.loss[-1])
