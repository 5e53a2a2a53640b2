"""A grid ends with the same table however often, and however rudely, it was interrupted."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
from tiny_runs import longer, stopping, telling

from cptlaw.errors import UserError
from cptlaw.execution import rundir, sweep, worker
from cptlaw.execution.rundir import RunDir

# What a sweep in a process of its own needs, to be killed or to compete.
SWEEP = """
import json, sys
from cptlaw.execution import sweep
from cptlaw.execution.run import Run
runs = [Run.of(fields) for fields in json.load(open(sys.argv[2]))]
sweep.sweep(runs, sys.argv[1], workers=1, checkpoint_seconds=0.5, progress=False)
"""


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Workers are processes of their own, and eight forced devices make a tiny step thirty times slower."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture
def started():
    processes = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start_sweep(runs, workdir, tmp_path, started):
    plan = tmp_path / "runs.json"
    plan.write_text(json.dumps([dataclasses.asdict(run) for run in runs]))
    process = subprocess.Popen([sys.executable, "-c", SWEEP, str(workdir), str(plan)])
    started.append(process)
    return process


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def test_a_sweep_measures_every_run_and_the_base_model_before_it(runs, workdir):
    summary = sweep.sweep(runs, workdir, workers=2, progress=False)
    assert summary.failed == {} and set(summary.finished) == {run.id for run in runs}
    table = sweep.collect(runs, workdir)
    mixes = [run.id for run in runs if run.init]
    assert list(table["run"].unique()) == mixes
    assert table.groupby("run").size().tolist() == [6] * 3  # tokens 0, 128, 256 on two corpora
    assert table["tokens"].drop_duplicates().tolist() == [0, 128, 256]
    assert table[["w_prose", "w_code"]].sum(axis=1).eq(1).all()
    before = table[table["tokens"] == 0].groupby(["model", "eval"])["loss"].nunique()
    assert before.eq(1).all(), "all runs of a size start from one base model"
    assert dict(zip(table["run"], table["base"])) == {run.id: run.init for run in runs if run.init}
    assert table["lr_sum"].gt(0).sum() == 12 and table["pretrain_tokens"].eq(256).all()
    assert not any(RunDir(workdir, run).checkpoints.exists() for run in runs if run.init)
    # Again is free, and changes nothing.
    assert sweep.sweep(runs, workdir, workers=2, progress=False) == summary


def test_as_listed_a_base_waits_for_the_first_run_that_starts_from_it(runs):
    large, small, one, two, three = runs
    assert worker.in_turn(runs, True) == [large, one, small, two, three]
    assert worker.in_turn([small, three, two], True) == [small, three, two]
    assert worker.in_turn([three, large], True) == [three, large], "a base that is trained already is none of ours"
    assert worker.in_turn(runs, False)[:2] == [large, small]


def test_rows_of_its_own_corpora_alone_have_the_shares_of_all(runs, workdir):
    base, mix = runs[1], dataclasses.replace(runs[4], id="own", evals=("code",), shares={"code": 1.0})
    both = dataclasses.replace(runs[4], id="both")
    for run in (base, both, mix):
        assert worker.train_run(run, workdir)
    table = sweep.collect([both, mix], workdir)
    assert table["eval"].tolist() == ["prose", "code"] * 3 + ["code"] * 3
    assert table[["w_prose", "w_code"]].drop_duplicates().to_numpy().tolist() == [[0.5, 0.5], [0.0, 1.0]]
    assert table["unique_tokens_prose"].nunique() == 1 and table["unique_tokens_prose"].dtype == int


def test_a_run_continues_where_it_was_asked_to_stop(runs, workdir, forget):
    _, mix = both = longer([runs[1], runs[3]], 60)
    for run in both:
        assert worker.train_run(run, workdir)
    whole = sweep.collect(both, workdir)
    forget([mix])

    seen = []
    with pytest.raises(worker.Stopped):
        worker.train_run(mix, workdir, stopping(seen))
    assert RunDir(workdir, mix).state() == rundir.RESUMABLE
    resumed = []
    assert worker.train_run(mix, workdir, telling(resumed))
    assert resumed[1] > seen[-2], "it did not start over"
    pd.testing.assert_frame_equal(sweep.collect(both, workdir), whole)


@pytest.mark.slow
def test_killed_at_a_random_moment_it_ends_with_the_same_table(runs, workdir, tmp_path, started, forget):
    mixed = longer([runs[1], runs[3]], 1200)
    process = start_sweep(mixed, workdir, tmp_path, started)
    wait_for(lambda: RunDir(workdir, mixed[1]).rows())
    process.send_signal(signal.SIGKILL)
    process.wait()
    # Its worker sees the pipe close, and lets go of what it holds.
    wait_for(lambda: rundir.RUNNING not in [RunDir(workdir, run).state() for run in mixed])
    assert any(RunDir(workdir, run).result() is None for run in mixed), "the kill came too late to test anything"
    sweep.sweep(mixed, workdir, workers=1, progress=False)
    table = sweep.collect(mixed, workdir)

    forget(mixed)
    sweep.sweep(mixed, workdir, workers=1, progress=False)
    pd.testing.assert_frame_equal(table, sweep.collect(mixed, workdir))


def test_a_killed_worker_is_replaced_and_its_run_goes_on(runs, workdir, forget):
    base, mix = both = longer([runs[1], runs[3]], 1200)
    options = {"workers": 2, "checkpoint_seconds": 0.2, "progress": False}
    done = threading.Thread(target=lambda: sweep.sweep(both, workdir, **options))
    done.start()
    directory = RunDir(workdir, mix)
    wait_for(lambda: any(p.name.isdigit() for p in directory.checkpoints.glob("*")))
    os.kill(int(directory.holder().split()[1]), signal.SIGKILL)
    done.join(timeout=120)
    assert directory.state() == rundir.FINISHED
    (attempt,) = (directory.path / "attempts.jsonl").read_text().splitlines()
    assert "killed (signal 9)" in json.loads(attempt)["reason"]
    interrupted = sweep.collect(both, workdir)
    forget([mix])
    (directory.path / "attempts.jsonl").unlink(missing_ok=True)
    sweep.sweep(both, workdir, **options)
    pd.testing.assert_frame_equal(interrupted, sweep.collect(both, workdir))
    assert RunDir(workdir, base).state() == rundir.FINISHED


def test_a_sweep_that_goes_away_at_a_log_step_fails_no_run(runs, workdir, monkeypatch):
    """The worker's pipe breaks while it tells how far it is: it saves and leaves, and the run is resumable."""
    (base,) = longer([runs[1]], 60)
    plan = workdir / "plan.json"
    plan.write_text(
        json.dumps(
            {
                "workdir": str(workdir),
                "together": 1,
                "listed": False,
                "checkpoint_seconds": 60.0,
                "monitor": {},
                "runs": [dataclasses.asdict(base)],
            }
        )
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "cptlaw.execution.worker", str(plan), "0/1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    process.stdin.close()
    assert RunDir(workdir, base).state() in (rundir.PENDING, rundir.RESUMABLE)


@pytest.mark.slow
def test_a_sigterm_to_a_worker_saves_and_another_goes_on(runs, workdir, forget):
    """As systemd and some clusters send it: to every process of the job, not to the sweep alone."""
    both = longer([runs[1], runs[3]], 1200)
    done = threading.Thread(target=lambda: sweep.sweep(both, workdir, workers=1, progress=False))
    done.start()
    directory = RunDir(workdir, both[1])
    wait_for(lambda: directory.rows())
    first = directory.holder()
    os.kill(int(first.split()[1]), signal.SIGTERM)
    wait_for(lambda: directory.newest_step() > 0)
    done.join(timeout=120)
    assert directory.state() == rundir.FINISHED and not directory.has_died() and directory.holder() != first
    interrupted = sweep.collect(both, workdir)
    forget(both[1:])
    sweep.sweep(both, workdir, workers=1, progress=False)
    pd.testing.assert_frame_equal(interrupted, sweep.collect(both, workdir))


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_worker_that_is_killed_while_it_starts_is_started_again(runs, workdir, monkeypatch, deaths):
    start, started = subprocess.Popen, []

    def dying(command, **options):
        if "cptlaw.execution.worker" in command:
            started.append(command)
            if len(started) <= deaths:
                command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
        return start(command, **options)

    monkeypatch.setattr(subprocess, "Popen", dying)
    if deaths < sweep.STARTS:
        assert sweep.sweep([runs[1]], workdir, workers=1, progress=False).finished == (runs[1].id,)
    else:
        with pytest.raises(UserError, match=r"died before it took a run: its process was killed \(signal 9\)"):
            sweep.sweep([runs[1]], workdir, workers=1, progress=False)
    assert len(started) == 3


def test_rows_that_were_changed_after_a_run_has_ended_are_found(runs, workdir):
    base, mix = runs[1], runs[3]
    assert worker.train_run(base, workdir) and worker.train_run(mix, workdir)
    path = RunDir(workdir, mix).rows_path
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    digit = whole.index('"loss": ') + len('"loss": 3.')
    for changed in ("".join(lines[:-1]), "".join(lines[1:]), whole[:digit] + "123" + whole[digit + 3 :]):
        path.write_text(changed)
        with pytest.raises(UserError, match=r"rows\.jsonl: damaged: \d rows, which are not the 6 that"):
            sweep.collect([base, mix], workdir)
    path.write_text(whole.replace('"step"', '"stop"', 1))
    with pytest.raises(UserError, match=r"rows\.jsonl: line 1: damaged: no field 'step'"):
        sweep.collect([base, mix], workdir)
    path.write_text(whole)
    assert len(sweep.collect([base, mix], workdir)) == 6


@pytest.mark.parametrize(
    "text, says",
    [
        ('{"state": "finished", "spent": {}', "not JSON"),
        ('{"state": "finsihed", "spent": {}, "losses": []}', "field 'state' is 'finsihed'"),
        ('{"state": "finished", "losses": []}', "no field 'spent'"),
        ('{"state": "finished", "spent": {}, "losses": [1]}', "field 'losses' has '1'"),
        ('{"state": "failed"}', "no field 'reason'"),
        ('{"state": "failed", "reason": "x", "seal": "y"}', "do not agree with their hash"),
    ],
)
def test_a_damaged_result_is_named(runs, workdir, text, says):
    path = RunDir(workdir, runs[0]).path / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=rf"result\.json: damaged: .*{says}|result\.json: damaged: {says}"):
        RunDir(workdir, runs[0]).state()


