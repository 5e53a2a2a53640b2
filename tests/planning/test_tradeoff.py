import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.tradeoff import measured_base, trade_off

X = {"params": 8e5, "tokens": 1e6}


def loss(fit, ratio, theta=None):
    return float(fit.law.predict(theta or fit.params, {**X, "ratio": np.asarray(ratio)}))


def draw(fit, i):
    return {name: float(values[i]) for name, values in fit.samples.items()}


def ask(general, code, **question):
    return trade_off(general, code, **{**X, "base_loss": 3.26, **question})


@settings(max_examples=20, deadline=None)
@given(tolerance=st.floats(0.005, 0.3))
def test_it_is_the_crossing_that_bisection_finds(general, code, tolerance):
    limit = (1 + tolerance) * 3.26
    if loss(general, 1.0) >= limit:
        with pytest.raises(DecisionError, match="Allow at least"):
            ask(general, code, tolerance=tolerance)
        return
    exact = brentq(lambda share: loss(general, 1 - share) - limit, 0, 1, xtol=1e-12)
    assert ask(general, code, tolerance=tolerance).point["share"] == pytest.approx(exact, abs=1e-6)


def test_each_resample_decides_with_its_own_pair_of_laws(general, code):
    decision = ask(general, code)
    for i in (0, 17, 101):
        exact = brentq(lambda share: loss(general, 1 - share, draw(general, i)) - 1.03 * 3.26, 0, 1)  # noqa: B023
        assert decision.samples["share"][i] == pytest.approx(exact, abs=1e-6)
    low, high = decision.interval["share"]
    inside = np.mean((decision.samples["share"] >= low) & (decision.samples["share"] <= high))
    assert inside == pytest.approx(general.expanded(0.9), abs=0.01) and inside > 0.9


def test_regret_counts_domain_loss_given_up_and_general_loss_over_the_ceiling(general, code):
    decision, limit = ask(general, code), 1.03 * 3.26
    share, expected = decision.point["share"], []
    for i, own in enumerate(decision.samples["share"]):
        given_up = loss(code, share, draw(code, i)) - loss(code, own, draw(code, i))
        over = loss(general, 1 - share, draw(general, i)) - limit
        expected.append(max(given_up, 0) + max(over, 0))
    assert decision.regret["mean"] == pytest.approx(np.mean(expected), rel=1e-3)
    assert decision.regret["p90"] == pytest.approx(np.quantile(expected, 0.9), rel=1e-3)


def test_a_ceiling_that_never_binds_gives_domain_text_only(general, code):
    decision = ask(general, code, ceiling=10.0)
    assert decision.point["share"] == 1.0
    assert "never binds" in decision.answer
    assert decision.agreement == 1.0
    assert decision.regret["mean"] == pytest.approx(0, abs=1e-12)


def test_a_domain_loss_that_turns_up_again_is_best_where_it_turns(general, code):
    turning = dataclasses.replace(
        code, params={**code.params, "B": 0.05}, samples={**code.samples, "B": code.samples["B"] * 8}
    )
    decision = ask(general, turning, ceiling=10.0)
    share = decision.point["share"]
    assert 0.2 < share < 0.9
    assert loss(turning, share) < min(loss(turning, share - 0.01), loss(turning, share + 0.01))
    assert "does not bind" in decision.answer


def test_an_impossible_ceiling_says_what_would_be_possible(general, code):
    with pytest.raises(DecisionError, match=r"smallest predicted is (\d\.\d+), at a domain share of 0%") as error:
        ask(general, code, ceiling=2.0)
    assert f"{loss(general, 1.0):.4f}" in str(error.value)


def test_resamples_in_which_nothing_is_feasible_count_as_their_best_and_are_told(general, code):
    decision = ask(general, code, ceiling=loss(general, 1.0) + 1e-4)
    assert any("no share meets the ceiling" in warning for warning in decision.warnings)
    assert np.isfinite(decision.samples["share"]).all()


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"params": -1}, "params -1 is not a positive count"),
        ({"tokens": float("nan")}, "tokens nan is not"),
        ({"base_loss": 0}, "base_loss 0"),
        ({"level": 90}, "level 90 is not between 0 and 1"),
        ({"tolerance": -1}, "leaves no loss"),
        ({"corpus_tokens": {"code": 1e9}}, "has no general; it has code"),
    ],
)
def test_bad_questions_are_refused(general, code, question, words):
    with pytest.raises(DecisionError, match=words):
        ask(general, code, **question)


