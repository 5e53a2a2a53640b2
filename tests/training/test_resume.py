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


def start(directory: Path, name: str, *arguments: object, devices: int = 1) -> subprocess.Popen:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    script = Path(__file__).parent / "tiny_run.py"
    command = [sys.executable, str(script), str(directory), str(directory.parent / name), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(directory: Path, name: str, process: subprocess.Popen, code: int = 0) -> dict:
    _, errors = process.communicate(timeout=240)
    assert process.returncode == code, errors
    return json.loads((directory.parent / name).read_text())


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> dict:
    directory = tmp_path_factory.mktemp("reference") / "run"
    return finish(directory, "whole.json", start(directory, "whole.json", 10, "no@0"))


def test_a_killed_run_resumes_bitwise(tmp_path, reference):
    directory = tmp_path / "run"
    killed = start(directory, "killed.json", 10, "KILL@6")
    killed.communicate(timeout=240)
    assert killed.returncode == -signal.SIGKILL

    resumed = finish(directory, "resumed.json", start(directory, "resumed.json", 10, "no@0"))
    first = min(map(int, resumed["logged"]))
    assert 1 < first <= 7, "it must have continued from a checkpoint"
    assert resumed["logged"] == {step: row for step, row in reference["logged"].items() if int(step) >= first}
    assert resumed["scores"]["10"] == reference["scores"]["10"]
    assert resumed["state"] == reference["state"]


def test_two_processes_equal_one_and_one_continues_them(tmp_path, reference):
    """One of two is asked to stop while both save: both do, after the same step."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    directory = tmp_path / "run"
    sent = ["no@0", "TERM@4"]
    pair = [start(directory, f"{i}.json", 10, send, address, i, devices=2) for i, send in enumerate(sent)]
    ran = [finish(directory, f"{i}.json", process, code=75) for i, process in enumerate(pair)]
    assert ran[0]["logged"] == ran[1]["logged"] and ran[0]["scores"] == ran[1]["scores"]
    assert [process["rows"] for process in ran] == [[[0, 1, 4, 5]], [[2, 3, 6, 7]]], "each makes its own rows only"
    assert ran[0]["nats"] == ran[1]["nats"]
    np.testing.assert_allclose(ran[0]["nats"], reference["nats"], rtol=1e-5)
    assert 4 <= len(ran[0]["logged"]) < 10

    alone = finish(directory, "alone.json", start(directory, "alone.json", 10, "no@0"))
    assert min(map(int, alone["logged"])) == len(ran[0]["logged"]) + 1
    for step, row in {**ran[0]["logged"], **alone["logged"]}.items():
        np.testing.assert_allclose(row, reference["logged"][step], rtol=1e-5)
    for step, (nats, *counts) in {**ran[0]["scores"], **alone["scores"]}.items():
        assert nats == pytest.approx(reference["scores"][step][0], rel=1e-5)
        assert counts == reference["scores"][step][1:]
