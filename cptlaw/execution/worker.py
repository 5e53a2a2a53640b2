"""Trains runs, one after the other, until a grid has none left; `python -m cptlaw.execution.worker PLAN INDEX/COUNT`.

Where the plan says so, several at a time. A worker tells its sweep how far it is as JSON lines on stdout, and saves and
leaves when its stdin closes.
"""

import errno
import functools
import gc
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cptlaw import cache
from cptlaw.errors import UserError
from cptlaw.execution import group, rundir
from cptlaw.execution.job import Job, Progress, Stopped, import_weights, tidy, watched
from cptlaw.execution.run import Monitor, Run
from cptlaw.execution.rundir import RunDir
from cptlaw.fields import build

_MONITOR = Monitor()


def train(
    run: Run,
    workdir: Path,
    *,
    checkpoint_seconds: float = 60.0,
    monitor: Monitor = _MONITOR,
    keep_checkpoint: bool = False,
    progress: Progress = lambda tokens: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains one run to its end, if no other process does. Its rows and result are in its run directory.

    Args:
      run: what to train; the runs it needs must be finished.
      workdir: the study's directory, token stores included.
      checkpoint_seconds: how much work a crash may cost.
      monitor: what is watched meanwhile.
      keep_checkpoint: keep the last checkpoint of a continual pre-training run, which the study itself needs no more.
      progress: called with the tokens done, those of its trunk not counted.
      should_stop: asked after every step.

    Returns:
      Whether this process trained it: False when another works on it or has ended it.

    Raises:
      Stopped: after saving, because `should_stop` said so.
    """
    from cptlaw.execution.hosts import run_dir

    directory = run_dir(workdir, run)
    with directory.claim() as mine:
        if not mine:
            return False
        progress(0)
        from cptlaw.training.checkpoints import CheckpointError

        def attempt() -> None:
            _train(directory, Path(workdir), checkpoint_seconds, monitor, progress, should_stop)

        try:
            try:
                attempt()
            except CheckpointError:
                # Every checkpoint of it is damaged: starting over costs time, and gives the same rows.
                directory.drop_checkpoints()
                attempt()
            tidy(directory, keep_checkpoint)
        except Stopped:
            raise
        except Exception as error:
            if not directory.alone:
                raise  # perhaps of this host alone: the job ends, and starting it again goes on from the checkpoints
            # One bad cell must not stop the grid. Its checkpoints stay: what failed may be mended, and the run go on
            # from them; unless they may be what filled the disk, of which its traceback needs a little.
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                directory.drop_checkpoints()
            known = isinstance(error, UserError)
            directory.fail(str(error) if known else f"{type(error).__name__}: {error}", traceback.format_exc())
        return True


def _train(
    directory: RunDir,
    workdir: Path,
    checkpoint_seconds: float,
    monitor: Monitor,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> None:
    from cptlaw.training import loop

    run = directory.run
    if run.weights is not None:
        import_weights(directory, workdir)
        return
    job = Job(directory, workdir)
    with (
        job.records(checkpoint_seconds, monitor, progress) as (checkpoints, log),
        watched(directory, monitor) as on_step,
    ):
        result = loop.train(
            job.cfg,
            job.schedule,
            job.batches,
            job.first_state,
            optimizer=job.optimizer,
            layout=job.layout,
            microbatches=run.microbatches or None,
            checkpoints=checkpoints,
            eval_steps=job.eval_steps,
            evaluate=job.evaluate,
            log_every=monitor.log_steps,
            log=log,
            spike=monitor.spike,
            should_stop=should_stop,
            on_step=on_step,
        )
    if result.status == loop.STOPPED:
        raise Stopped
    job.end(result)


def main(plan_path: str, place: str) -> None:
    """Works on the plan's runs until none is left or the sweep goes away."""
    plan = json.loads(Path(plan_path).read_text())
    workdir, runs = Path(plan["workdir"]), [Run.of(fields) for fields in plan["runs"]]
    monitor = build(Monitor, plan["monitor"], "monitor")
    index, count = (int(part) for part in place.split("/"))
    if count > 1 and hasattr(os, "sched_setaffinity"):
        # A core of its own: tiny models gain more from a second run beside them than from a second thread.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[index % len(cores) :: count])
    stop = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        stop.set()

    def tell(**event: Any) -> None:
        try:
            print(json.dumps({"worker": index, **event}), flush=True)
        except OSError:  # the sweep is gone, which must not fail its run
            stop.set()

    def tell_progress(runs: Sequence[Run], run: Run, tokens: int) -> None:
        tell(run=run.id, tokens=tokens, together=[run.id for run in runs])

    threading.Thread(target=watch, daemon=True).start()
    cache.keep_compiled()
    # Bases first, since others wait for them; then the longest, so that no core is left alone with it at the end.
    queue = sorted(runs, key=lambda run: (run.init is not None, -run.flops()))
    planned = {run.id for run in runs}
    alone: set[str] = set()  # what could not be trained together
    options: dict[str, Any] = {
        "checkpoint_seconds": plan["checkpoint_seconds"],
        "monitor": monitor,
        "should_stop": stop.is_set,
    }

    def take(run: Run) -> bool:
        """Trains the run, and with it what may share its program; whether there was something to train."""
        if plan["together"] > 1 and run.id not in alone:
            others = (r for r in queue if r is not run and r.id not in alone and _ready(r, workdir, planned))
            try:
                if group.train(
                    itertools.chain([run], others), workdir, plan["together"], progress=tell_progress, **options
                ):
                    return True
            except group.Failed as failed:
                alone.update(failed.runs)
                tell(note=str(failed))
            gc.collect()  # what a failed program held on the device, which it may have filled
        return train(run, workdir, progress=functools.partial(tell_progress, [run], run), **options)

    while queue and not stop.is_set():
        queue = [run for run in queue if RunDir(workdir, run).result() is None]
        for run in queue:
            if not _ready(run, workdir, planned):
                continue
            try:
                trained = take(run)
            except Stopped:
                return
            if trained:
                break  # what comes earlier in the queue may have become ready
        else:
            time.sleep(0.2)


def _ready(run: Run, workdir: Path, planned: set[str]) -> bool:
    """Whether what the run starts from is there; when it never will be, the run is failed."""
    for needed in run.needs:
        result = rundir.read_result(rundir.path_of(workdir, needed))
        kind = "base" if needed == run.init else "trunk"
        if result is None:
            if needed not in planned:
                RunDir(workdir, run).fail(f"its {kind} run {needed} has not been trained")
            return False
        if result["state"] == rundir.FAILED:
            RunDir(workdir, run).fail(f"its {kind} run {needed} failed: {result['reason']}")
            return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
