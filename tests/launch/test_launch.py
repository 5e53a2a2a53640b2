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
import pandas as pd
import pytest

from benchmarks import servers
from cptlaw.execution import sweep
from cptlaw.execution.workdir import Workdir
from cptlaw.selection import scores
from cptlaw.storage.bucket import Bucket
from cptlaw.studies import scoring

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


def start(config, module, workdir, devices, *arguments, **environment):
    """A launcher in a process of its own, of so many devices."""
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", f"launch.{module}", f"--config={config}", f"--workdir={workdir}", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def pair(config, module, workdir, *arguments, caches=(None, None)):
    """A launcher as a job of two processes of two devices each; of a bucket, each machine has a cache of its own."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = [f"--coordinator={address}", "--processes=2"]
    return [
        start(
            config, module, workdir, 2, *arguments, *together, f"--process={i}",
            **({"CPTLAW_CACHE": str(cache)} if cache else {}),
        )
        for i, cache in enumerate(caches)
    ]  # fmt: skip


def as_one_and_as_two(config, tmp_path, module, *arguments):
    """Runs a launcher as one process of four devices, in tmp_path/one, and as two of two, in tmp_path/two."""
    two = pair(config, module, tmp_path / "two", *arguments)
    processes = [*two, start(config, module, tmp_path / "one", 4, *arguments)]
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


@pytest.mark.slow
def test_two_machines_whose_run_is_in_a_bucket_are_killed_and_go_on(config, tmp_path, tmp_path_factory, monkeypatch):
    if servers.available("s3") is None:
        pytest.skip("no server for s3: pip install '.[servers]'")
    longer = config.read_text().replace('"tokens": 640', '"tokens": 65536').replace('"tokens": 256', '"tokens": 65536')
    longer = longer.replace("(128, 256)", "(32768, 65536)").replace('"workers": 2', '"checkpoint_seconds": 0.1')
    config = tmp_path / "longer.py"
    config.write_text(longer)
    asked = "train", "--size=small", "--share=code=0.5"
    whole = pair(config, asked[0], tmp_path / "whole", *asked[1:])
    said = [process.communicate(timeout=600) for process in whole]
    assert [process.returncode for process in whole] == [0, 0], said
    caches = tmp_path / "cache0", tmp_path / "cache1"
    with servers.serve("s3", tmp_path_factory.mktemp("s3")) as environment:
        for name, value in (environment | {"CPTLAW_LEASE_SECONDS": "5", "CPTLAW_CACHE": str(caches[0])}).items():
            monkeypatch.setenv(name, value)
        url = f"s3://{servers.BUCKET}/study"
        runs = Bucket.open(f"{url}/runs")
        killed = 0
        for _ in range(2):
            before = set(runs.list())
            two = pair(config, asked[0], url, *asked[1:], caches=caches)
            while two[0].poll() is None and not [n for n in runs.list() if "checkpoint" in n and n not in before]:
                time.sleep(0.2)
            killed += two[0].poll() is None
            for process in two:
                process.kill()
                process.communicate()
        assert killed, "it ended before it could be killed"
        two = pair(config, asked[0], url, *asked[1:], caches=caches)
        said = [process.communicate(timeout=600) for process in two]
        assert [process.returncode for process in two] == [0, 0], said
        tables = [
            sweep.collect([scoring.find_run(home, name) for name in home.run_ids()], home)
            for home in (Workdir(tmp_path / "whole"), Workdir(url))
        ]
    pd.testing.assert_frame_equal(tables[1], tables[0])
