"""Each worker sees devices of its own, and the sweep holds none of them."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from cptlaw.errors import UserError
from cptlaw.execution import devices, sweep, worker
from cptlaw.execution.devices import Devices
from cptlaw.execution.rundir import RunDir

GPUS = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa-1)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-bbbb-2)
  MIG 3g.40gb     Device  0: (UUID: MIG-b0)
  MIG 3g.40gb     Device  1: (UUID: MIG-b1)
"""
VARIABLES = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
VARIABLES += ("ROCR_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS", "XLA_FLAGS")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with those drivers and variables; what JAX says there. Notes the environment in which JAX was asked."""
    asked = []
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def machine(says, smi=None, files=(), **variables):
        def run(command, **options):
            if command[0] == "nvidia-smi":
                if smi is None:
                    raise FileNotFoundError(command[0])
                return subprocess.CompletedProcess(command, 0, smi, "")
            assert command[0] == sys.executable
            asked.append(options["env"])
            return subprocess.CompletedProcess(command, 0, "a line of a plug-in\n" + json.dumps(says), "")

        devices._answer.cache_clear()
        monkeypatch.setattr(subprocess, "run", run)
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        real = devices.Path
        monkeypatch.setattr(devices, "Path", lambda folder: real(tmp_path) / str(folder).lstrip("/"))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return devices.find()

    machine.asked = asked
    yield machine
    devices._answer.cache_clear()


H100 = ["gpu", "PJRT C API cuda 13000", 1, 60 * 2**30]


def test_gpus_are_named_as_cuda_and_the_driver_both_know_them(machine):
    found = machine(H100, smi=GPUS)
    assert found == Devices("gpu", ("GPU-aaaa-1", "MIG-b0", "MIG-b1"), "CUDA_VISIBLE_DEVICES", 60 * 2**30)
    assert found.environment(1, 1) == {"CUDA_VISIBLE_DEVICES": "MIG-b0"}
    assert Devices("gpu", tuple("abcd"), "CUDA_VISIBLE_DEVICES").environment(1, 2) == {"CUDA_VISIBLE_DEVICES": "c,d"}
    (environment,) = machine.asked
    assert (
        environment["CUDA_VISIBLE_DEVICES"] == "GPU-aaaa-1" and environment["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    )


@pytest.mark.parametrize(
    "given, names",
    [("2,5", ("2", "5")), ("GPU-x, MIG-y", ("GPU-x", "MIG-y")), ("3,-1,4", ("3",))],
)
def test_gpus_that_were_shown_to_the_sweep_are_all_it_has(machine, given, names):
    assert machine(H100, smi=GPUS, CUDA_VISIBLE_DEVICES=given).names == names


@pytest.mark.parametrize("given", ["", "-1", "NoDevFiles"])
def test_of_hidden_gpus_none_is_used(machine, given):
    assert machine(["cpu", "cpu", 1, None], smi=GPUS, CUDA_VISIBLE_DEVICES=given) == Devices("cpu", (), "XLA_FLAGS")


def test_gpus_without_the_drivers_tool_are_counted_by_their_files(machine):
    files = ["dev/nvidia0", "dev/nvidia3", "dev/nvidiactl", "dev/nvidia-uvm"]
    assert machine(H100, files=files).names == ("0", "1")


def test_gpus_that_jax_has_no_plugin_for_are_none(machine):
    found = machine(["cpu", "cpu", 1, None], smi=GPUS)
    assert (found.platform, found.count) == ("cpu", 0)
    assert found.note == "3 GPUs are here, but JAX runs on the CPU: is jax[cuda13] installed, is JAX_PLATFORMS set?"


@pytest.mark.parametrize(
    "variables, variable, names",
    [
        ({}, "ROCR_VISIBLE_DEVICES", ("0", "1", "2", "3")),
        ({"ROCR_VISIBLE_DEVICES": "4,6"}, "ROCR_VISIBLE_DEVICES", ("4", "6")),
        ({"HIP_VISIBLE_DEVICES": "1,2", "ROCR_VISIBLE_DEVICES": "4,6"}, "HIP_VISIBLE_DEVICES", ("1", "2")),
    ],
)
def test_amd_gpus(machine, variables, variable, names):
    found = machine(["gpu", "PJRT C API rocm 70000", 4, None], **variables)
    assert (found.variable, found.names) == (variable, names)


def test_chips_of_a_tpu_host(machine):
    files = [f"dev/vfio/{group}" for group in (7, 8, 9, 10)] + ["dev/vfio/vfio"]
    found = machine(["tpu", "PJRT C API", 1, 15 * 2**30], files=files)
    assert found.names == ("0", "1", "2", "3")
    (environment,) = machine.asked
    assert environment["TPU_VISIBLE_CHIPS"] == "0", (
        "asked of one chip, since JAX would wait for the slice's other hosts"
    )
    second = found.environment(1, 2)
    assert second["TPU_VISIBLE_CHIPS"] == "2,3" and second["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "1,2,1"
    assert second["TPU_PROCESS_BOUNDS"] == "1,1,1" and second["TPU_WORKER_HOSTNAMES"] == "localhost"
    assert second["TPU_MESH_CONTROLLER_PORT"] != found.environment(0, 2)["TPU_MESH_CONTROLLER_PORT"]
    assert found.environment(0, 4)["TPU_CHIPS_PER_PROCESS_BOUNDS"] == "2,2,1", "also of a whole host of a slice"
    with pytest.raises(UserError, match="a process can have 1, 2, 4, 8 chips of a TPU host, not 3"):
        found.environment(0, 3)


def test_a_tpu_whose_files_are_not_seen_has_one_worker(machine):
    found = machine(["tpu", "PJRT C API", 4, None])
    assert devices.share(found, 0, 0) == (1, 1) and found.environment(0, 1) == {}


def test_a_worker_has_its_part_of_the_forced_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--a=1 --xla_force_host_platform_device_count=8 --b=2")
    found = devices.find()
    assert found.count == 8
    flags = found.environment(3, 2)["XLA_FLAGS"].split()
    assert flags == ["--a=1", "--b=2", "--xla_force_host_platform_device_count=2"]
    monkeypatch.setenv("XLA_FLAGS", "--a=1")
    assert devices.find() == Devices("cpu", (), "XLA_FLAGS") and devices.find().environment(0, 0) == {}


def test_a_jax_that_does_not_start_says_so(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cqu")
    with pytest.raises(UserError, match=r"JAX does not start here:\n(.|\n)*cqu(.|\n)*set JAX_PLATFORMS=cpu"):
        devices.find()


EIGHT = Devices("gpu", tuple("01234567"), "CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    "workers, each, count, has",
    [(0, 0, 8, 1), (0, 2, 4, 2), (0, 8, 1, 8), (1, 0, 1, 8), (3, 0, 3, 2), (3, 2, 3, 2), (8, 1, 8, 1)],
)
def test_workers_fill_the_machine(workers, each, count, has):
    assert devices.share(EIGHT, workers, each) == (count, has)


@pytest.mark.parametrize(
    "workers, each, says",
    [
        (9, 0, "9 workers for 8 GPUs, one each; 8 at most, since two that share one"),
        (5, 2, "5 workers for 8 GPUs, 2 each; 4 at most"),
        (0, 3, "a run takes 3 devices, which do not divide the 8 GPUs of this machine; 1, 2, 4, 8 do"),
        (0, 16, "a run takes 16 devices, but this machine has 8 GPUs"),
    ],
)
def test_what_does_not_fit_the_machine_is_refused(workers, each, says):
    with pytest.raises(UserError, match=says):
        devices.share(EIGHT, workers, each)


def test_a_cpu_is_divided_by_cores(monkeypatch, tmp_path):
    cpu = Devices("cpu", (), "XLA_FLAGS")
    monkeypatch.setattr("cptlaw.cores.usable", lambda: 3)
    assert devices.share(cpu, 0, 0) == (3, 0) and devices.share(cpu, 7, 1) == (7, 0)
    monkeypatch.setattr(devices, "_CPU_WORKER_BYTES", 2**60)
    assert devices.share(cpu, 0, 0) == (1, 0), "as far as memory reaches"
    with pytest.raises(UserError, match="a run takes 2 devices, but JAX sees no accelerator here"):
        devices.share(cpu, 0, 2)


def test_what_a_run_needs(runs):
    (run, *_) = runs
    meshed = dataclasses.replace(run, mesh={"fsdp": 2, "data": 2})
    rest = dataclasses.replace(run, mesh={"fsdp": -1})
    assert [sweep._needed(r, EIGHT, 0) for r in (run, meshed, rest)] == [0, 4, 8]
    assert [sweep._needed(r, EIGHT, 4) for r in (run, meshed, rest)] == [4, 4, 4]
    with pytest.raises(UserError, match=r"devices_per_run: 2, but config\.mesh has 4 devices"):
        sweep._needed(meshed, EIGHT, 2)
    small = dataclasses.replace(EIGHT, memory=2**10)
    with pytest.raises(UserError, match=r"config\.mesh: a run of size 'large' needs .* a device has 0\.0; divide"):
        sweep._needed(run, small, 0)
    assert sweep._needed(meshed, small, 0) == 4


@pytest.mark.slow
def test_a_grid_has_every_device_busy(runs, workdir, monkeypatch):
    """Eight runs have a device each of eight, at the same time."""
    base = runs[1]
    small = [dataclasses.replace(runs[3], id=f"mix-{i}", seed=i) for i in range(8)]
    assert worker.train_run(base, workdir)
    # Each run waits for all eight to have begun: with fewer than eight workers this would never end.
    script = """