def test_a_damaged_run_is_named(runs, workdir):
    directory = RunDir(workdir, runs[0])
    with directory.claim():
        pass
    assert rundir.read_run(directory.path) == runs[0]
    fields = json.loads((directory.path / "run.json").read_text())
    fields = {name: value for name, value in fields.items() if not name.startswith("seal")}
    for change, says in [
        ({"phase": {}}, "not the fields of a run"),
        ({"evals": 3}, "not the fields of a run"),
        ({"colour": "red"}, "not the fields of a run"),
        ({"id": "other"}, "field 'id' is 'other', not the directory's name"),
    ]:
        (directory.path / "run.json").write_text(json.dumps({**fields, **change}))
        with pytest.raises(UserError, match=rf"run\.json: damaged: {says}"):
            rundir.read_run(directory.path)


def test_a_run_that_has_ended_is_not_looked_at_again(runs, workdir, monkeypatch):
    directories = {run.id: RunDir(workdir, run) for run in runs}
    directories[runs[0].id].fail("it broke")
    left = sweep._still_left(set(directories), directories)
    assert left == {run.id for run in runs[1:]}
    asked, real = [], RunDir.has_ended
    monkeypatch.setattr(RunDir, "has_ended", lambda self: asked.append(self.run.id) or real(self))
    assert sweep._still_left(left, directories) == left == set(asked)


