"""One run on its way: what its training is given, what it measures, and what it leaves behind."""

import contextlib
import dataclasses
import errno
import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cptlaw.errors import UserError
from cptlaw.execution import rundir
from cptlaw.execution.run import Conditions, Monitor, Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir
from cptlaw.storage.bucket import StorageError
from cptlaw.storage.versions import Versions

RECENT_CHECKPOINTS = 2  # of a run on disk: the newest, and the one before it, should the newest be damaged


class Stopped(Exception):
    """Training was asked to stop, and saved where it is."""


class DiskFull(UserError):
    """A disk has no space left, or a bucket does not answer, which is no fault of the run: it goes on from its newest
    checkpoint."""


@contextlib.contextmanager
def full_disk_stops(workdir: Workdir) -> Iterator[None]:
    """Turns an error that a full disk or a bucket caused, whoever reports it in whatever words, into DiskFull."""
    try:
        yield
    except StorageError as error:
        raise DiskFull(f"{error}. What was saved is kept; run the same command again to continue") from error
    except Exception as error:
        if isinstance(error, DiskFull) or not _of_full_disk(error):
            raise
        raise DiskFull(
            f"{workdir}: no space left on the disk ({str(error).splitlines()[0][:200]}). What was saved is kept; free "
            "some space and run the same command again to continue"
        ) from error


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# TensorStore, under Orbax, reports the same errors in other classes, with these words.
_FULL_WORDS = re.compile("|".join(os.strerror(number) for number in sorted(_FULL)))


def _of_full_disk(error: BaseException | None) -> bool:
    if error is None or isinstance(error, Stopped):
        return False
    if (isinstance(error, OSError) and error.errno in _FULL) or _FULL_WORDS.search(str(error)):
        return True
    return _of_full_disk(error.__cause__ or error.__context__)


