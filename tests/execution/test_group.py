"""Runs that share a program leave behind what they would have left alone, however they are interrupted."""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
import types

import pandas as pd
import pytest

from cptlaw.execution import group, job, rundir, sweep, worker
from cptlaw.execution.run import Conditions, Monitor
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir
from cptlaw.fields import ConfigError
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid, prepared
from cptlaw.training import checkpoints

OPTIONS = {"monitor": Monitor(log_steps=1)}


@pytest.fixture
def one_device(monkeypatch):
    """For workers, which are processes of their own: eight forced devices make a tiny step thirty times slower."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture
def mixes(runs, make_runs):
    """A base of 4 steps, and four mixes from it."""
    return make_runs(4)


@pytest.fixture
def make_runs(make_config):
    def make(steps, peak_lr=1e-2):
        shares = {"domain_shares": (0.0, 0.25, 0.5, 1.0)}
        tokens = 64 * steps
        settings = config_lib.parse(
            make_config(
                grid={"small": shares},
                held_out__size="small",
                cpt__tokens=tokens,
                cpt__peak_lr=peak_lr,
                eval_tokens=(tokens // 2, tokens),
                # A large eps, because Adam's step for a gradient near zero is as large as for any other.
                optimizer={"eps": 1e-3, "ema": 0.5},
            )
        )
        base, *mixes = grid.plan(settings, 32, {"prose": "p", "code": "c"})
        assert len(mixes) == 4
        return base, mixes

    return make


def train_alone(runs, workdir):
    for run in runs:
        assert worker.train_run(run, workdir, Conditions(**OPTIONS))


def train_together(runs, workdir, most=8, progress=lambda *_: None, should_stop=lambda: False, **options):
    conditions = Conditions(progress=progress, should_stop=should_stop, **{**OPTIONS, **options})
    return group.train_group(runs, workdir, most, conditions)


def metrics(run, workdir):
    return pd.read_json(RunDir(workdir, run).path / "metrics.jsonl", lines=True)


def states(runs, workdir):
    return [RunDir(workdir, run).state() for run in runs]


def assert_same(table, other):
    # A standard error is a sum of differences, which cancel.
    columns = {"loss_se": 1e-3, "grad_norm": 1e-4}
    for column in table.columns.union(other.columns):
        pd.testing.assert_series_equal(table[column], other[column], rtol=columns.get(column, 1e-5))


def assert_rows_of_both_kinds(table):
    """Of the weights and of their average, which before the first step are the same."""
    weights, average = (table[table["ema"] == ema].reset_index(drop=True) for ema in (0.0, 0.5))
    pd.testing.assert_frame_equal(
        weights.drop(columns=["loss", "loss_se", "ema"]), average[weights.columns.drop(["loss", "loss_se", "ema"])]
    )
    before = weights["tokens"] == 0
    assert 0 < before.sum() < len(table) / 2
    assert (weights["loss"] == average["loss"]).equals(before)


def test_a_sweep_leaves_the_same_with_runs_together(mixes, workdir, one_device, forget):
    base, others = mixes
    sweep.sweep([base, *others], workdir, workers=1, monitor=OPTIONS["monitor"], progress=False)
    alone = sweep.collect(others, workdir)
    assert_rows_of_both_kinds(alone)
    logged = [metrics(run, workdir) for run in others]
    files = [sorted(path.name for path in RunDir(workdir, run).path.iterdir()) for run in others]
    forget([base, *others])
    for run in others:
        (RunDir(workdir, run).path / "metrics.jsonl").unlink()

    summary = sweep.sweep([base, *others], workdir, workers=1, together=3, monitor=OPTIONS["monitor"], progress=False)
    assert summary.failed == {} and set(summary.finished) == {run.id for run in (base, *others)}
    assert_same(sweep.collect(others, workdir), alone)
    for run, before in zip(others, logged):
        columns = ["step", "tokens", "lr", "loss", "grad_norm"]
        assert_same(metrics(run, workdir)[columns], before[columns])
    assert [sorted(path.name for path in RunDir(workdir, run).path.iterdir()) for run in others] == files


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for wandb with what each run was told. As there, a run ends the last one unless it is a new one."""

    class Run:
        def __init__(self, name):
            self.name, self.records, self.open = name, [], True

        def log(self, values, step):
            assert self.open, f"{self.name} has ended"
            self.records.append({"step": step, **values})

        def finish(self):
            self.open = False

    def init(reinit="finish_previous", *, name, **_):
        for run in made if reinit != "create_new" else ():
            run.finish()
        made.append(Run(name))
        return made[-1]

    made = []
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    return made


