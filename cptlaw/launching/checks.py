"""Checks the machines before anything is paid for: devices, memory, network, and the workdir's disk, locks and clocks.

    cptlaw checks --workdir runs/demo
    srun cptlaw checks --multihost --workdir /shared/runs/x --devices 16 --platform gpu --min-gbps 50

Every process of the job runs it. It ends with 0, or with 2 and what is wrong; with 1 and the stacks of where it hung,
when a collective does not come back within --timeout seconds (a firewall, a host that did not start, a broken link).
"""

import argparse
import contextlib
import faulthandler
import fcntl
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from cptlaw.errors import UserError
from cptlaw.execution.workdir import Workdir
from cptlaw.storage.bucket import Bucket

CLOCK_SECONDS = 5.0


class Problem(Exception):
    """What a check found wrong."""


def count(what: str, found: int, wanted: int | None) -> str:
    """The number found. Raises Problem when another was wanted."""
    if wanted is not None and found != wanted:
        raise Problem(f"{found} {what}, but {wanted} were asked for: one has not started, or does not see the others")
    return str(found)


def platform(wanted: str | None) -> str:
    """The platform, the kind of device and its memory."""
    device = jax.local_devices()[0]
    if wanted is not None and device.platform != wanted:
        raise Problem(
            f"JAX runs on {device.platform}, but {wanted} was asked for: is jax[cuda13] or jax[tpu] installed, "
            "are the drivers there, is JAX_PLATFORMS set?"
        )
    limit = (device.memory_stats() or {}).get("bytes_limit")
    memory = "" if limit is None else f", {limit / 2**30:.1f} GiB each"
    return f"{device.platform} ({device.device_kind}{memory})"