def test_a_damaged_token_store_stops_the_sweep_before_it_starts(runs, workdir):
    path = workdir / "data" / "code" / "train" / "tokens.bin"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"data/code/train: damaged token store \(tokens\.bin does not agree"):
        sweep.sweep(runs, workdir, workers=1, progress=False)
    assert not (workdir / "plans").exists()


def test_a_run_whose_checkpoints_are_all_damaged_starts_over(runs, workdir):
    (base,) = longer([runs[1]], 60)
    seen = []
    with pytest.raises(worker.Stopped):
        worker.train_run(base, workdir, stopping(seen))
    for file in RunDir(workdir, base).checkpoints.rglob("*"):
        if file.is_file():
            file.write_bytes(b"rubbish")
    assert worker.train_run(base, workdir)
    assert RunDir(workdir, base).state() == rundir.FINISHED


def test_a_run_that_fails_keeps_its_checkpoints_and_goes_on_from_them(runs, workdir, monkeypatch):
    (base,) = longer([runs[1]], 60)
    directory, seen = RunDir(workdir, base), []
    with pytest.raises(worker.Stopped):
        worker.train_run(base, workdir, stopping(seen))
    with monkeypatch.context() as broken:
        broken.setattr("cptlaw.data.batches.TrainBatches.__init__", lambda *_, **__: 1 / 0)
        worker.train_run(base, workdir)
    assert directory.result()["reason"] == "ZeroDivisionError: division by zero"
    directory.retry()
    resumed = []
    assert worker.train_run(base, workdir, telling(resumed))
    assert resumed[1] > seen[-2] and directory.state() == rundir.FINISHED


