"""Trains runs, one after the other, until a grid has none left; `python -m cptlaw.experiments.worker PLAN INDEX/COUNT`.

A worker tells its sweep how far it is as JSON lines on stdout, and saves and leaves when its stdin closes.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cptlaw import cache, machine
from cptlaw.errors import UserError
from cptlaw.experiments import rundir
from cptlaw.experiments.config import Monitor, build
from cptlaw.experiments.grid import Run
from cptlaw.experiments.rundir import RunDir

Progress = Callable[[int], Any]
_MONITOR = Monitor()


class Stopped(Exception):
    """Training was asked to stop, and saved where it is."""


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
    from cptlaw.experiments.hosts import run_dir

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
            others_need_it = run.init is None or run.keep_tokens
            if directory.state() == rundir.FINISHED and not (others_need_it or keep_checkpoint):
                directory.drop_checkpoints()
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
    import jax

    from cptlaw.data.batches import TrainBatches
    from cptlaw.models import transformer
    from cptlaw.training import guard, loop, writers
    from cptlaw.training.checkpoints import Checkpoints
    from cptlaw.training.metrics import Metrics, Point

    run = directory.run
    if run.weights is not None:
        _import(directory, workdir)
        return
    cfg = transformer.Config(**run.model)
    placed = layout(run)
    optimizer = run.make_optimizer()
    base = None if run.init is None else _base(workdir, run.init)
    batches = TrainBatches(
        {name: _store(workdir, name, "train") for name in run.shares},
        run.shares,
        run.seq_len,
        run.batch_size,
        # A base model's order of documents is its own: replay must not repeat the ones that it saw first.
        seed=~run.seed if run.init is None else run.seed,
    )
    facts = _facts(run, cfg, workdir, base)
    if base is not None and not run.trunk:
        # Before the first step every run of a size is the base model: measured once, at the end of the base run.
        known = {row["eval"] for row in directory.rows()}
        if not known.issuperset(row["eval"] for row in base["losses"]):
            directory.add([{**facts, **_BEFORE, **row} for row in base["losses"]])
    losses: list[dict[str, Any]] = []

    def evaluate(point: Point, params: transformer.Params) -> None:
        losses[:] = _losses(params, run, workdir, cfg, placed, point.step)
        at = {"tokens": point.tokens, "step": point.step, "lr": point.lr, "flops": point.flops}
        at |= {"lr_sum": point.lr_sum, "lr_anneal": point.lr_anneal}
        directory.add([{**facts, **at, **row} for row in losses])

    with contextlib.ExitStack() as stack:
        keep = [run.steps(tokens) for tokens in run.keep_tokens]
        checkpoints = stack.enter_context(
            Checkpoints(directory.checkpoints, recent=2, keep=keep, seconds=checkpoint_seconds)
        )
        write = None
        if jax.process_index() == 0:  # it speaks for all
            kinds, config = monitor.writers, dataclasses.asdict(run)
            write = stack.enter_context(writers.writers(kinds, directory.path, run.id, config))
        stalls = f"stalls-{jax.process_index()}.txt" if jax.process_count() > 1 else "stalls.txt"
        beat = stack.enter_context(guard.stall_watch(directory.path / stalls, monitor.stall_seconds))
        profile = stack.enter_context(guard.profiler(directory.path / "profile", *monitor.profile_steps))

        def log(metrics: Metrics) -> None:
            if write is not None:
                write(metrics.record())
            progress(metrics.point.tokens - run.first_token)

        def on_step(step: int, state: Any) -> None:
            beat(step, state)
            profile(step, state)

        result = loop.train(
            cfg,
            run.schedule(),
            batches,
            lambda: _first_state(run, workdir, cfg, optimizer, placed),
            optimizer=optimizer,
            layout=placed,
            microbatches=run.microbatches or None,
            checkpoints=checkpoints,
            eval_steps=[run.steps(tokens) for tokens in run.eval_tokens],
            evaluate=evaluate,
            log_every=monitor.log_steps,
            log=log,
            spike=monitor.spike,
            should_stop=should_stop,
            on_step=on_step,
        )
    if result.status == loop.STOPPED:
        raise Stopped
    if result.status == loop.FAILED:
        directory.fail(result.reason)
        return
    if not losses:  # resumed from the checkpoint of the last step, or a trunk
        losses = [
            {name: row[name] for name in ("eval", "loss", "loss_se")}
            for row in directory.rows()
            if row["step"] == result.point.step
        ]
    point = result.point
    spent = {"pretrain_tokens": point.tokens, "lr_sum_pretrain": point.lr_sum, "lr_anneal_pretrain": point.lr_anneal}
    directory.finish(spent=spent, losses=losses)


def _import(directory: RunDir, workdir: Path) -> None:
    """A base model that comes from a Hugging Face folder: a checkpoint and its losses, and no training."""
    from cptlaw.models import hf, transformer
    from cptlaw.training.checkpoints import Checkpoints
    from cptlaw.training.start import first_state

    run = directory.run
    folder, cfg, placed = run.weights, transformer.Config(**run.model), layout(run)
    assert folder is not None
    state = first_state(
        cfg, run.make_optimizer(), placed, weights=lambda abstract: hf.load_params(folder, cfg, abstract)
    )
    with Checkpoints(directory.checkpoints) as checkpoints:
        checkpoints.save(0, state)
    # What its pre-training spent is not known.
    directory.finish(spent={}, losses=_losses(state.params, run, workdir, cfg, placed, 0))


# The columns of a row before the first step.
_BEFORE = {"tokens": 0, "step": 0, "lr": 0.0, "flops": 0.0, "lr_sum": 0.0, "lr_anneal": 0.0}


def _losses(params: Any, run: Run, workdir: Path, cfg: Any, placed: Any, step: int) -> list[dict[str, Any]]:
    """The loss on every corpus that is evaluated, with its standard error."""
    losses = []
    for corpus in run.evals:
        scores = _score(params, workdir, corpus, run, cfg, placed)
        if not math.isfinite(scores.loss):
            raise FloatingPointError(f"the {corpus} loss is {scores.loss} after step {step}")
        losses.append({"eval": corpus, "loss": scores.loss, "loss_se": scores.loss_se})
    return losses


def _first_state(run: Run, workdir: Path, cfg: Any, optimizer: Any, placed: Any) -> Any:
    """Where the run starts when it has no checkpoint: in its trunk, at its base, or from scratch."""
    from cptlaw.training.checkpoints import load_state
    from cptlaw.training.start import first_state, next_phase

    def checkpoints_of(name: str) -> Path:
        return rundir.path_of(workdir, name) / "checkpoints"

    if run.trunk is not None:
        folder, step = checkpoints_of(run.trunk), run.steps(run.first_token)
        return first_state(cfg, optimizer, placed, resume=lambda abstract: load_state(folder, abstract, step))
    if run.init is None:
        return first_state(cfg, optimizer, placed, seed=run.seed)
    folder = checkpoints_of(run.init)
    if run.phase.keep_optimizer:
        return first_state(cfg, optimizer, placed, resume=lambda abstract: next_phase(folder, abstract))
    return first_state(cfg, optimizer, placed, weights=lambda _: _base_params(folder, cfg, placed))


def _facts(run: Run, cfg: Any, workdir: Path, base: dict[str, Any] | None) -> dict[str, Any]:
    """The columns of the runs table that are the same in all of a run's rows."""
    from cptlaw.models import transformer

    facts: dict[str, Any] = {
        "run": run.trunk or run.id,  # a trunk and its branches are one run, measured at several lengths
        "params": transformer.count_params(cfg)["non_embedding"],
        "model": run.size,
        "seed": run.seed,
        "status": "ok",
    }
    for corpus in run.evals:
        facts[f"w_{corpus}"] = run.shares.get(corpus, 0.0)
        facts[f"unique_tokens_{corpus}"] = len(_store(workdir, corpus, "train").tokens)
    return facts if base is None else facts | base["spent"]