def test_unpaired_fits_are_refused_or_told(general, code):
    short = dataclasses.replace(code, samples={name: values[:50] for name, values in code.samples.items()})
    with pytest.raises(DecisionError, match="do not pair"):
        ask(general, short)
    with pytest.raises(DecisionError, match="no bootstrap"):
        ask(general, dataclasses.replace(code, samples={name: values[:0] for name, values in code.samples.items()}))
    other = ask(general, dataclasses.replace(code, digest="another"))
    assert any("different tables" in warning for warning in other.warnings)


def test_failed_resamples_are_left_out(general, code):
    torn = {name: np.where(np.arange(200) < 20, np.nan, values) for name, values in code.samples.items()}
    decision = ask(general, dataclasses.replace(code, samples=torn))
    assert len(decision.samples["share"]) == 180
    assert any("10% of the resamples" in warning for warning in decision.warnings)


def test_it_says_where_it_extrapolates(general, code):
    assert ask(general, code).extrapolation == ()
    notes = ask(general, code, params=8e6, tokens=1e4, base_loss=3.2, tolerance=0.5).extrapolation
    assert any("10 times the largest" in note for note in notes)
    assert any("10 times below the smallest" in note for note in notes)


def test_rules_of_thumb_are_compared_at_the_same_cost(general, code):
    options = {
        option.name: option for option in ask(general, code, corpus_tokens={"general": 3e9, "code": 1e9}).options
    }
    assert options["25% replay"].point == {"share": 0.75}
    assert options["proportional to size"].point == {"share": 0.25}
    assert options["domain only"].losses["code"]["point"] == pytest.approx(loss(code, 1.0))
    assert options["domain only"].holds == 0.0


def test_influential_runs_are_those_whose_removal_moves_the_share(general, code):
    decision = ask(general, code)
    first = decision.influence[0]
    moved = {name: value - general.influence[first["run"]][name] for name, value in general.params.items()}
    exact = brentq(lambda share: loss(general, 1 - share, moved) - 1.03 * 3.26, 0, 1)
    assert first["share without it"] == pytest.approx(exact, abs=1e-6)
    changes = [abs(row["change"]) for row in decision.influence]
    assert changes == sorted(changes, reverse=True)


def test_a_share_that_could_be_anything_is_not_given_as_an_answer(general, code):
    rng = np.random.default_rng(0)
    vague = {**general.samples, "E": general.samples["E"] + rng.normal(0, 1.0, 200)}
    decision = ask(dataclasses.replace(general, samples=vague), code)
    assert not decision.supported
    assert "cannot say" in decision.answer


def test_a_decision_survives_saving(tmp_path, general, code):
    decision = ask(general, code)
    decision.save(tmp_path / "d.json")
    loaded = Decision.load(tmp_path / "d.json")
    assert loaded.text() == decision.text()
    np.testing.assert_array_equal(loaded.samples["share"], decision.samples["share"])
    assert loaded.options == decision.options and loaded.interval == decision.interval


@pytest.mark.parametrize("content", ["{", "[]", '{"cptlaw_decision": 99}'])
def test_a_foreign_file_is_no_decision(tmp_path, content):
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(DecisionError, match=r"d\.json"):
        Decision.load(tmp_path / "d.json")


def test_the_base_loss_is_the_mean_over_base_models_however_many_runs_repeat_them():
    rows = [("one", 3.0), ("one", 3.0), ("one", 3.0), ("two", 3.2)]
    table = pd.DataFrame({"base": [base for base, _ in rows], "loss": [loss for _, loss in rows]})
    table = table.assign(run=list("abcd"), eval="web", params=1e6, tokens=0, loss_se=0.01)
    assert measured_base(table, "web", 1e6) == (pytest.approx(3.1), 0.01)
    assert measured_base(table.drop(columns="base"), "web", 1e6) == (3.0, 0.01)


def test_the_base_loss_of_a_size_as_it_is_printed():
    sizes = [754_816.0, 323_232.0, 323_400.0]
    table = pd.DataFrame({"params": sizes, "loss": [3.0, 3.5, 3.6], "run": list("abc"), "eval": "web", "tokens": 0})
    assert measured_base(table, "web", 755e3)[0] == 3.0 and measured_base(table, "web", 323_232)[0] == 3.5
    for params in (756e3, 323e3):
        with pytest.raises(DecisionError, match="no base loss of web"):
            measured_base(table, "web", params)
