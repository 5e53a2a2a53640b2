import dataclasses

import numpy as np
import pytest

from cptlaw.planning.decision import DecisionError
from cptlaw.planning.pareto import pareto
from cptlaw.planning.share_for_loss import share_for_loss

X = {"params": 8e5, "tokens": 1e6}


def test_the_front_has_both_losses_with_bands(general, code):
    decision = pareto(general, code, **X, points=5)
    assert [row["share"] for row in decision.rows] == [0, 0.25, 0.5, 0.75, 1]
    for row in decision.rows:
        exact = float(code.law.predict(code.params, {**X, "ratio": np.asarray(row["share"])}))
        assert row["code point"] == pytest.approx(exact)
        assert row["general low"] < row["general point"] < row["general high"]
        assert row["beaten in"] == 0  # both losses are monotone, so every share is on the front


def test_shares_beaten_by_another_in_both_losses_are_marked(general, code):
    turning = dataclasses.replace(
        code, params={**code.params, "B": 0.05}, samples={**code.samples, "B": code.samples["B"] * 8}
    )
    worse = [row["beaten in"] for row in pareto(general, turning, **X, points=11).rows]
    assert worse[0] == 0
    assert worse[-1] == 1


def test_the_inverse_hits_the_loss(general):
    decision = share_for_loss(general, loss=3.4, **X)
    assert decision.losses["general"]["point"] == pytest.approx(3.4, abs=1e-9)
    assert decision.interval["share"][0] < decision.point["share"] < decision.interval["share"][1]


def test_a_loss_that_no_share_has_gives_those_that_shares_have(general):
    with pytest.raises(DecisionError, match=r"go from 3\.\d+ to 4\.\d+"):
        share_for_loss(general, loss=9.0, **X)


def test_a_front_needs_two_points(general, code):
    with pytest.raises(DecisionError, match="at least 2"):
        pareto(general, code, **X, points=1)


def test_a_share_that_could_be_anything_is_not_given(general):
    wild = np.random.default_rng(0).normal(0, 3, len(general.samples["E"]))
    vague = dataclasses.replace(general, samples={**general.samples, "E": general.params["E"] + wild})
    decision = share_for_loss(vague, loss=3.4, params=8e5, tokens=1e6)
    assert not decision.supported and decision.answer.startswith("These runs cannot say")
    assert {option.name for option in decision.options} == {"domain only", "5% replay", "25% replay"}
