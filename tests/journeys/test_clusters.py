"""Users of Slurm and of Cloud TPUs: the launchers as they are shipped, the cluster's commands played by stand-ins.

A stand-in runs what it is given here, on CPUs: a process for each node or host. What the cluster itself does (queueing,
devices, networks) is not tested.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from people import practitioner

ROOT = Path(__file__).parents[2]
# What all of them do: several processes at once, whose worst exit code is theirs; the platform is the machine's own.
TOGETHER = """#!/usr/bin/env python3
import json, os, pathlib, subprocess, sys
with (pathlib.Path(__file__).parent / "calls").open("a") as file:
    file.write(json.dumps([pathlib.Path(__file__).name, *sys.argv[1:]]) + chr(10))
def together(count, command, shell=False):
    change = lambda word: word.replace("--platform=gpu", "--platform=cpu").replace("--platform=tpu", "--platform=cpu")
    command = change(command) if shell else list(map(change, command))
    started = [subprocess.Popen(command, shell=shell, executable="/bin/bash" if shell else None) for _ in range(count)]
    sys.exit(max(process.wait() for process in started))
"""
SBATCH = """
options = [word for word in sys.argv[1:] if word.startswith("--")]
script = next(i for i, word in enumerate(sys.argv) if word.endswith(".sh"))
os.environ |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1"}
together(1, ["bash", *sys.argv[script:]])
"""
SRUN = """
count = next(int(word.partition("=")[2]) for word in sys.argv if word.startswith("--ntasks="))
together(count, sys.argv[sys.argv.index("python"):])
"""
GCLOUD = """
if "describe" in sys.argv:
    print("READY")
    sys.exit(0)
command = next(word for word in sys.argv if word.startswith("--command=")).removeprefix("--command=")
# One host: jobs of several processes are tested where they can meet (tests/launching).
together(1, command.replace("--multihost ", "").replace(".venv/bin/python", sys.executable), shell=True)
"""


@pytest.fixture
def cluster(tmp_path):
    """A folder with a practitioner's files; `run` plays a command of hers with the cluster's commands on PATH."""
    config, bin = practitioner(tmp_path), tmp_path / "bin"
    bin.mkdir()
    for name, does in {"sbatch": SBATCH, "srun": SRUN, "gcloud": GCLOUD, "scontrol": "", "activate": ""}.items():
        (bin / name).write_text(TOGETHER + does)
        (bin / name).chmod(0o755)

    def run(*words, **settings):
        environment = {**os.environ, "PATH": f"{bin}:{Path(sys.executable).parent}:{os.environ['PATH']}", **settings}
        environment |= {
            "CONFIG": str(config),
            "WORKDIR": str(tmp_path / "runs"),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
        }
        environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in (bin / "calls").read_text().splitlines()]

    return run


def check_table(folder):
    table = pd.read_csv(folder / "runs" / "runs.csv")
    assert sorted(table["w_law"].unique()) == [0.1, 0.3, 0.5, 0.9] and set(table["eval"]) == {"notes", "law"}
    assert not table.duplicated(["run", "tokens", "eval"]).any(), "no run was trained twice"


@pytest.mark.slow
def test_a_grid_on_two_slurm_nodes(cluster, tmp_path):
    calls = cluster("sbatch", "--nodes=2", str(ROOT / "launch/slurm/grid.sh"))
    assert [call[0] for call in calls] == ["sbatch", "srun", "srun"]
    assert "launch.checks" in calls[1] and "launch.sweep" in calls[2] and "--sweeps=2" in calls[2]
    check_table(tmp_path)


@pytest.mark.slow
def test_a_grid_on_a_tpu_slice(cluster, tmp_path):
    home = tmp_path / "cptlaw"  # what setup.sh leaves on a host
    home.symlink_to(ROOT)
    script = f"cd {tmp_path} && bash {ROOT / 'launch/tpu/grid.sh'}"
    calls = cluster("bash", "-c", script, TPU="cpt", ZONE="z", CHIPS="1", HOSTS="1", WAIT="0")
    assert [("describe" in call, "ssh" in call) for call in calls] == [(True, False), (False, True)]
    check_table(tmp_path)
