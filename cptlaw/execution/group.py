"""Runs of a queue that share one program (`training.together`); each leaves behind what it would have left alone."""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cptlaw.execution.job import DiskFull, Job, Stopped, full_disk_stops, score_group, tidy, watched
from cptlaw.execution.run import Conditions, Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir


class Failed(Exception):
    """A program failed, which says nothing of its `runs` (ids): `fewer` together, or each alone, may yet be trained."""

    def __init__(self, runs: Sequence[str], error: Exception):
        reason = (str(error).splitlines() or [""])[0]
        # Half of them may fit.
        self.fewer = len(runs) // 2 if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) else 1
        now = f"{self.fewer} at a time" if self.fewer > 1 else "one at a time"
        super().__init__(
            f"{len(runs)} runs are trained {now}, since together they failed: {type(error).__name__}: {reason}"
        )
        self.runs = runs


def train_group(runs: Iterable[Run], workdir: str | os.PathLike[str], most: int, conditions: Conditions) -> bool:
    """Trains the first of `runs` to its end, and in the same program those after it that may share it.

    Args:
      runs: what may be trained now; those that other processes work on are passed over.
      workdir: the study's directory, token stores included.
      most: how many to train together.
      conditions: how; stalls and profile of the program are in the directory of its first run.

    Returns:
      Whether it did: False when the first run has no company, or another process works on it.

    Raises:
      Stopped: after saving, because `conditions.should_stop` said so.
      DiskFull: all are resumable.
      Failed: the program raised an error. What its runs have measured and saved is theirs to go on from.
    """
    workdir = Workdir(workdir)
    with contextlib.ExitStack() as stack:
        group = _claim(runs, workdir, most, stack)
        if len(group) < 2:
            return False
        owned = [directory.run for directory in group]
        for run in owned:
            conditions.progress(owned, run, 0)
        try:
            with full_disk_stops(workdir):
                stopped = _train(group, workdir, conditions)
        except DiskFull:
            raise
        except Exception as error:
            raise Failed([run.id for run in owned], error) from error
    if stopped:
        raise Stopped
    return True


def most(run: Run, asked: int) -> int:
    """How many runs like this one to train together at most, as `asked`, or where that is 0 as `together.most` says."""
    if asked or program(run) is None:
        return asked or 1
    from cptlaw.training import together

    return together.most(run.config, run.make_optimizer(), run.batch_size, run.seq_len, run.microbatches or 1)


def program(run: Run) -> str | None:
    """What is the same in runs that may share a program; None for a run that shares none."""
    if run.weights is not None or run.mesh:
        return None
    sizes = run.seq_len, run.batch_size, run.microbatches, run.eval_batch_size, run.eval_max_tokens
    # Trunks go together with trunks, and branches with those that are as long and begin at the same step.
    lengths = [(run.first_token, run.tokens), run.eval_tokens, run.keep_tokens]
    steps = [[run.steps(tokens) for tokens in of] for of in lengths]
    return json.dumps([run.model, run.optimizer, sizes, steps, run.trunk is not None], sort_keys=True)


def _claim(runs: Iterable[Run], workdir: Workdir, most: int, stack: contextlib.ExitStack) -> list[RunDir]:
    """The first run and its company, which the stack owns; none if the first is another's, or better trained alone."""
    from cptlaw.training.checkpoints import saved_steps

    group: list[RunDir] = []
    shared: tuple[str | None, list[int]] = (None, [])
    for run in runs:
        directory = RunDir(workdir, run)
        may = program(run) is not None and (not group or program(run) == shared[0])
        if may:
            with contextlib.ExitStack() as trial:
                # A run that has killed its process must not take others with it again.
                if trial.enter_context(directory.claim()) and not directory.has_died():
                    # Only runs at the same step can go on together. A run whose checkpoints cannot be
                    # listed is left out, and fails when it is trained alone.
                    start = None
                    with contextlib.suppress(Exception):
                        start = program(run), saved_steps(directory.checkpoints)[-1:]
                    if start is not None and (not group or start == shared):
                        group, shared = [*group, directory], start
                        stack.push(trial.pop_all())
        if not group or len(group) == most:
            break
    return group


def _train(group: list[RunDir], workdir: Workdir, conditions: Conditions) -> bool:
    """Whether it was stopped."""
    from cptlaw.training import loop, together

    jobs = [Job(directory, workdir) for directory in group]
    runs, job = [job.run for job in jobs], jobs[0]
    with contextlib.ExitStack() as stack:
        records = [stack.enter_context(job.records(conditions, runs)) for job in jobs]
        results = together.train_all(
            job.run.config,
            [
                loop.Member(job.schedule, job.batches, job.first_state, checkpoints)
                for job, (checkpoints, _) in zip(jobs, records)
            ],
            optimizer=job.optimizer,
            layout=job.layout,
            microbatches=job.run.microbatches or None,
            eval_steps=job.eval_steps,
            evaluate_all=functools.partial(_evaluate, jobs),
            log_every=conditions.monitor.log_steps,
            log=lambda i, metrics: records[i][1](metrics),
            spike=conditions.monitor.spike,
            should_stop=conditions.should_stop,
            on_step=stack.enter_context(watched(group[0], conditions.monitor)),
        )
    for job, result in zip(jobs, results):
        job.end(result)
        tidy(job.directory)
    return any(result.status == loop.STOPPED for result in results)


def _evaluate(
    jobs: Sequence[Job], points: Mapping[int, Any], params: Any, params_of: Callable[[int], Any]
) -> dict[int, str]:
    """Adds the rows of all runs at a step; the reasons of those whose loss is no number."""
    scores: dict[int, dict[str, Any]] = {i: {} for i in points}
    for corpus in dict.fromkeys(corpus for i in points for corpus in jobs[i].run.evals):
        mine = {i: jobs[i] for i in points if corpus in jobs[i].run.evals}
        # The program scores all runs, so it is worth its while for a corpus that most of them are evaluated on.
        if 2 * len(mine) > len(jobs):
            found = score_group(params, mine, corpus)
        else:
            found = {i: job.score(corpus, params_of(i)) for i, job in mine.items()}
        for i, score in found.items():
            scores[i][corpus] = score
    failed = {}
    for i, of_run in scores.items():
        try:
            jobs[i].record(points[i], {corpus: of_run[corpus] for corpus in jobs[i].run.evals})
        except FloatingPointError as error:
            failed[i] = str(error)
    return failed
