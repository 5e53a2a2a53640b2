"""The devices of this machine, counted without holding any, and the environment that shows a worker its own.

A process that has started JAX holds every accelerator that it sees: most of a GPU's memory, and a TPU's chips whole. So
a sweep never starts JAX on them. It counts what the drivers list, and asks a process that ends at once what JAX makes
of the first. Each worker is shown devices of its own by variables that are set before it starts.
"""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from cptlaw import cores
from cptlaw.errors import UserError

CUDA, HIP, ROCR, TPU = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS"
# Of one process that has so many of a host's chips; the chips of a host are numbered row by row.
_CHIP_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
# libtpu asks at this port for the processes of one program; each worker is a program of its own.
_TPU_PORT = 8476
_FORCED = re.compile(r"--xla_force_host_platform_device_count=(\d+)")
_SECONDS = 300  # for JAX to start, which takes a minute on some TPUs
_CPU_WORKER_BYTES = 2**30  # of a process that trains one small model

_PROBE = """
import json, jax
device = jax.local_devices()[0]
memory = (device.memory_stats() or {}).get("bytes_limit")
print(json.dumps([device.platform, device.client.platform_version, jax.local_device_count(), memory]))
"""


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a machine's workers can be given.

    Attributes:
      platform: cpu, gpu or tpu.
      names: each device, as `variable` names it. Of a CPU there are none, since its cores are divided instead, unless
        it is forced to be several devices.
      variable: the environment variable that shows a process some of them; "" where there is none.
      memory: bytes of one that JAX uses at most; None where it does not say.
      note: what the user should know of them, or "".
    """

    platform: str
    names: tuple[str, ...] = ()
    variable: str = ""
    memory: int | None = None
    note: str = ""

    @property
    def count(self) -> int:
        return len(self.names)

    def environment(self, index: int, each: int) -> dict[str, str | None]:
        """The variables of worker `index`, which has `each` devices; None is for one that must not be set.

        Raises UserError for a number of TPU chips that are no rectangle.
        """
        mine = self.names[index * each : (index + 1) * each]
        if not self.variable or not mine:
            return {}
        if self.platform == "cpu":
            flags = _FORCED.sub("", os.environ.get("XLA_FLAGS", ""))
            forced = f"{flags} --xla_force_host_platform_device_count={len(mine)}".strip()
            return {"XLA_FLAGS": forced, "JAX_NUM_CPU_DEVICES": None}
        shown: dict[str, str | None] = {self.variable: ",".join(mine)}
        if self.platform == "tpu":
            if len(mine) not in _CHIP_BOUNDS:
                raise UserError(
                    f"config.devices_per_run: a process can have {', '.join(map(str, _CHIP_BOUNDS))} chips of a TPU "
                    f"host, not {len(mine)}"
                )
            # As if this host's chips were a TPU of their own: on a host of a larger slice, libtpu would wait for the
            # others otherwise.
            shown |= {
                "TPU_CHIPS_PER_PROCESS_BOUNDS": _CHIP_BOUNDS[len(mine)],
                "TPU_PROCESS_BOUNDS": "1,1,1",
                "TPU_WORKER_HOSTNAMES": "localhost",
                "TPU_WORKER_ID": "0",
                "CLOUD_TPU_TASK_ID": "0",
                "TPU_PROCESS_ADDRESSES": None,
                "TPU_PROCESS_PORT": None,
                "TPU_MESH_CONTROLLER_ADDRESS": f"localhost:{_TPU_PORT + index}",
                "TPU_MESH_CONTROLLER_PORT": str(_TPU_PORT + index),
                # The names that older libtpu and some images have for the same.
                "TPU_VISIBLE_DEVICES": None,
                "TPU_CHIPS_PER_HOST_BOUNDS": None,
                "TPU_HOST_BOUNDS": None,
            }
        return shown


def changed(variables: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with those variables set, or unset."""
    environment = {**os.environ, **variables}
    return {name: value for name, value in environment.items() if value is not None}


