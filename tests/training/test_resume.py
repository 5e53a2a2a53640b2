"""Runs in processes of their own: killed and resumed, and spread over two."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def start(directory: Path, name: str, *arguments: object) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    script = Path(__file__).parent / "tiny_run.py"
    command = [sys.executable, str(script), str(directory), str(directory.parent / name), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(directory: Path, name: str, process: subprocess.Popen) -> dict:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return json.loads((directory.parent / name).read_text())


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> dict:
    directory = tmp_path_factory.mktemp("reference") / "run"
    return finish(directory, "whole.json", start(directory, "whole.json", 10, 0))


def test_a_killed_run_resumes_bitwise(tmp_path, reference):
    directory = tmp_path / "run"
    killed = start(directory, "killed.json", 10, 6)
    killed.communicate(timeout=240)
    assert killed.returncode == -signal.SIGKILL

    resumed = finish(directory, "resumed.json", start(directory, "resumed.json", 10, 0))
    first = min(map(int, resumed["logged"]))
    assert 1 < first <= 7, "it must have continued from a checkpoint"
    assert resumed["logged"] == {step: row for step, row in reference["logged"].items() if int(step) >= first}
    assert resumed["state"] == reference["state"]


def test_two_processes_equal_one(tmp_path, reference):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pair = [start(tmp_path / "run", f"{i}.json", 10, 0, address, i) for i in range(2)]
    for i, process in enumerate(pair):
        shared = finish(tmp_path / "run", f"{i}.json", process)
        assert shared["logged"].keys() == reference["logged"].keys()
        for step, row in reference["logged"].items():
            np.testing.assert_allclose(shared["logged"][step], row, rtol=1e-5)
