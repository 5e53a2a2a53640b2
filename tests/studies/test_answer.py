"""From a runs table to an answer, its confirming run and the report, whatever goes wrong on the way."""

import dataclasses
import functools
import io

import numpy as np
import pandas as pd
import pytest

from cptlaw import fitting, planning
from cptlaw.execution import sweep
from cptlaw.execution.workdir import Workdir
from cptlaw.fitting import fit as real_fit
from cptlaw.models import transformer
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid, mixture_study
from cptlaw.studies.prepared import Prepared, repeated
from cptlaw.studies.questions import TradeOff
from cptlaw.studies.settings import FitSettings

LOSSES = {"prose": 4.0, "code": 3.0}
BASE = 4.524  # 5% over it is the prose loss at a little over half code


def law(corpus, params, tokens, ratio):
    """A truth of the demo's kind, a D-CPT Law: little replay costs prose, little code costs code."""
    N, D = params / 1e9, tokens / 1e9
    return LOSSES[corpus] + 0.05 * N**-0.2 + 0.001 * ratio**1.2 * D**-0.4 + 0.25 * (ratio + 0.08) ** -0.6


@pytest.fixture
def prepared(make_config, tmp_path):
    shares = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
    config = make_config(
        sizes={"small": {"d_model": 64}, "medium": {"d_model": 96}, "large": {"d_model": 128}},
        grid={size: {"domain_shares": shares} for size in ("small", "medium", "large")},
        cpt__tokens=64_000,
        eval_tokens=(16_000, 32_000, 64_000),
        held_out__tokens=32_000,
    )
    settings = dataclasses.replace(
        config_lib.parse(config),
        fit=FitSettings(law="dcpt:constrained=false", bootstrap=40),
        question=TradeOff(tolerance=0.05),
    )
    return Prepared(settings, Workdir(tmp_path), vocab_size=32, data={"prose": "p", "code": "c"}, progress=False)


def rows(run):
    params = transformer.count_params(transformer.Config(**run.model))["non_embedding"]
    rng = np.random.default_rng(int(run.id.rsplit("-", 1)[1], 16))
    for tokens in (0, 8_000, 16_000, 32_000, 64_000):
        for corpus, other in (("prose", "code"), ("code", "prose")):
            ratio = run.shares.get(corpus, 0.0)
            loss = BASE if tokens == 0 else law(corpus, params, tokens, ratio) + rng.normal(0, 0.003)
            yield {
                "run": run.id, "params": params, "model": run.size, "tokens": tokens, "seed": run.seed, "status": "ok",
                f"w_{corpus}": ratio, f"w_{other}": 1 - ratio, "eval": corpus, "loss": loss, "loss_se": 0.01,
            }  # fmt: skip


@functools.cache
def fitted(text, eval, held_out):
    """The same tables are fitted in every test: once will do."""
    return real_fit(
        pd.read_json(io.StringIO(text), dtype={"run": str}), law="dcpt:constrained=false", eval=eval, bootstrap=40,
        hold_out=np.array(held_out),
    )  # fmt: skip


@pytest.fixture
def trained(prepared, monkeypatch):
    """Runs are "trained" from the truth; the list says which were asked for."""
    asked, broken = [], set()

    def fake_sweep(runs, workdir, *, title, **options):
        asked.append((title, runs))
        return sweep.Summary((), {run.id: "it broke" for run in runs if title in broken})

    monkeypatch.setattr(mixture_study.sweep, "sweep", fake_sweep)
    monkeypatch.setattr(
        mixture_study.sweep,
        "collect",
        lambda runs, workdir, have=None: pd.DataFrame([row for run in runs if run.init for row in rows(run)]),
    )
    monkeypatch.setattr(
        fitting,
        "fit",
        lambda table, *, eval, hold_out, **options: fitted(
            table.reset_index(drop=True).to_json(), eval, tuple(hold_out.tolist())
        ),
    )
    return asked, broken


def test_the_recommended_share_is_trained_with_a_new_seed_and_shown_beside_its_prediction(prepared, trained):
    (answer,) = mixture_study.run(prepared)
    (title, (confirming,)) = trained[0][-1]
    assert title == "confirm"
    assert confirming.seed not in prepared.study.seeds()
    assert confirming.shares["code"] == pytest.approx(answer.decision.point["share"], abs=6e-4)
    params = transformer.count_params(transformer.Config(**confirming.model))["non_embedding"]
    truth = law("prose", params, 64_000, 1 - confirming.shares["code"])
    assert truth == pytest.approx(1.05 * BASE, rel=0.01), "the ceiling is met, and not by far"
    assert list(answer.checked["eval"]) == ["prose", "code"]
    text = answer.text()
    assert "The recommended mix, trained once" in text and "inside the interval" in text
    assert "measured afterwards" in answer.report.read_text()
    for name in ("runs.csv", "answer-code.json", "confirm-code.csv", "fits/code-prose.json", "fits/code-code.json"):
        assert (prepared.workdir.root / name).exists()


