"""Trains runs, one after the other, until a grid has none left; `python -m cptlaw.execution.worker PLAN INDEX/COUNT`.

Where the plan says so, several at a time. A worker tells its sweep how far it is as JSON lines on stdout, and saves and
leaves when its stdin closes.
"""

import contextlib
import gc
import json
import os
import signal
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
from cptlaw.execution.job import DiskFull, Job, Stopped, full_disk_stops, import_weights, tidy, watched
from cptlaw.execution.run import Conditions, Monitor, Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir
from cptlaw.fields import build
from cptlaw.storage.claims import Lost

_CONDITIONS = Conditions()

# Exit codes of a worker that leaves its work unfinished without any run being at fault (EX_IOERR, EX_TEMPFAIL).
EXIT_FULL, EXIT_STOPPED = 74, 75


def train_run(run: Run, workdir: str | os.PathLike[str], conditions: Conditions = _CONDITIONS) -> bool:
    """Trains one run to its end, if no other process does. Its rows and result are in its run directory.

    Args:
      run: what to train; the runs it needs must be finished.
      workdir: the study's directory, token stores included.
      conditions: how.

    Returns:
      Whether this process trained it: False when another works on it or has ended it.

    Raises:
      Stopped: after saving, because `conditions.should_stop` said so.
      DiskFull: the run is resumable.
    """
    from cptlaw.execution.hosts import run_dir

    workdir = Workdir(workdir)
    directory = run_dir(workdir, run)
    with full_disk_stops(workdir), directory.claim() as mine:
        if not mine:
            return False
        conditions.progress([run], run, 0)
        from cptlaw.training.checkpoints import CheckpointError

        try:
            with full_disk_stops(workdir):
                try:
                    _train(directory, workdir, conditions)
                except CheckpointError:
                    # Every checkpoint of it is damaged: starting over costs time, and gives the same rows.
                    directory.drop_checkpoints()
                    _train(directory, workdir, conditions)
                tidy(directory, conditions.keep_checkpoint)
        except (Stopped, DiskFull):
            raise
        except Lost:
            return False  # this process was paused, and another one trains the run by now
        except Exception as error:
            if not directory.alone:
                raise  # perhaps only this host failed: the job ends, and a new start continues from the checkpoints
            # One bad run must not stop the grid. Its checkpoints stay, so that it can continue once its cause is
            # mended.
            known = isinstance(error, UserError)
            directory.fail(str(error) if known else f"{type(error).__name__}: {error}", traceback.format_exc())
        return True


def _train(directory: RunDir, workdir: Workdir, conditions: Conditions) -> None:
    from cptlaw.training import loop

    run = directory.run
    if run.weights is not None:
        import_weights(directory, workdir)
        return
    job = Job(directory, workdir)
    with (
        job.records(conditions, [run]) as (checkpoints, log),
        watched(directory, conditions.monitor) as on_step,
    ):
        result = loop.train(
            run.config,
            job.schedule,
            job.batches,
            job.first_state,
            optimizer=job.optimizer,
            layout=job.layout,
            microbatches=run.microbatches or None,
            checkpoints=checkpoints,
            eval_steps=job.eval_steps,
            evaluate=job.evaluate,
            log_every=conditions.monitor.log_steps,
            log=log,
            spike=conditions.monitor.spike,
            should_stop=conditions.should_stop,
            on_step=on_step,
        )
    if result.status == loop.STOPPED:
        raise Stopped
    job.end(result)


def main(plan_path: str, place: str) -> None:
    """Works on the plan's runs until none is left, the sweep goes away, or a SIGTERM asks it to leave.

    Exits with EXIT_STOPPED after a SIGTERM, and with EXIT_FULL when a disk is full.
    """
    plan = json.loads(Path(plan_path).read_text())
    index, count = (int(part) for part in place.split("/"))
    if count > 1 and hasattr(os, "sched_setaffinity"):
        # A core of its own: tiny models gain more from a second run beside them than from a second thread.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[index % len(cores) :: count])
    stop, code = threading.Event(), 0

    def watch() -> None:
        sys.stdin.read()
        stop.set()

    def tell(**event: Any) -> None:
        try:
            print(json.dumps({"worker": index, **event}), flush=True)
        except OSError:  # the sweep is gone, which must not fail its run
            stop.set()

    def leave(*_: Any) -> None:
        nonlocal code
        code = EXIT_STOPPED
        stop.set()

    signal.signal(signal.SIGTERM, leave)  # some clusters send it to every process of a job, not to the sweep alone
    threading.Thread(target=watch, daemon=True).start()
    cache.keep_compiled()
    conditions = Conditions(
        checkpoint_seconds=plan["checkpoint_seconds"],
        monitor=build(Monitor, plan["monitor"], "monitor"),
        progress=lambda runs, run, tokens: tell(run=run.id, tokens=tokens, together=[run.id for run in runs]),
        should_stop=stop.is_set,
    )
    runs = [Run.of(fields) for fields in plan["runs"]]
    try:
        with contextlib.suppress(Stopped):
            turn, among = in_turn(runs, plan["listed"]), count * plan.get("sweeps", 1)
            _Worker(turn, Workdir(plan["workdir"]), plan["together"], among, conditions, tell).work()
    except DiskFull as full:
        tell(full=str(full))
        code = EXIT_FULL
    sys.exit(code)