def test_many_devices_train_whole_runs_and_each_is_told_of(mixes, workdir, forget, wandb):
    base, others = mixes
    train_alone([base, *others], workdir)
    alone = sweep.collect(others, workdir)
    forget(others)
    seen = []
    assert train_together(
        others,
        workdir,
        progress=lambda runs, run, tokens: seen.append((len(runs), run.id, tokens)),
        monitor=Monitor(log_steps=1, writers=("wandb",)),
    )
    assert_same(sweep.collect(others, workdir), alone)
    assert seen == [(4, run.id, tokens) for tokens in range(0, 320, 64) for run in others]
    assert [told.name for told in wandb] == [run.id for run in others] and not any(told.open for told in wandb)
    for run, told in zip(others, wandb):
        lines = (RunDir(workdir, run).path / "metrics.jsonl").read_text().splitlines()
        assert told.records == [json.loads(line) for line in lines] and len(lines) == 4


@pytest.mark.parametrize("most", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_stopped_together_they_go_on_together_or_alone(make_runs, workdir, most, forget):
    base, others = make_runs(20)
    train_alone([base, *others], workdir)
    alone = sweep.collect(others, workdir)
    logged = [metrics(run, workdir)["step"].tolist() for run in others]
    forget(others)

    seen = []
    with pytest.raises(job.Stopped):
        train_together(others, workdir, progress=lambda *told: seen.append(told), should_stop=lambda: len(seen) > 40)
    assert states(others, workdir) == [rundir.RESUMABLE] * 4
    resumed = []
    if most > 1:
        assert train_together(others, workdir, progress=lambda runs, run, tokens: resumed.append(tokens))
    else:
        for run in others:
            assert not train_together([run], workdir)
            conditions = Conditions(progress=lambda runs, run, tokens: resumed.append(tokens), **OPTIONS)
            assert worker.train_run(run, workdir, conditions)
    assert min(tokens for tokens in resumed if tokens) > 5 * 64, "they did not start over"
    assert_same(sweep.collect(others, workdir), alone)
    assert [metrics(run, workdir)["step"].tolist() for run in others] == logged
    assert not any(RunDir(workdir, run).checkpoints.exists() for run in others)


def test_only_what_goes_on_from_the_same_step_goes_on_together(make_runs, workdir):
    base, others = make_runs(20)
    train_alone([base], workdir)
    seen = []
    with pytest.raises(job.Stopped):
        stopping = Conditions(progress=lambda *told: seen.append(told), should_stop=lambda: len(seen) > 5, **OPTIONS)
        worker.train_run(others[1], workdir, stopping)
    trained = []
    assert train_together(others, workdir, progress=lambda runs, *_: trained.append([run.id for run in runs]))
    assert trained[0] == [others[0].id, others[2].id, others[3].id]
    assert states(others, workdir)[1] == rundir.RESUMABLE


def test_one_that_diverges_fails_alone(mixes, workdir):
    base, others = mixes
    wild = dataclasses.replace(others[1], phase=dataclasses.replace(others[1].phase, peak_lr=1e30))
    train_alone([base], workdir)
    assert train_together([others[0], wild, *others[2:]], workdir)
    assert states([others[0], wild, *others[2:]], workdir) == ["finished", "failed", "finished", "finished"]
    assert "not finite" in RunDir(workdir, wild).result()["reason"]


def test_what_fails_together_is_trained_one_at_a_time(mixes, workdir, one_device, capsys):
    base, others = mixes
    unreadable = dataclasses.replace(others[1], id="unreadable", shares={"prose": 0.5, "law": 0.5})
    everything = [base, others[0], unreadable, *others[2:]]
    summary = sweep.sweep(everything, workdir, workers=1, together=8, progress=False)
    assert list(summary.failed) == ["unreadable"] and "data/law/train" in summary.failed["unreadable"]
    assert set(summary.finished) == {run.id for run in everything if run is not unreadable}
    assert "4 runs are trained one at a time, since together they failed: " in capsys.readouterr().err


def test_trunks_train_together_and_so_do_their_branches(make_config, workdir, forget):
    config = make_config(
        grid={"small": {"domain_shares": (0.0, 0.5, 1.0)}}, held_out__size="small", cpt__branch_cooldown=0.5,
        optimizer={"eps": 1e-3},
    )  # fmt: skip
    base, *rest = grid.plan(config_lib.parse(config), 32, {"prose": "p", "code": "c"})
    trunks = [run for run in rest if run.keep_tokens]
    lengths = [[run for run in rest if run.trunk and run.tokens == tokens] for tokens in (128, 256)]
    train_alone([base, *trunks, *lengths[0], *lengths[1]], workdir)
    alone = sweep.collect(rest, workdir)
    forget([run for run in rest if run.trunk])
    for run in trunks:
        RunDir(workdir, run).retry()
        RunDir(workdir, run).drop_checkpoints()
    told = []
    for part in (trunks, *lengths):
        assert train_together(part, workdir, progress=lambda runs, run, tokens: told.append((len(runs), tokens)))
        assert states(part, workdir) == [rundir.FINISHED] * 3
    assert set(told) == {(3, 0), (3, 64), (3, 128)}, "a branch counts its own tokens"
    assert {int(path.name) for path in RunDir(workdir, trunks[0]).checkpoints.iterdir()} == {1, 2}
    assert_same(sweep.collect(rest, workdir), alone)


def test_a_corpus_that_few_are_evaluated_on_is_scored_for_them_alone(mixes, workdir, forget):
    base, others = mixes
    own = [
        dataclasses.replace(run, evals=("prose", "code") if run.shares.get("code") == 1 else ("prose",))
        for run in others
    ]
    train_alone([base, *own], workdir)
    alone = sweep.collect(own, workdir)
    forget(own)
    assert train_together(own, workdir)
    assert_same(sweep.collect(own, workdir), alone)


def test_a_worker_takes_its_part_and_fewer_where_memory_is_short(mixes, workdir, monkeypatch):
    """Of four runs two workers take two each; what does not fit is tried with half as many, and then alone."""
    base, others = mixes
    train_alone([base], workdir)
    tried, notes, real = [], [], group.train_group

    def short(runs, workdir, most, conditions):
        tried.append((len(runs), most))
        if most > 2:
            raise group.Failed([run.id for run in runs], RuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
        return real(runs, workdir, most, conditions)

    monkeypatch.setattr(group, "train_group", short)
    taking = worker._Worker(others, Workdir(workdir), 8, 2, Conditions(**OPTIONS), lambda **said: notes.append(said))
    assert taking.take(others[0])
    assert tried == [(4, 2)] and states(others, workdir).count(rundir.FINISHED) == 2
    for run in others[:2]:
        RunDir(workdir, run).retry()
    taking = worker._Worker(others, Workdir(workdir), 8, 1, Conditions(**OPTIONS), lambda **said: notes.append(said))
    assert taking.take(others[0])
    assert tried[1:] == [(4, 4), (4, 2)] and "are trained 2 at a time, since together" in notes[0]["note"]


@pytest.mark.slow
def test_runs_whose_process_was_killed_go_on_alone(make_runs, workdir, one_device, forget):
    base, others = make_runs(1200, peak_lr=1e-4)  # so small that rounding stays so
    options = {"workers": 1, "checkpoint_seconds": 0.2, "progress": False}
    done = threading.Thread(target=lambda: sweep.sweep([base, *others], workdir, together=8, **options))
    done.start()
    directories = [RunDir(workdir, run) for run in others]
    deadline = time.monotonic() + 120
    while not all(any(p.name.isdigit() for p in d.checkpoints.glob("*")) for d in directories):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    (killed,) = {directory.holder() for directory in directories}
    os.kill(int(killed.split()[1]), signal.SIGKILL)
    done.join(timeout=240)
    for directory in directories:
        assert directory.state() == rundir.FINISHED
        (attempt,) = (directory.path / "attempts.jsonl").read_text().splitlines()
        assert "killed (signal 9), as" in json.loads(attempt)["reason"]
        assert json.loads(attempt)["reason"].endswith("together with 3 other runs")
        assert directory.holder() != killed
    interrupted = sweep.collect(others, workdir)
    forget(others)
    sweep.sweep(others, workdir, together=1, **options)
    assert_same(interrupted, sweep.collect(others, workdir))


def test_a_run_that_has_died_or_is_another_process_s_joins_no_program(mixes, workdir):
    base, others = mixes
    train_alone([base], workdir)
    RunDir(workdir, others[0]).died("killed")
    assert not train_together(others, workdir), "the first is to be trained alone"
    with RunDir(workdir, others[2]).claim():
        trained = []
        assert train_together(others[1:], workdir, progress=lambda runs, *_: trained.append([r.id for r in runs]))
    assert trained[0] == [others[1].id, others[3].id]
    assert states(others, workdir) == [rundir.PENDING, rundir.FINISHED, rundir.PENDING, rundir.FINISHED]
    assert not train_together(others[2:3], workdir)


def test_what_may_share_a_program(mixes):
    _, (run, other, *_) = mixes
    assert group.program(run) == group.program(other) is not None
    later = dataclasses.replace(run, phase=dataclasses.replace(run.phase, peak_lr=1e-3), seed=7)
    assert group.program(later) == group.program(run)
    for change in (
        {"phase": dataclasses.replace(run.phase, tokens=512)},
        {"eval_tokens": (64, 256)},
        {"batch_size": 4},
        {"microbatches": 2},
        {"optimizer": {}},
        {"model": {**run.model, "layers": 2}},
    ):
        assert group.program(dataclasses.replace(run, **change)) not in (None, group.program(run))
    for change in ({"trunk": "trunk"}, {"keep_tokens": (64,)}):
        changed, same = (dataclasses.replace(r, **change) for r in (run, other))
        assert group.program(changed) == group.program(same) not in (None, group.program(run))
    for change in ({"mesh": {"data": -1}}, {"weights": "folder"}):
        assert group.program(dataclasses.replace(run, **change)) is None


def test_how_many_train_together_is_about_no_run(make_config, workdir):
    one, many = (config_lib.parse(make_config(together=count)) for count in (1, 8))
    data = {"prose": "p", "code": "c"}
    assert grid.plan(one, 32, data) == grid.plan(many, 32, data)
    prepared.claim_workdir(one, Workdir(workdir), False)
    prepared.claim_workdir(many, Workdir(workdir), False)
    # A workdir of before there was the field.
    saved = json.loads((workdir / "config.json").read_text())
    del saved["together"]
    (workdir / "config.json").write_text(json.dumps(saved))
    prepared.claim_workdir(many, Workdir(workdir), False)


def test_a_bad_number_is_named(make_config):
    with pytest.raises(ConfigError, match=r"config\.together: must be at least 0, not -1"):
        config_lib.parse(make_config(together=-1))


def test_a_run_whose_checkpoints_cannot_be_listed_is_left_to_fail_alone(mixes, workdir, monkeypatch):
    base, others = mixes
    train_alone([base], workdir)
    bad, real = RunDir(workdir, others[1]).checkpoints, checkpoints.saved_steps

    def saved_steps(directory):
        if directory == bad:
            raise OSError(5, "Input/output error")
        return real(directory)

    monkeypatch.setattr(checkpoints, "saved_steps", saved_steps)
    assert not train_together(others[1:], workdir)
    assert train_together(others, workdir)
    assert states(others, workdir) == [rundir.FINISHED, rundir.PENDING, rundir.FINISHED, rundir.FINISHED]