def all_reduce(megabytes: float, least: float, repeats: int = 5) -> str:
    """Sums an array over all devices, checks the sum, and reports the bandwidth of the fastest of `repeats`.

    Given as bus bandwidth: 2 (n - 1) / n times the array's bytes over the time, which is what each device has to send
    in the best algorithm, so that it can be compared with the link's speed for any n.
    """
    n, size = jax.device_count(), max(1, int(megabytes * 1e6 / 4))
    if n == 1:
        return "one device, nothing to reduce over"
    mesh = jax.make_mesh((n,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P("devices"))
    x = jax.jit(lambda: jnp.broadcast_to(jnp.arange(1.0, n + 1)[:, None], (n, size)), out_shardings=split)()
    reduce = jax.jit(
        jax.shard_map(lambda x: jax.lax.psum(x, "devices"), mesh=mesh, in_specs=jax.P("devices"), out_specs=jax.P())
    )
    seconds = []
    for _ in range(1 + repeats):  # the first compiles
        start = time.perf_counter()
        total = reduce(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    if not (np.asarray(total.addressable_data(0)) == n * (n + 1) / 2).all():
        raise Problem(f"the sum over {n} devices is wrong: do not train here")
    gbps = 2 * (n - 1) / n * size * 4 / min(seconds[1:]) / 1e9
    said = f"{size * 4 / 1e6:.0f} MB over {n} devices, {gbps:.2f} GB/s a device"
    if gbps < least:
        raise Problem(f"{said}, but {least:g} were asked for: is a slower network used (NCCL_DEBUG=INFO says which)?")
    return said


def disk(workdir: Path, least_gb: float) -> str:
    """Free space in the workdir, the least that any process sees."""
    free = -1.0
    with contextlib.suppress(OSError):
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".check-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
        free = shutil.disk_usage(workdir).free / 1e9
    everywhere = _gather(np.float32(free)).reshape(-1)
    if everywhere.min() < 0:
        raise Problem(f"{workdir} cannot be written by processes {np.flatnonzero(everywhere < 0).tolist()}")
    if everywhere.min() < least_gb:
        raise Problem(f"{everywhere.min():.1f} GB free in {workdir}, but {least_gb:g} were asked for")
    return f"{everywhere.min():.0f} GB free in {workdir}"


def bucket(place: Bucket) -> str:
    """Whether all processes see one place in a bucket, whose server keeps to conditions: so sweeps share a grid."""
    first = jax.process_index() == 0
    name = np.asarray(multihost_utils.broadcast_one_to_all(np.frombuffer(uuid.uuid4().bytes, np.uint8))).tobytes().hex()
    wrong = ""
    try:
        if first:
            place.check(f".check-{name}-alone")
            place.put(f".check-{name}", b"")
        multihost_utils.sync_global_devices("written")
        if place.get(f".check-{name}") is None:
            wrong = f"process {jax.process_index()} does not see the first one's object"
    except UserError as error:
        wrong = str(error)
    said = _gather(np.array(not wrong, np.int32)).reshape(-1)
    if first:
        with contextlib.suppress(UserError):
            place.delete([f".check-{name}"])
    if not said.all():
        raise Problem(wrong or f"{place.url}: processes {np.flatnonzero(said == 0).tolist()} cannot use it")
    return f"one for {jax.process_count()} process{'es' * (jax.process_count() > 1)}, with conditional writes"


def shared(workdir: Path) -> str:
    """Whether all processes see one workdir, and each other's locks in it, by which several sweeps share a grid."""
    first = jax.process_index() == 0
    name = np.asarray(multihost_utils.broadcast_one_to_all(np.frombuffer(uuid.uuid4().bytes, np.uint8)))
    probe = workdir / f".check-{name.tobytes().hex()}"
    with contextlib.ExitStack() as held:
        if first:
            with contextlib.suppress(OSError):  # of a workdir that cannot be written, nobody sees the file
                fcntl.flock(held.enter_context(probe.open("w")), fcntl.LOCK_EX)
        multihost_utils.sync_global_devices("written")
        sees = probe.exists()
        locked = first or (sees and _locked(probe))
        seen, kept = _gather(np.array([sees, locked], np.int32)).reshape(-1, 2).T
        probe.unlink(missing_ok=True)
    if not seen.all():
        blind = np.flatnonzero(seen == 0).tolist()
        raise Problem(f"{workdir} is not one directory for all: processes {blind} do not see the first one's file")
    if not kept.all():
        raise Problem(
            f"{workdir}: its file system does not show flock's locks to other hosts, so two sweeps would train the "
            "same runs; mount it with them (Lustre: -o flock), or use one sweep alone"
        )
    return f"one for {jax.process_count()} process{'es' * (jax.process_count() > 1)}, with locks"


def clocks() -> str:
    """How far the processes' clocks are apart."""
    multihost_utils.sync_global_devices("clocks")
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    said = _gather(np.array([seconds, nanoseconds // 1000], np.int32)).reshape(-1, 2).astype(np.float64)
    apart = np.ptp(said[:, 0] + said[:, 1] / 1e6)
    if apart > CLOCK_SECONDS:
        raise Problem(f"the hosts' clocks are {apart:.1f} seconds apart: start their time service")
    return f"{apart:.2f} seconds apart"


def overlap(workdir: Path, most: float) -> str:
    """What part of each validation split is in the training text, of the corpora that are prepared in the workdir."""
    from cptlaw.data import overlap as compared
    from cptlaw.data.store import TokenStore

    splits = {
        split: {
            path.parent.parent.name: TokenStore.open(path.parent)
            for path in sorted(workdir.glob(f"*/{split}/ledger.json"))
        }
        for split in ("train", "validation")
    }
    if not all(splits.values()):
        raise Problem(f"{workdir}: no corpus is prepared there, so none can be compared; run cptlaw prepare first")
    found = compared.of_stores(splits["train"], splits["validation"])
    said = "\n            ".join(compared.in_words(found))
    own = {name: found[name, name].share for name in splits["validation"] if (name, name) in found}
    if over := [f"{name} {share:.1%}" for name, share in own.items() if share > most]:
        raise Problem(
            f"{', '.join(over)} of the validation text is in the training text, and {most:.1%} may be: its loss falls "
            f"by memory, which no law predicts; remove near-duplicates and prepare again\n            {said}"
        )
    return said


def _gather(value: np.ndarray | np.generic) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(value))


def _locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def main(args: argparse.Namespace) -> None:
    faulthandler.dump_traceback_later(args.timeout, exit=True)
    workdir = Workdir(args.workdir)
    checks: dict[str, Callable[[], str]] = {
        "platform": lambda: platform(args.platform),
        "processes": lambda: count("processes", jax.process_count(), args.expect_processes),
        "devices": lambda: count("devices", jax.device_count(), args.devices),
        "disk": lambda: disk(workdir.root, args.disk_gb),
        "workdir": lambda: bucket(Bucket.open(workdir.place)) if workdir.in_bucket else shared(workdir.root),
        "clocks": clocks,
        "all-reduce": lambda: all_reduce(args.megabytes, args.min_gbps),
    }
    if args.overlap and jax.process_index() == 0:  # last, since the others have no part in it
        checks["overlap"] = lambda: overlap(workdir.data, args.most_overlap)
    problems = []
    for name, check in checks.items():
        try:
            said = check()
        except Problem as problem:
            problems.append(f"{name}: {problem}")
            said = f"WRONG: {problem}"
        if jax.process_index() == 0:
            print(f"{name:12}{said}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    if problems:
        raise UserError("; ".join(problems))