def find() -> Devices:
    """The devices of this machine that JAX would use.

    Raises UserError where JAX does not start.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return _cpu()
    listed = _listed()
    platform, version, count, memory = _ask(listed.environment(0, 1))
    if platform == "cpu":
        if listed.platform != "gpu":
            return _cpu()
        note = f"{listed.count} GPUs are here, but JAX runs on the CPU: is jax[cuda13] installed, is JAX_PLATFORMS set?"
        return dataclasses.replace(_cpu(), note=note)
    if listed.platform == platform:
        return dataclasses.replace(listed, memory=memory)
    if platform == "gpu":  # that no driver's tool has listed
        variable = (HIP if HIP in os.environ else ROCR) if "rocm" in version.lower() else CUDA
        return Devices(platform, _named(variable) or tuple(map(str, range(count))), variable, memory)
    return Devices(platform, ("all",), "", memory)


def share(machine: Devices, workers: int, each: int) -> tuple[int, int]:
    """How many workers there are, and how many devices each of them has to itself.

    Args:
      machine: what there is to share.
      workers: 0 fills the machine.
      each: devices of a worker; 0: 1, or where `workers` says how many they are, as many as there are for each.

    Returns:
      Both; of a CPU that is not forced to be several devices, each worker has 0.

    Raises UserError for more than there are, or a number that leaves some of them over.
    """
    count, kind = machine.count, {"gpu": "GPUs", "tpu": "TPU chips"}.get(machine.platform, "devices")
    run = f"config.devices_per_run, config.mesh: a run takes {each} devices"
    if not count:
        if each > 1:
            raise UserError(
                f"{run}, but JAX sees no accelerator here, and a CPU is one device; ask for one, or mend JAX's "
                "installation (jax[cuda13], jax[tpu])"
            )
        return workers or _cpu_workers(), 0
    if each > count:
        raise UserError(f"{run}, but this machine has {count} {kind}")
    if each and count % each:
        fit = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise UserError(f"{run}, which do not divide the {count} {kind} of this machine; {fit} do")
    if workers > (most := count // max(each, 1)):
        shares = f"{each} each" if each > 1 else "one each"
        raise UserError(
            f"config.workers: {workers} workers for {count} {kind}, {shares}; {most} at most, since two that share one "
            "would take each other's memory. config.together trains several runs on one"
        )
    if workers and not each:
        return workers, count // workers
    return workers or most, max(each, 1)


def _cpu_workers() -> int:
    """One a core, as far as memory reaches.

    A model of a few hundred thousand parameters cannot use a second core, so two runs side by side finish sooner than
    two in turn (benchmarks/cpu_step.py).
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores.usable(), memory // _CPU_WORKER_BYTES))


def _cpu() -> Devices:
    forced = _FORCED.search(os.environ.get("XLA_FLAGS", ""))
    count = int(forced[1] if forced else os.environ.get("JAX_NUM_CPU_DEVICES", 0))
    return Devices("cpu", tuple(map(str, range(count))) if count > 1 else (), "XLA_FLAGS")


def _ask(variables: Mapping[str, str | None]) -> tuple[str, str, int, int | None]:
    """What JAX says of its devices in a process with these variables, which ends at once."""
    # The probe must not take the memory of a GPU that a worker is about to take.
    return _answer(tuple(sorted(changed({**variables, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}).items())))


@functools.cache  # a study sweeps several times, and each answer takes JAX's start
def _answer(environment: tuple[tuple[str, str], ...]) -> tuple[str, str, int, int | None]:
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, env=dict(environment), timeout=_SECONDS
        )
        said = probe.stderr.strip()
    except subprocess.TimeoutExpired:
        probe, said = None, f"It did not answer within {_SECONDS} seconds: does another process hold the devices?"
    if probe is None or probe.returncode:
        raise UserError(f"JAX does not start here:\n{said}\nMend the installation, or set JAX_PLATFORMS=cpu")
    platform, version, count, memory = json.loads(probe.stdout.splitlines()[-1])
    return platform, version, count, memory


def _listed() -> Devices:
    """The accelerators that drivers list, whether JAX can use them or not."""
    names = _named(CUDA)
    if names is None:
        names = _nvidia()
    if names:
        return Devices("gpu", names, CUDA)
    chips = _named(TPU)
    if chips is None:
        chips = _numbered("/dev", "accel") or _numbered("/dev/vfio", "")
    return Devices("tpu", chips, TPU) if chips else Devices("cpu")


def _named(variable: str) -> tuple[str, ...] | None:
    """What a variable shows to this process already, as it names it; None where it is not set."""
    if variable not in os.environ:
        return None
    names = []
    for name in os.environ[variable].split(","):
        if not (name := name.strip()) or name in ("-1", "NoDevFiles"):  # ends the list, for CUDA
            break
        names.append(name)
    return tuple(names)


def _nvidia() -> tuple[str, ...]:
    """The UUIDs of all GPUs, or of the instances (MIG) that one is divided into.

    CUDA numbers GPUs in another order than the driver's tool, so only a UUID is the same in both.
    """
    try:
        tool = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        tool = None
    if tool is None or tool.returncode:  # a container without the tool
        return _numbered("/dev", "nvidia")
    gpus: list[list[str]] = []
    for line in tool.stdout.splitlines():
        if uuid := re.search(r"UUID: ((?:GPU|MIG)-[^)\s]+)", line):
            if uuid[1].startswith("GPU"):
                gpus.append([uuid[1]])
            elif gpus:
                gpus[-1].append(uuid[1])
    return tuple(name for gpu in gpus for name in (gpu[1:] or gpu))


def _numbered(folder: str, prefix: str) -> tuple[str, ...]:
    """As many numbers, from 0, as there are device files `prefix`N: what a container shows is numbered anew."""
    try:
        found = [path for path in Path(folder).iterdir() if re.fullmatch(rf"{prefix}\d+", path.name)]
    except OSError:
        return ()
    return tuple(map(str, range(len(found))))