def in_turn(runs: Sequence[Run], listed: bool) -> list[Run]:
    """The runs in the order in which they are trained as soon as they can be.

    Bases first, since others wait for them, then the longest, so that no core is left alone with a long run at the end.
    As `listed`, each base is just before the first run that starts from it.
    """
    if not listed:
        return sorted(runs, key=lambda run: (run.init is not None, -run.flops()))
    planned = {run.id: run for run in runs}
    turn: dict[str, Run] = {}
    # Runs that none waits for, such as the base of a grid without runs, come last.
    for run in [run for run in runs if run.init] + list(runs):
        for name in (*run.needs, run.id):
            if name in planned:
                turn.setdefault(name, planned[name])
    return list(turn.values())


class _Worker:
    """Trains the runs of a plan, as long as there are any and it is not asked to stop."""

    def __init__(
        self,
        runs: Sequence[Run],
        workdir: Workdir,
        together: int,
        among: int,
        conditions: Conditions,
        tell: Callable[..., Any],
    ):
        """`among` are the workers of all sweeps."""
        self.workdir, self.together, self.among, self.conditions, self.tell = workdir, together, among, conditions, tell
        self.fitting: dict[
            str | None, int
        ] = {}  # program -> runs that its devices have memory for, where that is known
        self.queue = list(runs)
        self.planned = {run.id for run in runs}
        self.alone: set[str] = set()  # what could not be trained together
        self.results: dict[str, dict[str, Any]] = {}  # of runs that others start from

    def work(self) -> None:
        """Returns when no run is left or a stop was asked for. Raises Stopped when one was stopped on its way."""
        while self.queue and not self.conditions.should_stop():
            self.queue = [run for run in self.queue if not RunDir(self.workdir, run).has_ended()]
            # Starts at the front again after each run, because an earlier one may have become ready meanwhile.
            if not any(self.ready(run) and self.take(run) for run in self.queue):
                time.sleep(0.2)

    def take(self, run: Run) -> bool:
        """Trains the run, and with it what may share its program; whether there was something to train."""
        program = group.program(run)
        while run.id not in self.alone and (most := self.most(run, program)) > 1:
            others = [r for r in self.queue if r is not run and self.joins(r, program)]
            # Its part of what there is, so that no other worker is without.
            most = min(most, -(-(1 + len(others)) // self.among))
            try:
                if most > 1 and group.train_group([run, *others], self.workdir, most, self.conditions):
                    return True
                break
            except group.Failed as failed:
                self.fitting[program] = failed.fewer
                if failed.fewer < 2:
                    self.alone.update(failed.runs)
                    del self.fitting[program]
                self.tell(note=str(failed))
            gc.collect()  # frees the device memory that the failed program held
        return train_run(run, self.workdir, self.conditions)

    def most(self, run: Run, program: str | None) -> int:
        """How many runs to train together with this one, itself included."""
        return self.fitting.get(program) or group.most(run, self.together)

    def joins(self, run: Run, program: str | None) -> bool:
        return group.program(run) == program is not None and run.id not in self.alone and self.ready(run)

    def ready(self, run: Run) -> bool:
        """Whether what the run starts from is there; when it never will be, the run is failed."""
        for needed in run.needs:
            task = self.workdir.task(needed)
            result = self.results.get(needed) or (rundir.read_result(task) if task.has_ended() else None)
            kind = "base" if needed == run.init else "trunk"
            if result is None:
                if needed not in self.planned:
                    RunDir(self.workdir, run).fail(f"its {kind} run {needed} has not been trained")
                return False
            if result["state"] == rundir.FAILED:
                RunDir(self.workdir, run).fail(f"its {kind} run {needed} failed: {result['reason']}")
                return False
            self.results[needed] = result
        return True


if __name__ == "__main__":
    main(*sys.argv[1:])
