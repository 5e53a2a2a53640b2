"""A table stands for the runs of which it holds all rows."""

import shutil

import pandas as pd
import pytest

from cptlaw.errors import UserError
from cptlaw.execution import known, sweep, worker
from cptlaw.execution.rundir import RunDir
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid

DATA = {"prose": "p", "code": "c"}


@pytest.fixture
def whole(runs, workdir):
    """The table of the tiny study, whose runs are lost afterwards."""
    for run in runs:
        assert worker.train_run(run, workdir)
    table = sweep.collect(runs, workdir)
    shutil.rmtree(workdir / "runs")
    return table


def test_only_what_is_missing_is_trained_and_the_table_is_the_same(runs, whole, workdir):
    assert known.left(runs, whole) == []
    pd.testing.assert_frame_equal(sweep.collect(runs, workdir, whole), whole)
    _, small, _, two, three = runs
    torn = whole[(whole["run"] != two.id) | (whole["tokens"] < 256)]
    left = known.left(runs, torn)
    assert left == [small, two], "its base too, and no other"
    for run in left:
        assert worker.train_run(run, workdir)
    pd.testing.assert_frame_equal(sweep.collect(runs, workdir, torn).astype(whole.dtypes), whole)
    assert not RunDir(workdir, three).path.exists()


def test_rows_of_another_config_are_no_rows_of_this_one(runs, whole, workdir):
    other = whole.assign(run=whole["run"] + "x")
    assert known.left(runs, other) == runs
    assert sweep.collect(runs, workdir, pd.concat([whole, other])).equals(whole)


def test_one_missing_evaluation_makes_a_run_missing(runs, whole):
    for gone in [("prose", 0), ("code", 128)]:
        torn = whole[(whole["run"] != runs[4].id) | (whole["eval"] != gone[0]) | (whole["tokens"] != gone[1])]
        assert known.left(runs, torn) == [runs[1], runs[4]]
    with pytest.raises(UserError, match="has no column eval"):
        known.left(runs, whole.drop(columns="eval"))


def test_rows_of_the_weights_are_not_those_of_their_average(make_config):
    settings = config_lib.parse(
        make_config(optimizer={"ema": 0.9}, grid={"small": {"domain_shares": (0.5,)}}, held_out__size="small")
    )
    runs = grid.plan(settings, 32, DATA)
    rows = [(runs[1].id, tokens, corpus, 1.0) for tokens in (0, 128, 256) for corpus in ("prose", "code")]
    table = pd.DataFrame(rows, columns=["run", "tokens", "eval", "loss"])
    assert known.left(runs, table) == runs
    whole = pd.concat([table.assign(ema=0.0), table.assign(ema=0.9)])
    assert known.left(runs, whole) == []
    pd.testing.assert_frame_equal(known.merged(runs, whole[whole["ema"] == 0], whole), whole.reset_index(drop=True))


def test_a_missing_branch_needs_its_trunk_and_the_trunk_no_rows_of_its_own(make_config):
    study = config_lib.parse(make_config(cpt__branch_cooldown=0.5))
    base, trunk, short, long = [run for run in grid.plan(study, 32, DATA) if run.size == "small"][:4]
    rows = [(trunk.id, tokens, corpus, 1.0) for tokens in (0, 128, 256) for corpus in ("prose", "code")]
    table = pd.DataFrame(rows, columns=["run", "tokens", "eval", "loss"])
    runs = [base, trunk, short, long]
    assert known.left(runs, table) == []
    assert known.left(runs, table[table["tokens"] < 256]) == [base, trunk, long]
