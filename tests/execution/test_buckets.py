"""Runs in a bucket leave what they leave on a disk."""

import os
import shutil
import signal
import subprocess
import sys
import uuid

import pandas as pd
import pytest
from obstore.store import MemoryStore
from tiny_runs import longer, stopping, telling

from benchmarks import servers
from cptlaw.errors import UserError
from cptlaw.execution import rundir, sweep, worker
from cptlaw.execution.job import DiskFull
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir
from cptlaw.storage import claims
from cptlaw.storage.bucket import Bucket, StorageError
from cptlaw.studies import scoring


@pytest.fixture
def in_memory(workdir, tmp_path_factory, monkeypatch):
    """The same workdir as a place in a bucket, its token stores published."""
    bucket = Bucket(f"s3://memory/{uuid.uuid4().hex}", MemoryStore())
    monkeypatch.setattr(Bucket, "open", staticmethod(lambda url: bucket))
    return published(workdir, bucket.url, tmp_path_factory.mktemp("cache"), monkeypatch)


def published(workdir, url, cache, monkeypatch):
    monkeypatch.setenv("CPTLAW_CACHE", str(cache))
    home = Workdir(url)
    shutil.copytree(workdir / "data", home.data)
    home.publish()
    return home


def test_a_run_is_trained_stopped_and_continued_as_on_a_disk(runs, workdir, in_memory, monkeypatch):
    base, mix = longer([runs[1], next(r for r in runs if r.init == runs[1].id)], 60)
    for home in (Workdir(workdir), in_memory):
        assert worker.train_run(base, home)
        with pytest.raises(worker.Stopped):
            worker.train_run(mix, home, stopping([]))
        directory = RunDir(home, mix)
        assert directory.state() == rundir.RESUMABLE and directory.newest_step() > 0
        if home is in_memory:  # from now on it is another machine's, and finds its token stores again
            shutil.rmtree(home.root)
            home.fetch()
        seen = []
        assert worker.train_run(mix, home, telling(seen)) and seen[1] > 64
        assert directory.state() == rundir.FINISHED and not directory.checkpoints.exists()
        assert not worker.train_run(mix, home), "it has ended"
    pd.testing.assert_frame_equal(sweep.collect([base, mix], in_memory), sweep.collect([base, mix], workdir))
    metrics = [RunDir(home, mix) for home in (workdir, in_memory)]
    steps = [pd.read_json(directory.path / "metrics.jsonl", lines=True)["step"].tolist() for directory in metrics]
    assert steps[0] == steps[1] and len(set(steps[0])) == len(steps[0])
    assert in_memory.run_ids() == sorted([base.id, mix.id])
    assert scoring.find_run(in_memory, mix.id) == mix
    with pytest.raises(UserError, match=f"{in_memory}: no run 'x'; there are .*{base.id}"):
        scoring.find_run(in_memory, "x")


def test_who_was_paused_leaves_the_run_to_its_successor(runs, in_memory, monkeypatch):
    (base,) = longer([runs[1]], 60)
    taken = []

    def pause(*told):
        if len(taken) < 1 and told[2] > 64 * 10:
            with monkeypatch.context() as silent:
                silent.setattr(claims, "LEASE", -1.0)
                silent.setattr(claims, "SOON", 0.0)
                taken.append(worker.train_run(base, in_memory))

    assert not worker.train_run(base, in_memory, worker.Conditions(progress=pause)), "it was another's by then"
    assert taken == [True]
    directory = RunDir(in_memory, base)
    assert directory.state() == rundir.FINISHED and directory.task._register.read().generation == 2
    assert directory.newest_step() == 60


def test_a_bucket_that_does_not_answer_fails_no_run(runs, in_memory, monkeypatch):
    (base,) = longer([runs[1]], 60)
    seen, put = [], Bucket.put

    def broken(self, name, data):
        if seen and seen[-1] > 64 * 20 and "checkpoints" in name:
            raise StorageError(f"{self.url}/{name}: the bucket does not answer")
        put(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put", broken)
        with pytest.raises(DiskFull, match=r"does not answer\. What was saved is kept; run the same command again"):
            worker.train_run(base, in_memory, telling(seen))
    directory = RunDir(in_memory, base)
    assert directory.result() is None and not directory.has_died()
    assert worker.train_run(base, in_memory) and directory.state() == rundir.FINISHED


def test_a_result_that_is_damaged_is_named(runs, in_memory):
    directory = RunDir(in_memory, runs[0])
    directory.fail("no reason")
    assert directory.state() == rundir.FAILED and directory.result()["reason"] == "no reason"
    Bucket.open("").put(f"runs/{runs[0].id}/state.json", b"{}")
    with pytest.raises(UserError, match=r"s3://memory/.*/runs/.*/state.json: damaged: no field"):
        directory.state()


def test_deaths_are_counted_and_forgotten(runs, in_memory):
    directory = RunDir(in_memory, runs[0])
    assert [directory.died("killed") for _ in range(rundir.MAX_ATTEMPTS)] == [False, False, True]
    assert directory.state() == rundir.FAILED and directory.has_died()
    directory.retry()
    assert directory.state() == rundir.PENDING and not directory.has_died()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_sweeps_that_are_killed_end_with_the_same_table(kind, runs, workdir, tmp_path_factory, monkeypatch):
    if servers.available(kind) is None:
        pytest.skip(f"no server for {kind}: pip install '.[servers]'")
    longs = longer(runs, 400)
    sweep.sweep(longs, workdir, progress=False)
    folder = tmp_path_factory.mktemp(kind)
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from tiny_study import minimal, VOCAB\n"
        "from tiny_runs import longer\n"
        "from cptlaw.studies import config, grid\n"
        "from cptlaw.execution import sweep\n"
        "if __name__ == '__main__':\n"
        "    runs = grid.plan(config.parse(minimal()), VOCAB, {'prose': 'p', 'code': 'c'})\n"
        "    sweep.sweep(longer(runs, 400), sys.argv[1], progress=False, checkpoint_seconds=1.0)\n"
    )
    (folder / "program.py").write_text(program)
    paths = [os.path.dirname(__file__), os.path.join(os.path.dirname(__file__), "..", "studies")]  # noqa: PTH118, PTH120
    with servers.serve(kind, folder) as environment:
        for name, value in (environment | {"CPTLAW_LEASE_SECONDS": "5"}).items():
            monkeypatch.setenv(name, value)
        url = f"{'s3' if kind == 's3' else 'gs'}://{servers.BUCKET}/study"
        home = published(workdir, url, folder / "cache", monkeypatch)
        command = [sys.executable, str(folder / "program.py"), url, *paths]
        for seconds in (14, 18, 16):
            process = subprocess.Popen(command, start_new_session=True)
            try:
                process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        subprocess.run(command, check=True)
        pd.testing.assert_frame_equal(sweep.collect(longs, home), sweep.collect(longs, workdir))
