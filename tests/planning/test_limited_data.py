import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from cptlaw import laws
from cptlaw.planning.decision import DecisionError
from cptlaw.planning.limited_data import REPETITION, boundary, forced, limited_data

LAW = laws.get("dcpt", constrained=False)
POSITIVE = st.floats(0.05, 2.0)
PARAMS = st.fixed_dictionaries({
    "E": POSITIVE, "A": POSITIVE, "alpha": POSITIVE, "B": POSITIVE, "beta": st.floats(0.1, 1.5),
    "eta": st.floats(1.0, 3.0), "C": POSITIVE, "gamma": st.floats(0.1, 1.5), "eps": st.floats(0.01, 0.5),
})  # fmt: skip


def with_params(fit, params):
    """The same fit of other parameters, all its resamples equal to them."""
    return dataclasses.replace(
        fit, params=params, samples={name: np.full(3, value) for name, value in params.items()}, influence={}
    )


def loss(params, share, domain_tokens, size=1.8e9):
    x = {"params": size, "tokens": domain_tokens / share, "ratio": np.asarray(share)}
    return LAW.predict(params, x)


@settings(max_examples=60, deadline=None)
@given(params=PARAMS, scale=st.sampled_from([0.5, 0.9, 1.1, 2.0]))
def test_the_best_share_is_inside_exactly_below_the_boundary(code, params, scale):
    fit = with_params(code, params)
    domain_tokens = boundary(fit) * scale
    if not 1e3 < domain_tokens < 1e15:
        return
    decision = limited_data(fit, params=1.8e9, domain_tokens=domain_tokens)
    slope = loss(params, 1.0, domain_tokens) - loss(params, 1 - 1e-6, domain_tokens)
    assert (slope > 0) == (scale < 1)
    assert (decision.point["share"] < 1) == (scale < 1)


@settings(max_examples=60, deadline=None)
@given(params=PARAMS, domain_tokens=st.floats(1e6, 1e12))
def test_the_objective_is_convex_and_the_best_share_is_its_minimum(code, params, domain_tokens):
    share = np.linspace(0.01, 1, 400)
    curve = loss(params, share, domain_tokens)
    assert np.all(np.diff(curve, 2) > -1e-9 * np.abs(curve).max())
    decision = limited_data(with_params(code, params), params=1.8e9, domain_tokens=domain_tokens)
    exact = minimize_scalar(
        lambda r: loss(params, r, domain_tokens), bounds=(1e-3, 1), method="bounded", options={"xatol": 1e-9}
    )
    # Relative: a loss of 28 nats is not known to 1e-12.
    assert loss(params, decision.point["share"], domain_tokens) <= exact.fun * (1 + 1e-12)
    assert decision.point["tokens"] == pytest.approx(domain_tokens / decision.point["share"])


def test_the_constraint_of_a_fit_that_forces_the_answer_is_named(code):
    constrained = dataclasses.replace(code, law=laws.get("dcpt"), params={**code.params, "D_min": 1e-4, "C": 5.0})
    reach = forced(constrained)
    assert reach == pytest.approx(1e5 * (1 + 0.3 / 1.4) ** (1 / 0.3))
    decision = limited_data(constrained, params=8e5, domain_tokens=2 * reach)
    assert not decision.supported
    assert "dcpt:constrained=false" in decision.answer
    assert forced(code) is None


def test_repetition_is_worth_less_than_new_text_and_stops_at_the_limit(code):
    ask = {"params": 8e5, "domain_tokens": 1e5, "tokens": 1e6}
    once = limited_data(code, **ask, max_epochs=1)
    often = limited_data(code, **ask, max_epochs=4)
    fresh = limited_data(code, params=8e5, domain_tokens=4e5, tokens=1e6)
    assert once.losses["code"]["point"] > often.losses["code"]["point"] > fresh.losses["code"]["point"]
    assert once.point["epochs"] == pytest.approx(1)
    assert often.point["epochs"] <= 4 + 1e-9
    # Effective data by the formula, at the recommended share.
    epochs, share = often.point["epochs"], often.point["share"]
    effective = 1e5 * (min(epochs, 1) + REPETITION * (1 - math.exp(-max(epochs - 1, 0) / REPETITION)))
    x = {"params": 8e5, "tokens": effective / share, "ratio": share}
    assert often.losses["code"]["point"] == pytest.approx(float(code.law.predict(code.params, x)))


def test_tokens_are_never_more_than_allowed(code):
    decision = limited_data(code, params=8e5, domain_tokens=1e5, tokens=3e5)
    assert decision.point["tokens"] <= 3e5 * (1 + 1e-9)
    assert np.all(decision.samples["tokens"] <= 3e5 * (1 + 1e-9))


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"domain_tokens": 0}, "domain_tokens 0"),
        ({"max_epochs": 0.5}, "at least one pass"),
        ({"tokens": -1}, "tokens -1"),
        ({"repetition": 0}, "repetition 0"),
    ],
)
def test_bad_questions_are_refused(code, question, words):
    with pytest.raises(DecisionError, match=words):
        limited_data(code, **{"params": 8e5, "domain_tokens": 1e5, **question})