def test_a_loss_that_is_no_number_fails_the_run(runs, workdir, monkeypatch):
    monkeypatch.setattr("cptlaw.scoring.evaluate.Scores.loss", float("nan"))
    worker.train_run(runs[1], workdir)
    assert "loss is nan after step" in RunDir(workdir, runs[1]).result()["reason"]


def test_a_run_that_always_kills_its_process_is_failed(runs, workdir):
    directory = RunDir(workdir, runs[0])
    assert [directory.died("killed") for _ in range(rundir.MAX_ATTEMPTS)] == [False, False, True]
    assert directory.state() == rundir.FAILED
    assert directory.result()["reason"] == "killed, 3 times"
    directory.retry()
    assert directory.state() == rundir.PENDING


def test_a_run_that_comes_further_may_die_as_often_as_it_likes(runs, workdir):
    directory = RunDir(workdir, runs[0])
    for step in (10, 20, 30):
        (directory.checkpoints / str(step)).mkdir(parents=True)
        assert not any(directory.died("killed") for _ in range(rundir.MAX_ATTEMPTS - 1))
    assert directory.died("killed") and directory.result()["reason"] == "killed, 3 times since step 30"


def test_a_run_that_another_process_has_taken_up_is_not_failed_under_its_hands(runs, workdir):
    directory = RunDir(workdir, runs[0])
    with directory.claim():
        assert not any(directory.died("killed") for _ in range(rundir.MAX_ATTEMPTS))
        assert directory.state() == rundir.RUNNING
    assert directory.died("killed") and directory.state() == rundir.FAILED


def test_two_sweeps_on_one_grid_share_it(runs, workdir, tmp_path, started):
    long_runs = longer(runs, 300)
    both = [start_sweep(long_runs, workdir, tmp_path, started) for _ in range(2)]
    assert [process.wait(timeout=240) for process in both] == [0, 0]
    for run in long_runs:
        lines = RunDir(workdir, run).rows_path.read_text().splitlines()
        assert len(lines) == (6 if run.init else 4), "every run was trained once"
    sweep.collect(long_runs, workdir)


def test_a_failed_run_says_why_and_stops_no_other(runs, workdir):
    explosive = dataclasses.replace(runs[3], id="explosive", phase=dataclasses.replace(runs[3].phase, peak_lr=1e30))
    unreadable = dataclasses.replace(runs[4], id="unreadable", shares={"prose": 0.5, "law": 0.5})
    orphan = dataclasses.replace(runs[2], id="orphan", init="unreadable")
    summary = sweep.sweep([runs[1], explosive, unreadable, orphan, runs[3]], workdir, workers=1, progress=False)
    assert set(summary.finished) == {runs[1].id, runs[3].id}
    assert "not finite" in summary.failed["explosive"] and "learning rate" in summary.failed["explosive"]
    assert "data/law/train" in summary.failed["unreadable"]
    assert summary.failed["orphan"].startswith("its base run unreadable failed: ")
    assert "Traceback" in (RunDir(workdir, unreadable).path / "error.txt").read_text()


def test_nothing_to_collect_says_what_to_do(runs, workdir):
    with pytest.raises(UserError, match="no finished run to collect; run the sweep first"):
        sweep.collect(runs, workdir)


def test_a_torn_or_repeated_row_counts_once(runs, workdir):
    directory = RunDir(workdir, runs[0])
    row = {"step": 1, "eval": "code", "loss": 2.0}
    directory.add([row, row])
    with directory.rows_path.open("a") as file:
        file.write('{"step": 2, "eval"')
    assert directory.rows() == [row]
