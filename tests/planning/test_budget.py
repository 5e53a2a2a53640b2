import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlaw.planning.budget import budget, closed_form
from cptlaw.planning.decision import DecisionError

FLOPS = 6 * 8e5 * 1e6


def loss(fit, params, tokens, share):
    return float(fit.law.predict(fit.params, {"params": params, "tokens": tokens, "ratio": np.asarray(share)}))


def test_the_published_case_to_its_printed_digits():
    # a = 0.6252 and G = 4.1282 for C = 5e19: any parameters with this ratio of exponents and this G will do.
    alpha, beta = 0.3748, 0.6252
    theta = {"alpha": alpha, "beta": beta, "A": beta / alpha * 4.1282 ** (alpha + beta), "B": 1.0, "eta": 1.5}
    params, tokens = closed_form(theta, 1.0, 5e19)
    assert round(params / 1e9, 2) == 15.54
    assert round(tokens / 1e9, 3) == 0.536


@settings(max_examples=25, deadline=None)
@given(share=st.floats(0.05, 1), log_flops=st.floats(11, 20))
def test_closed_form_and_search_agree(code, share, log_flops):
    flops = 10**log_flops
    exact, tokens = closed_form(code.params, share, flops)
    assert 6 * exact * tokens == pytest.approx(flops)
    if 1e4 < exact < flops / 6e4:
        renamed = dataclasses.replace(code, law=dataclasses.replace(code.law, name="unknown"))
        assert budget(renamed, flops=flops, share=share).point["params"] == pytest.approx(exact, rel=1e-3)
        assert budget(code, flops=flops, share=share).point["params"] == pytest.approx(exact)


def test_a_menu_takes_the_best_size_there_is(code):
    sizes = [5e4, 2e5, 8e5, 3.2e6]
    decision = budget(code, flops=FLOPS, share=0.5, sizes=sizes)
    losses = {n: loss(code, n, FLOPS / 6 / n, 0.5) for n in sizes}
    assert decision.point["params"] == min(losses, key=losses.get)
    assert [row["point"] for row in decision.rows] == pytest.approx(list(losses.values()))
    assert sum(row["best in"] for row in decision.rows) == pytest.approx(1)
    assert 0 <= decision.agreement <= 1


def test_serving_makes_smaller_models_better_and_is_paid_for(code):
    free, served = (budget(code, flops=FLOPS, share=0.5, inference_tokens=n).point for n in (0.0, 1e6))
    assert served["params"] < free["params"]
    assert 6 * served["params"] * served["tokens"] + 2 * served["params"] * 1e6 == pytest.approx(FLOPS)


def test_the_share_is_chosen_under_the_ceiling(general, code):
    decision = budget(code, general, flops=FLOPS, sizes=[2e5, 8e5], ceiling=3.4)
    share = decision.point["share"]
    assert decision.losses["general"]["point"] == pytest.approx(3.4, abs=1e-5)
    grid = np.linspace(0, 1, 2001)
    feasible = [
        (loss(code, n, FLOPS / 6 / n, r), n, r)
        for n in (2e5, 8e5)
        for r in grid
        if loss(general, n, FLOPS / 6 / n, 1 - r) <= 3.4
    ]
    best, size, at = min(feasible)
    assert (decision.point["params"], share) == (size, pytest.approx(at, abs=1e-3))
    assert decision.losses["code"]["point"] <= best + 1e-6
    held = {option.name: option.holds for option in decision.options}
    assert held["domain only"] == 0.0  # no general text keeps no general loss under a ceiling


def test_size_and_share_together_are_no_worse_than_a_fine_grid(general, code):
    decision = budget(code, general, flops=FLOPS, ceiling=3.2)
    log_n, share = np.meshgrid(np.linspace(math.log(1e4), math.log(1e8), 400), np.linspace(0, 1, 401))
    x = {"params": np.exp(log_n), "tokens": FLOPS / 6 / np.exp(log_n)}
    allowed = general.law.predict(general.params, {**x, "ratio": 1 - share}) <= 3.2
    best = code.law.predict(code.params, {**x, "ratio": share})[allowed].min()
    assert decision.losses["code"]["point"] <= best + 1e-5
    assert decision.losses["general"]["point"] <= 3.2 + 1e-9


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"flops": 1e3}, "give at least 6e"),
        ({"share": 1.5}, r"share 1.5 is not a share in \[0, 1\]"),
        ({"sizes": [1e12]}, "the smallest needs"),
        ({"sizes": [-1.0]}, "size -1"),
        ({"inference_tokens": -1}, "inference_tokens -1"),
        ({"ceiling": 3.0}, "needs both"),
    ],
)
def test_bad_questions_are_refused(code, question, words):
    with pytest.raises(DecisionError, match=words):
        budget(code, **{"flops": FLOPS, **question})


def test_an_impossible_ceiling_says_what_would_be_possible(general, code):
    with pytest.raises(DecisionError, match=r"raise the ceiling to \d\.\d+"):
        budget(code, general, flops=FLOPS, ceiling=2.0)
    with pytest.raises(DecisionError, match="give one of"):
        budget(code, general, flops=FLOPS, ceiling=3.4, share=0.5)


def test_a_size_that_could_be_anything_is_not_given(code):
    wild = np.exp(np.random.default_rng(0).normal(0, 3, len(code.samples["A"])))
    vague = dataclasses.replace(code, samples={**code.samples, "A": code.params["A"] * wild})
    decision = budget(vague, flops=4e12, share=0.5)
    assert not decision.supported and decision.answer.startswith("These runs cannot say which size")


def test_a_free_share_is_compared_with_rules_of_thumb_at_the_same_cost(code):
    decision = budget(code, flops=4e12)
    rules = {option.name: option for option in decision.options}
    assert rules["25% replay"].point == {**decision.point, "share": 0.75}
    assert all(o.losses["code"]["point"] >= decision.losses["code"]["point"] - 1e-9 for o in decision.options)
