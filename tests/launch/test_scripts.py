"""The launchers in bash, with the cluster's commands played by stubs: what they start, and what they start again."""

import json
import os
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*/*.sh"))

# Notes its arguments, then prints and exits as its next line says (0 and "READY" when there is none left).
STUB = """#!/usr/bin/env python3
import json, pathlib, sys
here, name = pathlib.Path(__file__).parent, pathlib.Path(__file__).name
with (here / "calls").open("a") as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + chr(10))
if "describe" in sys.argv:
    print("READY")
    sys.exit(0)
left = here / (name + ".codes")
codes = left.read_text().split() if left.exists() else []
left.write_text(" ".join(codes[1:]))
sys.exit(int(codes[0]) if codes else 0)
"""
SETTINGS = {
    "slurm/train.sh": {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16"},
    "slurm/grid.sh": {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4", "SLURM_CPUS_PER_TASK": "64"},
    "tpu/train.sh": {"TPU": "cpt", "ZONE": "z", "CHIPS": "64", "WAIT": "0"},
    "tpu/grid.sh": {"TPU": "cpt", "ZONE": "z", "CHIPS": "64", "HOSTS": "16", "WAIT": "0"},
    "gke/train.sh": {
        "CLUSTER": "c", "ZONE": "z", "IMAGE": "i", "NAME": "n", "TYPE": "v5litepod-64", "DEVICES": "64"
    },
    "gke/grid.sh": {"CLUSTER": "c", "ZONE": "z", "IMAGE": "i", "NAME": "n", "TYPE": "v5litepod-8", "SLICES": "16"},
}  # fmt: skip


@pytest.fixture
def play(tmp_path):
    """Runs a script with arguments, the stub `command` ending with `codes` in turn; gives exit code and calls."""
    for name in ("srun", "scontrol", "gcloud", "xpk"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)

    def play(script, *arguments, command="", codes=()):
        (tmp_path / f"{command}.codes").write_text(" ".join(map(str, codes)))
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **SETTINGS[script]}
        environment |= {"CONFIG": "configs/x.py", "WORKDIR": "/shared/a b"}
        done = subprocess.run(["bash", str(ROOT / "launch" / script), *arguments], env=environment)
        return done.returncode, [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]

    return play


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.parent.name + "/" + path.name)
def test_scripts_are_bash_and_say_what_they_need(script):
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert os.access(script, os.X_OK)
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode != 0 and any(name in done.stderr for name in ("CONFIG:", "TPU:", "CLUSTER:"))


@pytest.mark.parametrize("script", ["slurm/train.sh", "slurm/grid.sh"])
@pytest.mark.parametrize("code", [0, 3, 75])
def test_slurm_requeues_what_asks_for_it_and_passes_other_codes_on(play, script, code):
    ended, calls = play(script, "--size=8b", command="srun", codes=[0, code])
    assert ended == (0 if code == 75 else code)
    assert (["scontrol", "requeue", "7"] in calls) == (code == 75)
    checks, work = calls[:2]
    assert "launch.checks" in checks and "--workdir=/shared/a b" in checks
    assert work[-3:] == ["--config=configs/x.py", "--workdir=/shared/a b", "--size=8b"]
    assert ("--multihost" in work) == (script == "slurm/train.sh")


def test_slurm_trains_nothing_where_the_checks_fail(play):
    ended, calls = play("slurm/train.sh", command="srun", codes=[2])
    assert ended == 2 and len(calls) == 1
    assert {"--devices=16", "--expect-processes=16", "--platform=gpu", "--multihost"} < set(calls[0])


def test_slurm_has_a_sweep_on_each_node_with_all_of_its_cores(play):
    ended, calls = play("slurm/grid.sh", command="srun")
    assert ended == 0 and all({"--ntasks=4", "--ntasks-per-node=1", "--wait=0"} < set(call) for call in calls)
    assert "--sweeps=4" in calls[1]
    assert 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK' in (ROOT / "launch/slurm/grid.sh").read_text()


@pytest.mark.parametrize("script", ["slurm/train.sh", "slurm/grid.sh"])
def test_slurm_activates_the_environment_that_is_named(play, tmp_path, monkeypatch, script):
    monkeypatch.setenv("VENV", str(tmp_path / "env"))
    (tmp_path / "env" / "bin").mkdir(parents=True)
    (tmp_path / "env" / "bin" / "activate").write_text(f"echo on > '{tmp_path}/activated'")
    ended, calls = play(script, command="srun", codes=[0, 0])
    assert ended == 0 and len(calls) == 2 and (tmp_path / "activated").exists()
    monkeypatch.setenv("VENV", str(tmp_path / "none"))
    ended, calls = play(script, command="srun")
    assert ended != 0 and len(calls) == 2, "nothing is started without it"


def test_tpu_setup_sends_the_checkout_as_it_lies_here(tmp_path):
    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=checkout, check=True)

    checkout, sent = tmp_path / "checkout", tmp_path / "sent.tar"
    (checkout / "launch" / "tpu").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "tpu" / "setup.sh", checkout / "launch" / "tpu")
    for name, text in {".gitignore": "/runs/", "kept.py": "old", "gone.py": "old"}.items():
        (checkout / name).write_text(text)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    (checkout / "gone.py").unlink()
    (checkout / "runs").mkdir()
    for name in ("kept.py", "a config.py", "runs/big"):
        (checkout / name).write_text("new")
    (tmp_path / "gcloud").write_text(f'#!/bin/sh\nif [ "$4" = scp ]; then cp "$5" "{sent}"; fi\n')
    (tmp_path / "gcloud").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TPU": "t", "ZONE": "z"}
    script = ["bash", str(checkout / "launch" / "tpu" / "setup.sh")]
    done = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "a config.py" in done.stderr and "runs" not in done.stderr, done.stderr
    with tarfile.open(sent) as tar:
        assert set(tar.getnames()) == {".gitignore", "kept.py", "a config.py", "launch/tpu/setup.sh"}
        assert tar.extractfile("kept.py").read() == b"new"


@pytest.mark.parametrize("script, program", [("tpu/train.sh", "launch.train"), ("tpu/grid.sh", "launch.sweep")])
def test_tpu_starts_again_after_a_preemption_and_after_a_lost_host(play, script, program):
    ended, calls = play(script, "--share=law=0.3", command="gcloud", codes=[75, 255, 0, 0])
    assert ended == 0
    sent = [call[-1].removeprefix("--command=") for call in calls if "ssh" in call]
    assert all("--worker=all" in call for call in calls if "ssh" in call)
    assert [(program in one, "pkill" in one) for one in sent] == [
        (True, False), (True, False), (False, True), (True, False),
    ]  # fmt: skip
    assert shlex.split(sent[0])[-3:] == ["--config=configs/x.py", "--workdir=/shared/a b", "--share=law=0.3"]
    assert "--devices=64" in shlex.split(sent[0])
    assert ("--sweeps=16" in sent[0]) == (script == "tpu/grid.sh")
    # All hosts are checked as one job; the sweeps are one a host.
    assert [("--multihost" in part) for part in sent[0].split("&&")] == [False, True, script == "tpu/train.sh"]


@pytest.mark.parametrize("script", ["tpu/train.sh", "tpu/grid.sh"])
def test_tpu_gives_up_on_any_other_code(play, script):
    ended, calls = play(script, command="gcloud", codes=[2])
    assert ended == 2 and sum("ssh" in call for call in calls) == 1


def test_gke_asks_xpk_to_restart_on_75(play, monkeypatch):
    monkeypatch.setenv("XPK_ARGS", "--project=p --priority=high")
    ended, [call] = play("gke/train.sh", "--size=4b")
    assert ended == 0 and call[:3] == ["xpk", "workload", "create"]
    assert {"--restart-on-exit-codes=75", "--tpu-type=v5litepod-64", "--docker-image=i", "--priority=high"} < set(call)
    command = call[-1].removeprefix("--command=")
    assert shlex.split(command)[-3:] == ["--config=configs/x.py", "--workdir=/shared/a b", "--size=4b"]
    assert "--platform=tpu" in command and "&& exec python -m launch.train --multihost" in command


@pytest.mark.parametrize(
    "kind, shown",
    [
        ("v5litepod-8", {"--tpu-type=v5litepod-8", "--num-slices=16"}),
        ("h100-80gb-8", {"--device-type=h100-80gb-8", "--num-nodes=16"}),
    ],
)
def test_gke_has_a_sweep_on_each_host(play, monkeypatch, kind, shown):
    monkeypatch.setitem(SETTINGS["gke/grid.sh"], "TYPE", kind)
    ended, [call] = play("gke/grid.sh", "--config.together=0")
    assert ended == 0 and shown | {"--restart-on-exit-codes=75", "--max-restarts=100"} < set(call)
    command = call[-1].removeprefix("--command=")
    assert shlex.split(command)[-3:] == ["--config=configs/x.py", "--workdir=/shared/a b", "--config.together=0"]
    assert "&& exec python -m launch.sweep --sweeps=16 --config" in command and "--multihost" not in command


def test_the_image_is_built_from_what_is_there():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert copied and all((ROOT / path).exists() for path in copied)
    assert any(f"-r {copied[0]}" in line for line in lines)