def test_a_ceiling_no_share_meets_still_gives_a_report(prepared, trained):
    strict = dataclasses.replace(
        prepared, study=dataclasses.replace(prepared.study, question=TradeOff(tolerance=1e-6)), workdir=prepared.workdir
    )
    prepared.workdir.confirm("code").write_text("left by an earlier answer")
    (answer,) = mixture_study.run(strict)
    if answer.decision is None:
        assert answer.reason and answer.text().startswith("No answer for code: no domain share keeps")
    assert answer.report.exists()
    assert not prepared.workdir.confirm("code").exists() or answer.checked is not None


def test_a_failed_confirming_run_still_gives_a_report(prepared, trained, capsys):
    trained[1].add("confirm")
    (answer,) = mixture_study.run(prepared)
    assert answer.checked is None and answer.report.exists()
    assert "it broke" in capsys.readouterr().err
    assert not prepared.workdir.confirm("code").exists()


def test_too_many_failed_runs_leave_nothing_to_fit(prepared, trained, capsys):
    trained[1].add("grid")
    with pytest.raises(mixture_study.UserError, match="21 of 21 runs failed"):
        next(mixture_study.run(prepared))
    assert "it broke" in capsys.readouterr().err


def test_held_out_rows_are_in_no_fit(prepared, trained):
    (answer,) = mixture_study.run(prepared)
    fit = fitting.Fit.load(prepared.workdir.fit("code", "code"))
    large = max(row["params"] for run in grid.plan(prepared.study, 32, prepared.data) if run.init for row in rows(run))
    held = fit.residuals[fit.residuals["held_out"]]
    assert set(held["params"]) == {large} and held["tokens"].min() > prepared.study.held_out.tokens
    assert answer.name == "code"


def test_an_answer_that_the_runs_do_not_settle_says_why_nothing_was_trained(prepared, trained, monkeypatch):
    decide = planning.trade_off
    unsettled = {"interval": {"share": (0.05, 0.95)}, "supported": False}
    monkeypatch.setattr(planning, "trade_off", lambda *a, **k: dataclasses.replace(decide(*a, **k), **unsettled))
    (answer,) = mixture_study.run(prepared)
    assert answer.checked is None and [title for title, _ in trained[0]] == ["grid"]
    assert "The recommended mix was not trained: the runs do not settle the share, whose interval is 5% to 95%." in (
        answer.text()
    )


def test_an_earlier_answer_does_not_outlive_a_study_that_finds_none(prepared, trained, monkeypatch):
    def refuse(*_, **__):
        raise mixture_study.DecisionError("no domain share keeps the prose loss")

    prepared.workdir.answer("code").write_text("{}")
    monkeypatch.setattr(planning, "trade_off", refuse)
    (answer,) = mixture_study.run(prepared)
    assert answer.decision is None and not prepared.workdir.answer("code").exists()


def test_a_base_model_worse_than_guessing_is_said(prepared, trained, capsys):
    mixture_study.train_grid(prepared)  # 32 token ids: a uniform guess has ln 32 = 3.466 nats, the base models 4.524
    said = capsys.readouterr().err
    assert "the large base model's loss on prose is 4.524 nats, above the 3.466 of a uniform guess" in said
    assert said.count("warning:") == 6, "three sizes, two corpora, each once"
    mixture_study.train_grid(dataclasses.replace(prepared, vocab_size=1000))
    assert "warning" not in capsys.readouterr().err


def test_what_a_table_holds_is_not_trained_again(prepared, trained):
    asked, _ = trained
    table = mixture_study.train_grid(prepared)
    mixture_study.train_grid(prepared, have=table)
    lost = table["run"].iloc[-1]
    mixture_study.train_grid(prepared, have=table[table["run"] != lost])
    whole, none, (base, run) = (runs for _, runs in asked)
    assert len(whole) == 3 * 7 and none == []
    assert (run.id, run.init) == (lost, base.id)


def test_text_that_runs_read_again_and_again_is_said(prepared):
    runs = grid.plan(prepared.study, 32, prepared.data)
    assert not repeated(runs, {"prose": 64_000, "code": 64_000})
    (one,) = repeated(runs, {"prose": 64_000, "code": 5_000})
    assert one.split()[0].startswith(("small-code0.9", "medium-code0.9", "large-code0.9"))
    assert "reads the 5,000 tokens of code 11.5 times" in one


def test_a_rejected_law_is_the_first_line_where_there_is_no_decision_too(tmp_path):
    answer = mixture_study.Answer("code", None, None, tmp_path / "r.html", "no share meets it", ("REJECTED: so.",))
    assert answer.text().splitlines()[:2] == ["REJECTED: so.", "No answer for code: no share meets it"]
