"""The launchers, as a shell runs them."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cptlaw.selection import scores

ROOT = Path(__file__).parents[2]


def launch(module, config, *arguments, workdir=None):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            f"launch.{module}",
            f"--config={config}",
            f"--workdir={workdir or config.parent / 'work'}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"},
    )
    assert "Traceback" not in done.stderr
    return done


def test_one_run_then_the_grid_that_holds_it(config):
    one = launch("train", config, "--size=small", "--share=code=0.5")
    assert one.returncode == 0, one.stderr
    assert re.search(r"layers/attention/q +\(1, 8, 1, 1, 8\) +P\(", one.stdout), "the start-up table of what is where"
    assert len(re.findall(r"small-code0\.5-s0-\w+: +256 tokens  (?:prose|code) ", one.stdout)) == 2
    assert "checkpoint_manager" not in one.stderr
    grid = launch("sweep", config, "--config.workers=1")
    assert grid.returncode == 0, grid.stderr
    assert "runs.csv: 2 runs, 12 rows" in grid.stdout
    assert "runs.csv --law auto --eval code" in grid.stdout, "the config's law"
    refused = launch("train", config, "--config.model.layers=2")
    assert refused.returncode == 2 and "config.model.layers" in refused.stderr and "--update-config" in refused.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--size=huge"], "--size: no size 'huge'; config.sizes has"),
        (["--share=law=0.5"], "--share: no domain 'law'; config.domains has code"),
        (["--share=code=25"], "--share code=25: a share lies between 0 and 1"),
        (["--config.wrkers=1"], "wrkers: the config file has no such field"),
        (["share=code=0.25"], "unexpected argument 'share=code=0.25'"),
        (["--share=code=0.5", "--share=code=0.6"], "--share code=0.6: code has a share already"),
        (["--share=code=nan"], "--share code=nan: a share lies between 0 and 1"),
        (["--config.cpt.peak_lr=0"], "config.cpt.peak_lr: a learning rate, above 0, not 0.0"),
    ],
)
def test_a_wrong_flag_is_named(config, tmp_path, arguments, message):
    done = launch("train", config, *arguments, workdir=tmp_path)
    assert done.returncode == 2 and message in done.stderr
    assert not list(tmp_path.iterdir()), "it is said before anything is made"


def test_a_config_that_is_not_there_is_named(config):
    done = launch("train", config.with_name("none.py"))
    assert done.returncode == 2 and "none.py" in done.stderr


def as_one_and_as_two(config, tmp_path, module, *arguments):
    """Runs a launcher as one process of four devices, in tmp_path/one, and as two of two, in tmp_path/two."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-m", f"launch.{module}", f"--config={config}", *arguments]
    flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count="

    def start(workdir, devices, *arguments):
        environment = {**os.environ, "XLA_FLAGS": flags + str(devices)}
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *arguments],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    together = [f"--coordinator={address}", "--processes=2"]
    pair = [start(tmp_path / "two", 2, *together, f"--process={i}") for i in range(2)]
    processes = [*pair, start(tmp_path / "one", 4)]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said


@pytest.mark.slow
def test_two_processes_train_one_run_as_one_process_does(config, tmp_path):
    as_one_and_as_two(config, tmp_path, "train", "--size=small", "--share=code=0.5")
    for name in ("rows.jsonl", "metrics.jsonl"):
        one, two = (
            [json.loads(line) for path in sorted(folder.glob(f"runs/*/{name}")) for line in path.open()]
            for folder in (tmp_path / "one", tmp_path / "two")
        )
        assert len(one) == len(two) > 0
        for a, b in zip(one, two):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["step"] == b["step"]


@pytest.mark.slow
def test_two_processes_train_a_base_and_score_under_it_as_one_process_does(config, tmp_path):
    as_one_and_as_two(config, tmp_path, "score", "--size=small", "--corpus=code", "--chunk=16")
    one, two = (scores.read(next(tmp_path.glob(f"{name}/scores/*"))) for name in ("one", "two"))
    np.testing.assert_allclose(one.pop("nats"), two.pop("nats"), rtol=1e-5)
    assert one.equals(two)


def test_a_sweep_that_is_preempted_saves_and_asks_to_be_started_again(config, tmp_path):
    command = [sys.executable, "-m", "launch.sweep", f"--config={config}", f"--workdir={tmp_path}"]
    command += ["--config.workers=1", f"--config.base.tokens={64 * 10**6}"]  # more than it could ever finish here
    with (tmp_path / "stderr").open("w") as errors:
        sweep = subprocess.Popen(command, cwd=ROOT, stderr=errors)
    try:
        while not list(tmp_path.glob("runs/*/metrics.jsonl")):
            assert sweep.poll() is None, (tmp_path / "stderr").read_text()
            time.sleep(0.1)
        sweep.terminate()
        assert sweep.wait(timeout=400) == 75 and "Traceback" not in (tmp_path / "stderr").read_text()
    finally:
        sweep.kill()
    assert list(tmp_path.glob("runs/base-*/checkpoints/*/params")), "it was saved where it was"


def test_data_can_be_prepared_alone(config, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "launch.prepare", f"--config={config}", f"--workdir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout == f"{tmp_path}/data: prose, code; 259 token ids\n", done.stderr
    assert len(list(tmp_path.glob("data/*/*/ledger.json"))) == 4 and not (tmp_path / "runs").exists()


def test_a_runner_without_apache_beam_is_refused(config, tmp_path):
    """The library is no part of the default set, but may be here."""
    for arguments, message in (
        (["--pipeline_options=--direct_num_workers=2"], "--pipeline_options: whose?"),
        (["--runner=Nobodys"], "--runner"),
    ):
        done = launch("prepare", config, *arguments, workdir=tmp_path)
        assert done.returncode == 2 and f"launch: {message}" in done.stderr
    assert not list(tmp_path.iterdir())