class Job:
    """A run that this process owns, ready to be trained; its rows before the first step are written.

    Attributes:
      schedule, batches, optimizer, layout, eval_steps: as `training.loop.train` takes them.
    """

    def __init__(self, directory: RunDir, workdir: Workdir):
        from cptlaw.data.batches import TrainBatches

        run = directory.run
        self.directory, self.run, self.workdir = directory, run, workdir
        self.layout = layout(run)
        self.optimizer = run.make_optimizer()
        self.schedule = run.schedule()
        self.eval_steps = [run.steps(tokens) for tokens in run.eval_tokens]
        base = None if run.init is None else _base(workdir, run.init)
        self.batches = TrainBatches(
            {name: _store(workdir, name, "train") for name in run.shares},
            run.shares,
            run.seq_len,
            run.batch_size,
            # Another order than that of continual pre-training: replay must not begin with what the base saw first.
            seed=~run.seed if run.init is None else run.seed,
        )
        self._facts = _facts(run, workdir, base)
        self._losses: list[dict[str, Any]] = []
        if base is not None and not run.trunk:
            # Before its first step every run of a size equals the base model, whose losses the base run has measured.
            known = {row["eval"] for row in directory.rows()}
            losses = [row for row in base["losses"] if row["eval"] in run.evals]
            if not known.issuperset(row["eval"] for row in losses):
                kinds = (False, True) if run.ema else (False,)  # an average of nothing yet is what it begins with
                directory.add(
                    [{**self._facts, **_BEFORE, **_ema(run, averaged), **row} for averaged in kinds for row in losses]
                )

    def first_state(self) -> Any:
        """Where the run starts when it has no checkpoint: in its trunk, at its base, or from scratch."""
        from cptlaw.training.checkpoints import load_state
        from cptlaw.training.start import first_state, next_phase

        run, cfg, optimizer, placed = self.run, self.run.config, self.optimizer, self.layout
        if run.trunk is not None:
            trunk, step = self.workdir.task(run.trunk), run.steps(run.first_token)
            folder = trunk.checkpoints
            if not folder.exists():
                raise UserError(
                    f"its trunk {run.trunk} has no checkpoints any more: they were removed when all its branches had "
                    f"finished. Delete {trunk.verdict}, so that the trunk is trained again, and retry "
                    "this run (--retry-failed)"
                )
            return first_state(cfg, optimizer, placed, resume=lambda abstract: load_state(folder, abstract, step))
        if run.init is None:
            return first_state(cfg, optimizer, placed, seed=run.seed)
        folder = rundir.checkpoints_of(self.workdir, run.init)
        if run.phase.keep_optimizer:
            return first_state(cfg, optimizer, placed, resume=lambda abstract: next_phase(folder, abstract))
        return first_state(cfg, optimizer, placed, weights=lambda _: base_params(folder, cfg, placed))

    def evaluate(self, point: Any, params: Any) -> None:
        """Measures the losses after a step: rows of the runs table. Raises FloatingPointError for one that is none.

        `params` may be the average of the weights, as `point` says.
        """
        self.record(point, {corpus: self.score(corpus, params) for corpus in self.run.evals})

    def score(self, corpus: str, params: Any) -> Any:
        return _score(params, self.workdir, corpus, self.run, self.layout)

    def record(self, point: Any, scores: Mapping[str, Any]) -> None:
        """Adds the rows of a step, from the `Scores` of each corpus; raises as `evaluate` does."""
        losses = _losses(scores, point.step)
        at = {"tokens": point.tokens, "step": point.step, "lr": point.lr, "flops": point.flops}
        at |= {"lr_sum": point.lr_sum, "lr_anneal": point.lr_anneal, **_ema(self.run, point.averaged)}
        self.directory.add([{**self._facts, **at, **row} for row in losses])
        if not point.averaged:  # other runs start from the weights, not from their average
            self._losses = losses

    @contextlib.contextmanager
    def records(self, conditions: Conditions, together: Sequence[Run]) -> Iterator[tuple[Any, Any]]:
        """Yields the run's `Checkpoints`, and the function that is to be given its metrics.

        `together` are the runs of its program, itself included.
        """
        import jax

        from cptlaw.training import writers
        from cptlaw.training.checkpoints import Checkpoints

        run = self.run
        keep = [run.steps(tokens) for tokens in run.keep_tokens]
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(
                Checkpoints(
                    self.directory.checkpoints,
                    recent=RECENT_CHECKPOINTS,
                    keep=keep,
                    seconds=conditions.checkpoint_seconds,
                )
            )
            write = None
            if jax.process_index() == 0:  # only one process writes
                kinds, config = conditions.monitor.writers, dataclasses.asdict(run)
                write = stack.enter_context(writers.writers(kinds, self.directory.path, run.id, config))

            def log(metrics: Any) -> None:
                if write is not None:
                    write(metrics.record())
                conditions.progress(together, run, metrics.point.tokens - run.first_token)

            yield checkpoints, log

    def end(self, result: Any) -> None:
        """Writes how training ended, unless it was stopped."""
        from cptlaw.training import loop

        if result.status == loop.STOPPED:
            return
        if result.status == loop.FAILED:
            self.directory.fail(result.reason)
            return
        point = result.point
        # A run that resumed from the checkpoint of its last step, or a trunk, has measured none in this process.
        last = self._losses or [
            {name: row[name] for name in ("eval", "loss", "loss_se")}
            for row in self.directory.rows()
            if row["step"] == point.step and not row.get("ema")
        ]
        spent = {"pretrain_tokens": point.tokens, "lr_sum_pretrain": point.lr_sum}
        self.directory.finish(spent={**spent, "lr_anneal_pretrain": point.lr_anneal}, losses=last)


@contextlib.contextmanager
def watched(directory: RunDir, monitor: Monitor) -> Iterator[Callable[[int, Any], None]]:
    """Yields the function to call before every step: the stall watch and the profiler, which write to `directory`."""
    import jax

    from cptlaw.training import guard

    with contextlib.ExitStack() as stack:
        stalls = f"stalls-{jax.process_index()}.txt" if jax.process_count() > 1 else "stalls.txt"
        beat = stack.enter_context(guard.stall_watch(directory.path / stalls, monitor.stall_seconds))
        profile = stack.enter_context(guard.profiler(directory.path / "profile", *monitor.profile_steps))

        def on_step(step: int, state: Any) -> None:
            beat(step, state)
            profile(step, state)

        yield on_step


