"""The checks pass on eight devices and on two processes, and each says what is wrong where something is."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from obstore.store import MemoryStore

from cptlaw.launching import checks
from cptlaw.storage.bucket import Bucket

ROOT = Path(__file__).parents[2]


def start(workdir, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "launch.checks", f"--workdir={workdir}", "--megabytes=1", "--disk-gb=0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    )


def test_two_processes_agree_that_all_is_well_and_on_what_is_not(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = [f"--coordinator={address}", "--processes=2", "--devices=8", "--expect-processes=3"]
    # The second process has a workdir of its own, as a host that did not mount the shared one.
    pair = [start(tmp_path / str(i), *flags, f"--process={i}") for i in range(2)]
    try:
        said = [process.communicate(timeout=400) for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [2, 2], said
    out = said[0][0]
    assert "8" in out.split("devices")[1].splitlines()[0] and "all-reduce  1 MB over 8 devices, " in out
    assert "all-reduce" not in said[1][0], "only the first process reports"
    for _, error in said:
        assert "processes: 2 processes, but 3 were asked for" in error
        assert "is not one directory for all: processes [1] do not see the first one's file" in error
        assert "all-reduce" not in error and "clocks" not in error
    assert not list(tmp_path.rglob(".check*"))


def test_eight_devices(tmp_path):
    assert checks.platform("cpu").startswith("cpu (")
    assert checks.count("devices", jax.device_count(), 8) == "8"
    assert checks.all_reduce(0.1, least=0.0).startswith("0 MB over 8 devices, ")
    assert checks.disk(tmp_path / "new", 0.0).endswith(f"GB free in {tmp_path}/new")
    assert checks.shared(tmp_path) == "one for 1 process, with locks"
    assert checks.clocks() == "0.00 seconds apart"
    assert not list(tmp_path.glob(".check*"))


def test_a_bucket_is_checked_for_what_claims_rest_on(monkeypatch):
    place = Bucket("s3://memory/x", MemoryStore())
    assert checks.bucket(place) == "one for 1 process, with conditional writes"
    assert not place.list()
    monkeypatch.setattr(Bucket, "_swap", lambda self, name, data, mode: self.put(name, data) or {"e_tag": "0"})
    with pytest.raises(checks.Problem, match="s3://memory/x: its server ignores conditional writes"):
        checks.bucket(place)


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    with pytest.raises(checks.Problem, match=r"JAX runs on cpu, but tpu was asked for: is .*jax\[tpu\] installed"):
        checks.platform("tpu")
    with pytest.raises(checks.Problem, match="8 devices, but 16 were asked for: one has not started"):
        checks.count("devices", 8, 16)
    with pytest.raises(checks.Problem, match=r"over 8 devices, .* GB/s a device, but 1e\+06 were asked for"):
        checks.all_reduce(0.1, least=1e6)
    with pytest.raises(checks.Problem, match=r"GB free in .*, but 1e\+09 were asked for"):
        checks.disk(tmp_path, 1e9)
    (tmp_path / "file").touch()
    with pytest.raises(checks.Problem, match=r"file cannot be written by processes \[0\]"):
        checks.disk(tmp_path / "file", 0.0)
    monkeypatch.setattr(checks.jax, "process_index", lambda: 1)
    with pytest.raises(checks.Problem, match=r"not one directory for all: processes \[0\] do not see"):
        checks.shared(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(checks, "_gather", lambda x: np.array([[1_800_000_000, 0], [1_800_000_009, 0]]))
    with pytest.raises(checks.Problem, match=r"clocks are 9\.0 seconds apart"):
        checks.clocks()


def test_locks_that_others_do_not_see(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "_gather", lambda x: np.array([[1, 1], [1, 0]]))
    with pytest.raises(checks.Problem, match="does not show flock's locks to other hosts"):
        checks.shared(tmp_path)


@pytest.mark.slow
def test_a_hang_ends_with_the_stacks(tmp_path):
    """A process that waits for one that never comes says where it stands."""
    program = "import time; from cptlaw.launching import checks; from launch import common;"
    program += "checks.clocks = lambda: time.sleep(600); common.run('checks')"
    done = subprocess.run(
        [sys.executable, "-c", program, f"--workdir={tmp_path}", "--timeout=1", "--disk-gb=0"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1 and "Timeout" in done.stderr and "launching/checks.py" in done.stderr