import json, pathlib, sys, time
import jax
from cptlaw.execution import worker
from cptlaw.training import loop
here, real = pathlib.Path(sys.argv[1]).parents[1] / "begun", loop.train

def train(cfg, *rest, **options):
    here.mkdir(exist_ok=True)
    (here / f"{time.time_ns()}").write_text(json.dumps(len(jax.devices())))
    deadline = time.monotonic() + 100
    while len(list(here.iterdir())) < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    return real(cfg, *rest, **options)

loop.train = train
worker.main(*sys.argv[1:])
"""
    popen, commands = subprocess.Popen, []

    def start(command, **options):
        if "cptlaw.execution.worker" in command:
            commands.append(options["env"]["XLA_FLAGS"])
            command = [sys.executable, "-c", script, *command[3:]]
        return popen(command, **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    summary = sweep.sweep([base, *small], workdir, progress=False)
    assert summary.failed == {} and len(summary.finished) == 9
    assert len(commands) == 8 and all("device_count=1" in flags for flags in commands)
    begun = [path.read_text() for path in (workdir / "begun").iterdir()]
    assert begun == ["1"] * 8
    holders = {RunDir(workdir, run).holder() for run in small}
    assert len(holders) == 8, "a process trained two of them"


def test_a_sweep_starts_no_backend(runs, workdir, tmp_path):
    """Else it would hold the accelerators that its workers need."""
    script = """
import json, sys
from unittest import mock
from cptlaw.execution import sweep
from cptlaw.execution.run import Run
from jax._src import xla_bridge
runs = [Run.of(fields) for fields in json.load(open(sys.argv[2]))]
seen = []
with mock.patch.object(sweep, "_train", lambda left, *_: seen.append(xla_bridge.backends_are_initialized()) or set()):
    sweep.sweep(runs, sys.argv[1], progress=False)
assert seen == [False], seen
"""
    plan = tmp_path / "runs.json"
    plan.write_text(json.dumps([dataclasses.asdict(run) for run in runs]))
    subprocess.run([sys.executable, "-c", script, str(workdir), str(plan)], check=True, env={**os.environ})
