"""A study's corpora scored under its runs."""

import json

import numpy as np
import pytest

from cptlaw.data.store import TokenStore
from cptlaw.errors import UserError
from cptlaw.execution import worker
from cptlaw.execution.workdir import Workdir
from cptlaw.scoring import chunks as scoring_chunks
from cptlaw.selection import scores
from cptlaw.studies import scoring


@pytest.fixture
def finished(workdir, runs):
    """The small base of the tiny study, trained, in a workdir with a vocabulary."""
    (workdir / "data" / "vocabulary").mkdir()
    (workdir / "data" / "vocabulary" / "vocabulary.json").write_text(json.dumps({"kind": "bytes"}))
    base = next(run for run in runs if run.init is None and run.size == "small")
    assert worker.train_run(base, workdir)
    return Workdir(workdir), base


def test_a_run_scores_a_corpus_once(finished, monkeypatch):
    workdir, base = finished
    out = scoring.score_run(workdir, scoring.find_run(workdir, base.id), "code", "validation", chunk=8)
    assert out == workdir.scores("code", "validation", base.id, 8)
    store = TokenStore.open(workdir.store("code", "validation"))
    rows = scores.read(out).groupby("document")[["tokens", "nats"]].sum()
    np.testing.assert_array_equal(rows["tokens"], np.diff(store.offsets) - 1)
    # Random tokens, of which a model this small has learned the range: about log 30 nats each.
    assert rows["nats"].sum() / rows["tokens"].sum() == pytest.approx(np.log(30), abs=0.4)
    assert scores.meta(out)["model"] == {"run": base.id, "tokens": base.tokens}
    monkeypatch.setattr(scoring_chunks._Scorer, "nats", lambda *args: pytest.fail("it is there"))
    scoring.score_run(workdir, base, "code", "validation", chunk=8)


def test_runs_that_cannot_score_are_named(workdir, runs):
    with pytest.raises(UserError, match=r"no run 'nothing'; there are none"):
        scoring.find_run(Workdir(workdir), "nothing")
    with pytest.raises(UserError, match="the run is pending; finish it first"):
        scoring.load_run(scoring.RunDir(workdir, runs[0]))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"id": "x"}', '{"nonsense": 1}', "\x00"])
def test_a_damaged_run_is_named(workdir, text):
    path = Workdir(workdir).run("x") / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=r"x/run\.json: damaged"):
        scoring.find_run(Workdir(workdir), "x")
