"""The flags that every launcher has, how it joins the other processes of its job, and how it ends."""

import os
import re
import sys
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from absl import app, flags, logging
from jax.experimental import multihost_utils
from ml_collections import config_flags

from cptlaw.errors import UserError, exit_code
from cptlaw.execution import rundir, worker
from cptlaw.execution.run import Conditions, Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir
from cptlaw.progress import bar as progress_bar
from cptlaw.studies import config as config_lib
from cptlaw.studies import prepared as prepared_lib
from cptlaw.studies.prepared import Prepared
from cptlaw.studies.settings import Study
from launch.joining import ends_after, roll_call

if TYPE_CHECKING:
    from cptlaw.data.beam import Runner

# What clusters' relaunchers take for "preempted: start me again" (EX_TEMPFAIL).
EXIT_RELAUNCH = 75

_CONFIG = config_flags.DEFINE_config_file("config", None, "A study's config file, such as configs/demo.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the study is kept, such as runs/demo.")
_UPDATE = flags.DEFINE_bool("update-config", False, "Keep the runs of another config in the workdir; train the rest.")
_MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "One of the processes of a job: JAX asks Slurm, Open MPI, Kubernetes or the TPU pod which."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT on the first process's host, where nothing says it.")
_PROCESSES = flags.DEFINE_integer("processes", None, "With --coordinator: how many processes there are.")
_PROCESS = flags.DEFINE_integer("process", None, "With --coordinator: which of them this is, from 0.")
_JOIN = flags.DEFINE_integer("join-seconds", 300, "How long to wait for the job's other processes.")


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


def workdir() -> Workdir:
    return Workdir(_WORKDIR.value)


def prepare(runner: "Runner | None" = None) -> Prepared:
    """The study of the flags: config checked, workdir claimed, token stores built (by one process, before the rest)."""

    def mine() -> Prepared:
        return prepared_lib.prepare(study(), workdir(), update_config=_UPDATE.value, runner=runner)

    if not _joins():
        return mine()
    prepared = mine() if jax.process_index() == 0 else None
    multihost_utils.sync_global_devices("prepared")
    return prepared or mine()


def study() -> Study:
    """The checked config, overrides (--config.model.layers=4) included."""
    try:
        return config_lib.parse(_CONFIG.value)
    except OSError as error:  # ml_collections keeps a failure to load until the config is used
        raise UserError(
            f"--config: cannot be read: {str(error.__cause__ or error).splitlines()[-1].strip()}"
        ) from error


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


def run(main: Callable[[], None], *, multihost: bool = True, required: Sequence[str] = ("config", "workdir")) -> None:
    """Runs a launcher under absl; what the user can mend is a message, not a traceback.

    Args:
      main: what to do, once the job's processes know each other.
      multihost: whether several processes may do it together.
      required: the flags that it cannot do without.
    """

    def guarded(argv: list[str]) -> int:
        return exit_code("launch", lambda: start(argv))

    def start(argv: list[str]) -> None:
        if argv[1:]:
            raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value")
        tune_gpus(os.environ)
        if _joins():
            if not multihost:
                raise UserError("--multihost, --coordinator: this launcher is one process; start one on each host")
            _join()
        main()

    flags.mark_flags_as_required(required)
    logging.set_verbosity(logging.WARNING)  # Orbax tells absl's log of every step it takes
    app.run(guarded, flags_parser=_parse)


def _joins() -> bool:
    return _MULTIHOST.value or _COORDINATOR.value is not None


def _join() -> None:
    given = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if any(value is not None for value in given) and None in given:
        raise UserError("--coordinator, --processes, --process: give all three, or --multihost alone")
    if None not in given:
        roll_call(*given, _JOIN.value)
    try:
        with ends_after(_JOIN.value):
            jax.distributed.initialize(*given, initialization_timeout=_JOIN.value + 60)
    except ValueError as error:
        raise UserError(
            f"--multihost: {error} JAX found no Slurm, Open MPI, Kubernetes or TPU pod around this process; give "
            "--coordinator=HOST:PORT --processes=N --process=I"
        ) from error


def _parse(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:  # how ml_collections says that the config has no such field
        field = re.findall(r"[a-z_]\w*", str(error))[0]
        print(f"launch: {field}: the config file has no such field; add it there to override it", file=sys.stderr)
        sys.exit(2)
