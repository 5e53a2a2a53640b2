"""From a runs table to an answer, its confirming run and the report, whatever goes wrong on the way."""

import dataclasses
import functools
import io

import numpy as np
import pandas as pd
import pytest

from cptlaw.execution import sweep
from cptlaw.fitting import fit as real_fit
from cptlaw.models import transformer
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid, mixture_study
from cptlaw.studies.config import Fit, Question

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
        config_lib.parse(config), fit=Fit(law="dcpt:constrained=false", bootstrap=40), question=Question(tolerance=0.05)
    )
    return mixture_study.Prepared(settings, tmp_path, vocab_size=32, data={"prose": "p", "code": "c"}, progress=False)


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
        lambda runs, workdir: pd.DataFrame([row for run in runs if run.init for row in rows(run)]),
    )
    monkeypatch.setattr(
        mixture_study.fitting,
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
        assert (prepared.workdir / name).exists()


def test_a_ceiling_no_share_meets_still_gives_a_report(prepared, trained):
    strict = dataclasses.replace(
        prepared, study=dataclasses.replace(prepared.study, question=Question(tolerance=1e-6)), workdir=prepared.workdir
    )
    (prepared.workdir / "confirm-code.csv").write_text("left by an earlier answer")
    (answer,) = mixture_study.run(strict)
    if answer.decision is None:
        assert answer.reason and answer.text().startswith("No answer for code: no domain share keeps")
    assert answer.report.exists()
    assert not (prepared.workdir / "confirm-code.csv").exists() or answer.checked is not None


def test_a_failed_confirming_run_still_gives_a_report(prepared, trained, capsys):
    trained[1].add("confirm")
    (answer,) = mixture_study.run(prepared)
    assert answer.checked is None and answer.report.exists()
    assert "it broke" in capsys.readouterr().err
    assert not (prepared.workdir / "confirm-code.csv").exists()


def test_too_many_failed_runs_leave_nothing_to_fit(prepared, trained, capsys):
    trained[1].add("grid")
    with pytest.raises(mixture_study.UserError, match="21 of 21 runs failed"):
        next(mixture_study.run(prepared))
    assert "it broke" in capsys.readouterr().err


def test_held_out_rows_are_in_no_fit(prepared, trained):
    (answer,) = mixture_study.run(prepared)
    fit = mixture_study.fitting.Fit.load(prepared.workdir / "fits" / "code-code.json")
    large = max(row["params"] for run in grid.plan(prepared.study, 32, prepared.data) if run.init for row in rows(run))
    held = fit.residuals[fit.residuals["held_out"]]
    assert set(held["params"]) == {large} and held["tokens"].min() > prepared.study.held_out.tokens
    assert answer.domain == "code"