# One process trains many runs of few sizes: what they share is read, placed and compiled once.


@functools.cache
def _store(workdir: Path, corpus: str, split: str) -> Any:
    from cptlaw.data.store import TokenStore

    return TokenStore.open(workdir / "data" / corpus / split)


@functools.cache
def _eval_batches(workdir: Path, corpus: str, seq_len: int, batch_size: int, max_tokens: int | None) -> list:
    from cptlaw.data.batches import eval_batches

    return list(eval_batches(_store(workdir, corpus, "validation"), seq_len, batch_size, max_tokens))


def _score(params: Any, workdir: Path, corpus: str, run: Run, cfg: Any, layout: Any) -> Any:
    batches = _eval_batches(workdir, corpus, run.seq_len, run.eval_batch_size, run.eval_max_tokens)
    return _evaluator(cfg, layout).score(params, batches, _store(workdir, corpus, "validation").doc_bytes)


@functools.cache
def _evaluator(cfg: Any, layout: Any) -> Any:
    from cptlaw.perplexity.evaluate import Evaluator

    return Evaluator(cfg, layout)


def layout(run: Run) -> Any:
    """The run's mesh and rules: as its config says, or data-parallel over as many devices as divide its batches."""
    return _layout(tuple(sorted(run.mesh.items())), math.gcd(run.batch_size, run.eval_batch_size))


@functools.cache
def _layout(mesh: tuple[tuple[str, int], ...], rows: int) -> Any:
    import jax

    from cptlaw.training.sharding import Layout, make_mesh

    if mesh:
        sizes: dict[str, Any] = dict(mesh)
        return Layout(make_mesh(**sizes))
    return Layout(make_mesh(devices=jax.devices()[: math.gcd(rows, jax.device_count())]))


@functools.cache
def _base(workdir: Path, run_id: str) -> dict[str, Any]:
    result = rundir.read_result(rundir.path_of(workdir, run_id))
    if result is None or result["state"] != rundir.FINISHED:
        raise UserError(f"{workdir}/runs/{run_id}: the base run is not finished; train it first")
    return result


@functools.lru_cache(maxsize=1)  # the size that is being trained: on accelerators its memory counts
def _base_params(folder: Path, cfg: Any, layout: Any) -> Any:
    from cptlaw.training.checkpoints import load_params
    from cptlaw.training.step import Optimizer, make_start

    return load_params(folder, make_start(cfg, Optimizer(), layout)[1].params)


def main(plan_path: str, place: str) -> None:
    """Works on the plan's runs until none is left or the sweep goes away."""
    machine.keep_memory()
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

    def tell(run: Run, tokens: int) -> None:
        try:
            print(json.dumps({"worker": index, "run": run.id, "tokens": tokens}), flush=True)
        except OSError:  # the sweep is gone, which must not fail its run
            stop.set()

    threading.Thread(target=watch, daemon=True).start()
    cache.keep_compiled()
    # Bases first, since others wait for them; then the longest, so that no core is left alone with it at the end.
    queue = sorted(runs, key=lambda run: (run.init is not None, -run.flops()))
    planned = {run.id for run in runs}
    while queue and not stop.is_set():
        queue = [run for run in queue if RunDir(workdir, run).result() is None]
        for run in queue:
            if not _ready(run, workdir, planned):
                continue
            try:
                trained = train(
                    run,
                    workdir,
                    checkpoint_seconds=plan["checkpoint_seconds"],
                    monitor=monitor,
                    progress=functools.partial(tell, run),
                    should_stop=stop.is_set,
                )
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
