"""A full disk stops the sweep and costs no run anything: with space freed the same command goes on."""

import dataclasses
import errno
import resource
import subprocess
import sys

import pandas as pd
import pytest
from tiny_runs import longer, stopping

from cptlaw.errors import UserError
from cptlaw.execution import job, rundir, sweep, worker
from cptlaw.execution.job import DiskFull, full_disk_stops
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.mark.parametrize(
    "place",
    [
        "cptlaw.execution.rundir.RunDir.add",
        "cptlaw.execution.rundir.RunDir.finish",
        "cptlaw.training.checkpoints.Checkpoints.save",
        "cptlaw.atomic.write_bytes",
    ],
)
def test_wherever_it_is_noticed_the_run_stays_resumable_with_its_checkpoints(runs, workdir, monkeypatch, place):
    (base,) = longer([runs[1]], 60)
    directory, seen = RunDir(workdir, base), []
    with pytest.raises(worker.Stopped):
        worker.train_run(base, workdir, stopping(seen))
    saved = sorted(path.name for path in directory.checkpoints.iterdir())

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(place, full)
        with pytest.raises(DiskFull, match=r"no space left on the disk .*free some space and run the same command"):
            worker.train_run(base, workdir)
    assert directory.state() == rundir.RESUMABLE and not directory.has_died()
    assert sorted(path.name for path in directory.checkpoints.iterdir())[-1] >= saved[-1]
    assert worker.train_run(base, workdir) and directory.state() == rundir.FINISHED


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        ValueError("RESOURCE_EXHAUSTED: Error writing local file [OS error 28: ENOSPC No space left on device]"),
        OSError(errno.EFBIG, "File too large"),
    ],
    ids=["quota", "TensorStore", "file size"],
)
def test_every_way_of_saying_so_is_understood(error):
    with pytest.raises(DiskFull), full_disk_stops(Workdir("x")):
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("a save failed") from cause


def test_other_errors_are_none_of_it():
    with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"), full_disk_stops(Workdir("x")):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 123 bytes")
    with pytest.raises(job.Stopped), full_disk_stops(Workdir("x")):
        raise job.Stopped


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
sys.argv[0] = "cptlaw.execution.worker"
runpy.run_module("cptlaw.execution.worker", run_name="__main__")
"""


def test_a_sweep_on_a_full_disk_ends_with_one_message_and_goes_on_when_there_is_space(
    runs, workdir, monkeypatch, tmp_path
):
    """Workers may write no file larger than a few bytes: the stand-in for a disk that fills up while they train."""
    base, mix = both = longer([runs[1], runs[3]], 60)
    assert worker.train_run(base, workdir)
    start = subprocess.Popen
    script = tmp_path / "limited.py"
    script.write_text(LIMITED)

    def limited(command, **options):
        if "cptlaw.execution.worker" in command:
            command = [sys.executable, str(script), "4096", *command[3:]]
        return start(command, **options)

    with monkeypatch.context() as small:
        small.setattr(subprocess, "Popen", limited)
        with pytest.raises(UserError, match=r"no space left on the disk .*run the same command again") as told:
            sweep.sweep(both, workdir, workers=1, checkpoint_seconds=0.0, progress=False)
    assert "\n" not in str(told.value)
    assert RunDir(workdir, mix).state() in (rundir.PENDING, rundir.RESUMABLE) and not RunDir(workdir, mix).has_died()
    assert sweep.sweep(both, workdir, workers=1, progress=False).failed == {}
    table = sweep.collect(both, workdir)
    alone = dataclasses.replace(mix, id="alone")
    assert worker.train_run(alone, workdir)
    columns = ["tokens", "eval", "loss"]
    pd.testing.assert_frame_equal(table[columns], sweep.collect([alone], workdir)[columns])
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096


def test_a_row_that_does_not_fit_leaves_the_table_as_it_was(tmp_path):
    from cptlaw import runs as runs_table

    path = tmp_path / "rows.jsonl"
    runs_table.append(path, [{"step": 1, "loss": 2.0}])
    before = path.read_bytes()
    program = (
        "import resource, sys; from cptlaw import runs\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 30},) * 2)\n"
        "try: runs.append(sys.argv[1], [{'step': i, 'loss': 3.0} for i in range(50)])\n"
        "except OSError as error: print(error.strerror)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert done.stdout == "File too large\n", done.stderr
    assert path.read_bytes() == before
