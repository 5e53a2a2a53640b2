"""What no fitted run varied is neither recommended nor asked about."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from cptlaw import cli, fitting, laws
from cptlaw.planning import (
    DecisionError,
    budget,
    limited_data,
    mixture,
    pareto,
    share_for_loss,
    trade_off,
)

X = {"params": 2e5, "tokens": 1e6}


@pytest.fixture
def held(general, code):
    """The two fits with one column at one value in every row."""

    def at(name, value):
        return [dataclasses.replace(fit, ranges=fit.ranges | {name: (value, value)}) for fit in (general, code)]

    return at


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda web, code: trade_off(web, code, **X, base_loss=3.0), "which share of code text to take"),
        (lambda web, code: pareto(web, code, **X), "what a share costs"),
        (lambda web, code: share_for_loss(code, loss=2.0, **X), "which share of code text gives this loss"),
        (lambda web, code: limited_data(code, params=2e5, domain_tokens=1e5), "which share of code text to take"),
        (lambda web, code: budget(code, flops=1.2e12), "which share to take, though it can be given"),
        (lambda web, code: mixture(web, code, **X), "cannot say which mix to take"),
    ],
    ids=["trade-off", "pareto", "share", "limited-data", "budget", "mixture"],
)
def test_runs_of_one_share_answer_no_question_about_shares(held, ask, words):
    with pytest.raises(DecisionError, match=f"50%.*{words}.*(other mixes|other\\s+mixes).*fit again"):
        ask(*held("ratio", 0.5))


def test_runs_of_one_share_answer_at_that_share(held):
    code = held("ratio", 0.5)[1]
    assert budget(code, flops=1.2e12, share=0.5).point["params"] > 0
    with pytest.raises(DecisionError, match=r"every fitted row has ratio = 0\.5"):
        budget(code, flops=1.2e12, share=0.25)


def test_runs_of_one_size_answer_at_that_size_and_say_so(held):
    web, code = held("params", 2e5)
    with pytest.raises(DecisionError, match=r"has params = 200k, so these runs cannot say which size .* other sizes"):
        budget(code, flops=1.2e12, share=0.5)
    with pytest.raises(DecisionError, match="every fitted row has params"):
        trade_off(web, code, params=8e5, tokens=1e6, base_loss=3.26)
    found = pareto(web, code, **X)
    assert any("params = 200k, so this answer holds there only" in warning for warning in found.warnings)


def test_runs_of_one_length_say_nothing_of_other_lengths(held):
    web, code = held("tokens", 1e6)
    for ask in (
        lambda: budget(code, flops=1.2e12, share=0.5),
        lambda: limited_data(code, params=2e5, domain_tokens=1e5, tokens=1e6),
    ):
        with pytest.raises(DecisionError, match=r"has tokens = 1M, so these runs cannot say .* other token counts"):
            ask()
    with pytest.raises(DecisionError, match="every fitted row has tokens"):
        trade_off(web, code, params=2e5, tokens=4e6, base_loss=3.26)
    assert pareto(web, code, **X).rows


def three(order, dead=0.0):
    """Runs on web, code and math and a fourth corpus, books, whose share never varied; columns in `order`."""
    rng = np.random.default_rng(1)
    mixes = pd.DataFrame(rng.dirichlet(np.ones(3), 24) * (1 - dead), columns=["w_web", "w_code", "w_math"])
    mixes["w_books"] = dead
    law = laws.get("mixing", corpora=("web", "code", "math"))
    rows = []
    for name, (c, k, t) in {
        "web": (1.5, 1.0, (-2.0, -0.2)), "code": (1.0, 1.2, (0.5, -2.5)), "math": (1.2, 1.0, (0.3, -0.3)),
    }.items():  # fmt: skip
        x = {column: mixes[column].to_numpy() for column in law.columns}
        loss = law.predict({"c": c, "k": k, "t[web]": t[0], "t[code]": t[1]}, x) + rng.normal(0, 1e-3, len(mixes))
        rows.append(mixes.assign(run=[f"m{i:02}" for i in range(len(mixes))], eval=name, loss=loss))
    return pd.concat(rows, ignore_index=True)[["run", *(f"w_{name}" for name in order), "eval", "loss"]]


ORDERS = (("web", "code", "math", "books"), ("books", "math", "code", "web"))


@pytest.mark.parametrize("dead", [0.0, 0.1])
def test_a_corpus_whose_share_never_varied_keeps_it_in_whatever_order_the_columns_stand(dead):
    points, targets = [], ("web", "code")
    for order in ORDERS:
        rows = three(order, dead)
        nothing = np.zeros(len(rows), bool)
        made = [fitting.fit(rows, "mixing", name, bootstrap=4, starts=4, hold_out=nothing) for name in targets]
        found = mixture(*made)
        assert found.point["books"] == pytest.approx(dead, abs=1e-6)
        assert np.allclose(found.samples["books"], dead, atol=1e-6)
        assert found.options[0].point["books"] == dead
        assert any("books, so it is kept there" in warning for warning in found.warnings)
        with pytest.raises(DecisionError, match="books: every fitted run has a share of"):
            mixture(*made, floors={"books": 0.3})
        points.append(found.point)
    for other in points[1:]:
        assert other == pytest.approx(points[0], abs=0.02)


def test_the_command_refuses_with_what_to_do(held, tmp_path, capsys):
    fit = held("ratio", 0.5)[1]
    fit.save(tmp_path / "fit.json")
    words = ["plan", "share", "--fit", str(tmp_path / "fit.json"), "--loss", "2", "--params", "2e5", "--tokens", "1e6"]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "a share of 50% of code" in said and "add runs at other mixes" in said and "Traceback" not in said
