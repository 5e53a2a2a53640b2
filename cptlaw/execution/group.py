"""Runs of a queue that share one program (`training.together`); each leaves behind what it would have left alone."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cptlaw.execution.job import Job, Stopped, tidy, watched
from cptlaw.execution.run import Monitor, Run
from cptlaw.execution.rundir import RunDir

# The runs of a program, the one of them that came further, and the tokens it has done.
Progress = Callable[[Sequence[Run], Run, int], Any]


class Failed(Exception):
    """A program failed, which says nothing about its `runs` (ids): each may yet be trained alone."""

    def __init__(self, runs: Sequence[str], error: Exception):
        reason = (str(error).splitlines() or [""])[0]
        super().__init__(
            f"{len(runs)} runs are trained one at a time, since together they failed: {type(error).__name__}: {reason}"
        )
        self.runs = runs


def train(
    runs: Iterable[Run],
    workdir: Path,
    most: int,
    *,
    checkpoint_seconds: float,
    monitor: Monitor,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> bool:
    """Trains the first of `runs` to its end, and in the same program those after it that may share it.

    Args:
      runs: what may be trained now; those that other processes work on are passed over.
      workdir: the study's directory, token stores included.
      most: how many to train together.
      checkpoint_seconds: how much work a crash may cost.
      monitor: what is watched meanwhile; stalls and profile of the program are in the directory of its first run.
      progress: called for each run with the tokens done.
      should_stop: asked after every step.

    Returns:
      Whether it did: False when the first run has no company, or another process works on it.

    Raises:
      Stopped: after saving, because `should_stop` said so.
      Failed: the program raised an error. What its runs have measured and saved is theirs to go on from.
    """
    with contextlib.ExitStack() as stack:
        group = _claim(runs, workdir, most, stack)
        if len(group) < 2:
            return False
        owned = [directory.run for directory in group]
        for run in owned:
            progress(owned, run, 0)
        try:
            stopped = _train(group, workdir, checkpoint_seconds, monitor, progress, should_stop)
        except Exception as error:
            raise Failed([run.id for run in owned], error) from error
    if stopped:
        raise Stopped
    return True


def program(run: Run) -> str | None:
    """What is the same in runs that may share a program; None for a run that shares none."""
    if run.weights is not None or run.trunk is not None or run.keep_tokens or run.mesh:
        return None
    sizes = run.seq_len, run.batch_size, run.microbatches, run.eval_batch_size
    steps = run.steps(run.tokens), [run.steps(tokens) for tokens in run.eval_tokens]
    return json.dumps([run.model, run.optimizer, sizes, steps], sort_keys=True)


def _claim(runs: Iterable[Run], workdir: Path, most: int, stack: contextlib.ExitStack) -> list[RunDir]:
    """The first run and its company, which the stack owns; none if the first is another's, or better trained alone."""
    from cptlaw.training.checkpoints import saved_steps

    group: list[RunDir] = []
    shared: tuple[str | None, list[int]] = (None, [])
    for run in runs:
        directory = RunDir(workdir, run)
        may = program(run) is not None and (not group or program(run) == shared[0])
        # A run that has killed its process must not take others with it again.
        if may and not directory.has_died():
            with contextlib.ExitStack() as trial:
                if trial.enter_context(directory.claim()):
                    # Runs go on together from the same step only. One whose checkpoints storage does not list is
                    # left to fail alone.
                    start = None
                    with contextlib.suppress(Exception):
                        start = program(run), saved_steps(directory.checkpoints)[-1:]
                    if start is not None and (not group or start == shared):
                        group, shared = [*group, directory], start
                        stack.push(trial.pop_all())
        if not group or len(group) == most:
            break
    return group


def _train(
    group: list[RunDir],
    workdir: Path,
    checkpoint_seconds: float,
    monitor: Monitor,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> bool:
    """Whether it was stopped."""
    from cptlaw.training import loop, together

    jobs = [Job(directory, workdir) for directory in group]
    runs, job = [job.run for job in jobs], jobs[0]
    with contextlib.ExitStack() as stack:
        records = [
            stack.enter_context(job.records(checkpoint_seconds, monitor, functools.partial(progress, runs, job.run)))
            for job in jobs
        ]
        results = together.train(
            job.cfg,
            [
                together.Member(job.schedule, job.batches, job.first_state, checkpoints)
                for job, (checkpoints, _) in zip(jobs, records)
            ],
            optimizer=job.optimizer,
            layout=job.layout,
            microbatches=job.run.microbatches or None,
            eval_steps=job.eval_steps,
            evaluate=lambda i, point, params: jobs[i].evaluate(point, params),
            log_every=monitor.log_steps,
            log=lambda i, metrics: records[i][1](metrics),
            spike=monitor.spike,
            should_stop=should_stop,
            on_step=stack.enter_context(watched(group[0], monitor)),
        )
    for job, result in zip(jobs, results):
        job.end(result)
        tidy(job.directory)
    return any(result.status == loop.STOPPED for result in results)
