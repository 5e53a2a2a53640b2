"""What launchers share: joining the other processes of a job, preparing a study, training a run to its end."""

import argparse
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from absl import logging
from jax.experimental import multihost_utils

from cptlaw.errors import UserError
from cptlaw.execution import rundir, worker
from cptlaw.execution.run import Conditions, Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir
from cptlaw.launching.joining import ends_after, roll_call
from cptlaw.progress import bar as progress_bar
from cptlaw.studies import config as config_lib
from cptlaw.studies import config_file
from cptlaw.studies import prepared as prepared_lib
from cptlaw.studies.prepared import Prepared
from cptlaw.studies.settings import Study

if TYPE_CHECKING:
    from cptlaw.data.beam import Runner

# What clusters' relaunchers take for "preempted: start me again" (EX_TEMPFAIL).
EXIT_RELAUNCH = 75

# What NVIDIA's own JAX image sets (its Dockerfile.jax; docs.nvidia.com/jax-toolbox/environment-variables): XLA moves
# collectives so that gathering a layer's weights and summing its gradients hides behind matmuls, which matters as soon
# as parameters are split over fsdp. The other flags of their guide (pipelined collectives, double buffering) are for a
# model and a machine at hand, so they are left to XLA_FLAGS.
GPU_FLAGS = {"--xla_gpu_enable_latency_hiding_scheduler": "true"}
# JAX's 0.75 leaves 20 GB of an H100 to nobody; the guide says 0.9 or 0.8, the rest being for CUDA's libraries and NCCL.
GPU_POOL = "0.9"


def tune_gpus(environment: MutableMapping[str, str], driver: str = "/proc/driver/nvidia/version") -> None:
    """Sets `GPU_FLAGS` and the memory pool where an NVIDIA driver is; what the environment sets already stays.

    Not run on a GPU yet. Before the backend starts; worker processes inherit it.
    """
    if not Path(driver).exists() or environment.get("JAX_PLATFORMS", "") in ("cpu", "tpu"):
        return
    given = environment.get("XLA_FLAGS", "")
    added = [f"{flag}={value}" for flag, value in GPU_FLAGS.items() if flag not in given]
    environment["XLA_FLAGS"] = " ".join([given, *added]).strip()
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", GPU_POOL)


def prepare(args: argparse.Namespace, runner: "Runner | None" = None) -> Prepared:
    """The study of the flags: config checked, workdir claimed, token stores built (by one process, before the rest)."""

    def mine() -> Prepared:
        return prepared_lib.prepare(study(args), Workdir(args.workdir), update_config=args.update_config, runner=runner)

    if not _joins(args):
        return mine()
    prepared = mine() if jax.process_index() == 0 else None
    multihost_utils.sync_global_devices("prepared")
    return prepared or mine()


def study(args: argparse.Namespace) -> Study:
    """The checked config, overrides (--config.model.layers=4) included."""
    return config_lib.parse(config_file.read(args.config, args.overrides))


def train_to_end(run: Run, workdir: Workdir, settings: Study, stop: Callable[[], bool]) -> list[dict[str, Any]]:
    """Trains one run in this process, together with the job's others, to its end; returns its rows.

    When `stop` says so it saves, and the process ends with the code that asks for a relaunch.
    """
    if stop():  # between two runs
        raise SystemExit(EXIT_RELAUNCH)
    directory = RunDir(workdir, run)
    with progress_bar(
        progress=jax.process_index() == 0,
        total=run.tokens - run.first_token,
        desc=run.id,
        unit="token",
        unit_scale=True,
    ) as bar:
        try:
            worker.train_run(
                run,
                workdir,
                Conditions(
                    checkpoint_seconds=settings.checkpoint_seconds,
                    monitor=settings.monitor,
                    keep_checkpoint=True,
                    progress=lambda runs, run, tokens: bar.update(tokens - bar.n),
                    should_stop=stop,
                ),
            )
        except worker.Stopped:
            raise SystemExit(EXIT_RELAUNCH) from None
    result = directory.result()
    if result is None:
        raise UserError(f"{directory.task}: another process ({directory.holder()}) is training this run; wait for it")
    if result["state"] == rundir.FAILED:
        raise UserError(f"{directory.task}: {result['reason']}. Delete its result.json to try again")
    return directory.rows()


def start(main: Callable[[argparse.Namespace], int | None], args: argparse.Namespace, *, multihost: bool) -> int | None:
    """Runs a launcher, once the job's processes know each other.

    Args:
      main: the launcher.
      args: its flags (`cptlaw.launching.flags`).
      multihost: whether several processes may do it together.
    """
    tune_gpus(os.environ)
    logging.set_verbosity(logging.WARNING)  # Orbax tells absl's log of every step it takes
    if _joins(args):
        if not multihost:
            raise UserError("--multihost, --coordinator: this launcher is one process; start one on each host")
        _join(args)
    return main(args)


def _joins(args: argparse.Namespace) -> bool:
    return args.multihost or args.coordinator is not None


def _join(args: argparse.Namespace) -> None:
    given = (args.coordinator, args.processes, args.process)
    if any(value is not None for value in given) and None in given:
        raise UserError("--coordinator, --processes, --process: give all three, or --multihost alone")
    if None not in given:
        roll_call(*given, args.join_seconds)
    try:
        with ends_after(args.join_seconds):
            jax.distributed.initialize(*given, initialization_timeout=args.join_seconds + 60)
    except ValueError as error:
        raise UserError(
            f"--multihost: {error} JAX found no Slurm, Open MPI, Kubernetes or TPU pod around this process; give "
            "--coordinator=HOST:PORT --processes=N --process=I"
        ) from error