def tidy(directory: RunDir, keep_checkpoint: bool = False) -> None:
    """Drops the checkpoints of a finished run that no other starts from, unless they are to be kept."""
    run = directory.run
    others_need_it = run.init is None or run.keep_tokens
    if directory.state() == rundir.FINISHED and not (others_need_it or keep_checkpoint):
        directory.drop_checkpoints()


def import_weights(directory: RunDir, workdir: Workdir) -> None:
    """A base model that comes from open weights: a checkpoint and its losses, and no training."""
    from cptlaw.models import weights
    from cptlaw.training.checkpoints import Checkpoints
    from cptlaw.training.start import first_state

    run = directory.run
    path, cfg, placed = run.weights, run.config, layout(run)
    assert path is not None
    state = first_state(
        cfg, run.make_optimizer(), placed, weights=lambda abstract: weights.load_params(path, cfg, abstract)
    )
    with Checkpoints(directory.checkpoints) as checkpoints:
        checkpoints.save(0, state)
    # `spent` is empty, because nothing says what the folder's pre-training took.
    scores = {corpus: _score(state.params, workdir, corpus, run, placed) for corpus in run.evals}
    directory.finish(spent={}, losses=_losses(scores, 0))


# The columns of a row before the first step.
_BEFORE = {"tokens": 0, "step": 0, "lr": 0.0, "flops": 0.0, "lr_sum": 0.0, "lr_anneal": 0.0}


def _ema(run: Run, averaged: bool) -> dict[str, float]:
    """The column that tells averaged weights from those of a step, which other runs have no need of."""
    return {"ema": run.ema if averaged else 0.0} if run.ema else {}


def _losses(scores: Mapping[str, Any], step: int) -> list[dict[str, Any]]:
    """The loss on every corpus that is evaluated, with its standard error."""
    for corpus, score in scores.items():
        if not math.isfinite(score.loss):
            raise FloatingPointError(f"the {corpus} loss is {score.loss} after step {step}")
    return [{"eval": corpus, "loss": score.loss, "loss_se": score.loss_se} for corpus, score in scores.items()]


def _facts(run: Run, workdir: Workdir, base: dict[str, Any] | None) -> dict[str, Any]:
    """The columns of the runs table that are the same in all of a run's rows."""
    from cptlaw.models import transformer

    facts: dict[str, Any] = {
        "run": run.trunk or run.id,  # a trunk and its branches are one run, measured at several lengths
        "params": transformer.count_params(run.config)["non_embedding"],
        "model": run.size,
        "seed": run.seed,
        "status": "ok",
    }
    for corpus in run.evals:
        facts[f"w_{corpus}"] = run.shares.get(corpus, 0.0)
        facts[f"unique_tokens_{corpus}"] = len(_store(workdir, corpus, "train").tokens)
    return facts if base is None else facts | {"base": run.init} | base["spent"]


# One process trains many runs of few sizes, so what they share is cached: read, placed and compiled once.


@functools.cache
def _store(workdir: Workdir, corpus: str, split: str) -> Any:
    from cptlaw.data.store import TokenStore

    return TokenStore.open(workdir.store(corpus, split))


@functools.cache
def _eval_batches(workdir: Workdir, corpus: str, seq_len: int, batch_size: int, max_tokens: int | None) -> list:
    from cptlaw.data.batches import eval_batches

    return list(eval_batches(_store(workdir, corpus, "validation"), seq_len, batch_size, max_tokens))


