"""Decisions under the predictive distribution of fits made by hand."""

import dataclasses

import numpy as np
import pytest

from cptlaw.fitting.condition import condition
from cptlaw.planning import numbers
from cptlaw.planning.budget import budget
from cptlaw.planning.decision import DecisionError
from cptlaw.planning.mixture import mixture
from cptlaw.planning.tradeoff import trade_off

X = {"params": 8e5, "tokens": 1e6}


@pytest.fixture(scope="module")
def both(general, code):
    found = []
    for fit in (general, code):
        rows = fit.residuals
        x = {"params": rows["params"].to_numpy(), "tokens": rows["tokens"].to_numpy()}
        x["ratio"] = rows[f"w_{fit.eval}"].to_numpy()
        process = condition(fit.law, fit.params, x, rows["observed"].to_numpy(), rows["run"].tolist())
        found.append(dataclasses.replace(fit, process={fit.eval: process}))
    return found


def test_a_table_over_the_share_reads_as_its_own_draws(both):
    def exact(share):
        return numbers.losses(both[0], X | {"ratio": share})

    share = np.linspace(0.03, 0.97, 9)
    table = numbers.tabulated(both[0], exact)
    np.testing.assert_allclose(table(share), exact(share), rtol=2e-4)
    each = np.broadcast_to(share, (numbers.resamples(both[0]) + 1, 9))
    np.testing.assert_allclose(table(each), table(share))


def test_the_recommended_share_holds_with_the_confidence_asked_for(both):
    plain, sure = (trade_off(*both, **X, base_loss=3.26, confidence=c) for c in (None, 0.9))
    assert 0.4 < plain.holds < 0.6 and sure.holds >= 0.9
    assert sure.point["share"] < plain.point["share"] and sure.options[0].name == "as predicted"
    assert sure.options[0].point == plain.point and "probability of 9" in sure.answer
    assert sure.regret["over mean"] < plain.regret["over mean"]
    assert sure.regret["given up mean"] > plain.regret["given up mean"]
    moved = trade_off(*both, **X, base_loss=3.26, base_loss_se=0.05, confidence=0.9)
    assert moved.point["share"] < sure.point["share"]
    with pytest.raises(DecisionError, match="probability between"):
        trade_off(*both, **X, base_loss=3.26, confidence=1.5)


def test_nothing_is_recommended_from_too_far_away(both):
    decision = trade_off(*both, params=8e7, tokens=1e6, base_loss=3.2, confidence=0.9)
    assert not decision.supported and "say nothing" in decision.answer
    assert any("say nothing 100 times out" in note for note in decision.warnings)
    with pytest.raises(DecisionError, match="say nothing about what the budget buys"):
        budget(both[1], flops=1e20, share=0.5)


def test_a_law_alone_beside_it_makes_all_laws_alone(both):
    mixed = trade_off(both[0], both[1].alone(), **X, base_loss=3.26)
    assert mixed.point == trade_off(*(fit.alone() for fit in both), **X, base_loss=3.26).point
    assert any("law alone" in note for note in mixed.warnings)


@pytest.fixture(scope="module")
def mixed(both):
    """The same fits, their rows with both shares, as a table has them."""
    found = []
    for fit, other in zip(both, ("code", "general")):
        rows = fit.residuals.assign(**{f"w_{other}": 1 - fit.residuals[f"w_{fit.eval}"]})
        found.append(dataclasses.replace(fit, residuals=rows[rows[f"w_{fit.eval}"].between(0.2, 0.8)]))
    return found


def test_a_mixture_stays_among_measured_mixes_and_their_blends(mixed):
    decision = mixture(*mixed, **X)
    assert 0.25 <= decision.point["code"] <= 0.75 and sum(decision.point.values()) == pytest.approx(1)
    assert decision.regret["mean"] >= 0
    with pytest.raises(DecisionError, match="no blend of the measured mixes"):
        mixture(*mixed, **X, floors={"code": 0.9})


def test_a_mixture_keeps_its_ceilings_with_the_confidence_asked_for(mixed):
    asked = {**X, "weights": {"code": 1.0}, "ceilings": {"general": 3.345}}
    plain, sure = (mixture(*mixed, **asked, confidence=c) for c in (None, 0.9))
    assert 0.4 < plain.holds < 0.6 and sure.holds >= 0.9
    # The question of one share finds the same.
    other = trade_off(*mixed, **X, base_loss=3.345 / 1.03, confidence=0.9)
    assert sure.point["code"] == pytest.approx(other.point["share"], abs=0.02)
    assert sure.point["code"] < plain.point["code"]