def score_group(params: Any, jobs: Mapping[int, Job], corpus: str) -> dict[int, Any]:
    """The `Scores` of runs that train together, by their place in the stacked parameters."""
    from cptlaw.scoring.evaluate import score_runs

    run, workdir = next(iter(jobs.values())).run, next(iter(jobs.values())).workdir
    batches = _eval_batches(workdir, corpus, run.seq_len, run.eval_batch_size, run.eval_max_tokens)
    return score_runs(run.config, params, jobs, batches, _store(workdir, corpus, "validation").doc_bytes)


def _score(params: Any, workdir: Workdir, corpus: str, run: Run, layout: Any) -> Any:
    batches = _eval_batches(workdir, corpus, run.seq_len, run.eval_batch_size, run.eval_max_tokens)
    return _evaluator(run.config, layout).score(params, batches, _store(workdir, corpus, "validation").doc_bytes)


@functools.cache
def _evaluator(cfg: Any, layout: Any) -> Any:
    from cptlaw.scoring.evaluate import Evaluator

    return Evaluator(cfg, layout)


def layout(run: Run) -> Any:
    """The run's mesh and rules: as its config says, or data-parallel over as many devices as divide its batches.

    Raises UserError when that leaves a process without a device, which JAX gives no program to run.
    """
    return _layout(tuple(sorted(run.mesh.items())), math.gcd(run.batch_size, run.eval_batch_size))


@functools.cache
def _layout(mesh: tuple[tuple[str, int], ...], rows: int) -> Any:
    import jax

    from cptlaw.models.sharding import Layout, make_mesh

    if mesh:
        sizes: dict[str, Any] = dict(mesh)
        return Layout(make_mesh(**sizes))
    return Layout(make_mesh(devices=spread(jax.devices(), math.gcd(rows, jax.device_count()))))


def spread(devices: Sequence[Any], count: int) -> list[Any]:
    """So many of the devices, the same number from each process."""
    by_process: dict[int, list[Any]] = {}
    for device in devices:
        by_process.setdefault(device.process_index, []).append(device)
    if count % len(by_process):
        raise UserError(
            f"config.batch_size, eval_batch_size: {count} devices at most divide both, which leaves a part of the "
            f"{len(by_process)} processes without one; choose multiples of {len(devices)}, or set config.mesh"
        )
    return [device for own in by_process.values() for device in own[: count // len(by_process)]]


@functools.cache
def _base(workdir: Workdir, run_id: str) -> dict[str, Any]:
    task = workdir.task(run_id)
    result = rundir.read_result(task)
    if result is None or result["state"] != rundir.FINISHED:
        raise UserError(f"{task}: the base run is not finished; train it first")
    return result


HOST_BYTES = 1 << 30  # of a base's parameters, up to which the host keeps a copy for the next run


def base_params(folder: Path | Versions, cfg: Any, layout: Any) -> Any:
    """The parameters of a base, placed anew for every run that starts from it.

    No device keeps them: while a run trains it needs its own, and the base's would be a fourth of its state again. A
    small base, of which many runs start, is read once; one process of several has no whole copy of its own to keep.
    """
    import jax

    from cptlaw.training.step import Optimizer, make_start

    abstract = make_start(cfg, Optimizer(), layout)[1].params
    if jax.process_count() > 1 or sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract)) > HOST_BYTES:
        return _read_base(folder, cfg, layout)
    return jax.device_put(_base_on_host(folder, cfg, layout), jax.tree.map(lambda x: x.sharding, abstract))


def _read_base(folder: Path | Versions, cfg: Any, layout: Any) -> Any:
    from cptlaw.training.checkpoints import load_params
    from cptlaw.training.step import Optimizer, make_start

    return load_params(folder, make_start(cfg, Optimizer(), layout)[1].params)


@functools.lru_cache(maxsize=1)  # only of the size that is being trained
def _base_on_host(folder: Path | Versions, cfg: Any, layout: Any) -> Any:
    import jax
    import numpy as np

    # Copies: on a CPU device_get gives the device's own memory.
    return jax.tree.map(np.array, jax.device_get(_read_base(folder, cfg, layout)))
