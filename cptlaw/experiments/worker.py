"""Trains runs, one after the other, until a grid has none left; `python -m cptlaw.experiments.worker PLAN INDEX/COUNT`.

A worker tells its sweep how far it is as JSON lines on stdout, and saves and leaves when its stdin closes.
"""

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

from cptlaw import cache
from cptlaw.errors import UserError
from cptlaw.experiments import rundir
from cptlaw.experiments.grid import Run
from cptlaw.experiments.rundir import RunDir

Progress = Callable[[int], Any]


class Stopped(Exception):
    """Training was asked to stop, and saved where it is."""


def train(
    run: Run,
    workdir: Path,
    *,
    checkpoint_seconds: float = 60.0,
    keep_checkpoint: bool = False,
    progress: Progress = lambda tokens: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Trains one run to its end, if no other process does. Its rows and result are in its run directory.

    Args:
      run: what to train; the run it starts from must be finished.
      workdir: the study's directory, token stores included.
      checkpoint_seconds: how much work a crash may cost.
      keep_checkpoint: keep the last checkpoint of a continual pre-training run, which the study itself needs no more.
      progress: called with the tokens done.
      should_stop: asked after every step.

    Returns:
      Whether this process trained it: False when another works on it or has ended it.

    Raises:
      Stopped: after saving, because `should_stop` said so.
    """
    directory = RunDir(workdir, run)
    with directory.claim() as mine:
        if not mine:
            return False
        progress(0)
        from cptlaw.training.checkpoints import CheckpointError

        def attempt() -> None:
            _train(directory, Path(workdir), checkpoint_seconds, progress, should_stop)

        try:
            try:
                attempt()
            except CheckpointError:
                # Every checkpoint of it is damaged: starting over costs time, and gives the same rows.
                directory.drop_checkpoints()
                attempt()
            if run.init is not None and not keep_checkpoint:
                directory.drop_checkpoints()
        except Stopped:
            raise
        except Exception as error:
            # One bad cell must not stop the grid. Its checkpoints may be what filled the disk, and its
            # traceback is worth more than they are.
            directory.drop_checkpoints()
            known = isinstance(error, UserError)
            directory.fail(str(error) if known else f"{type(error).__name__}: {error}", traceback.format_exc())
        return True


def _train(
    directory: RunDir, workdir: Path, checkpoint_seconds: float, progress: Progress, should_stop: Callable[[], bool]
) -> None:
    from cptlaw.data.batches import TrainBatches
    from cptlaw.models import transformer
    from cptlaw.training import loop
    from cptlaw.training.checkpoints import Checkpoints
    from cptlaw.training.step import Optimizer, make_init

    run = directory.run
    cfg = transformer.Config(**run.model)
    placed = layout(run)
    base = None if run.init is None else _base(workdir, run.init)
    batches = TrainBatches(
        {name: _store(workdir, name, "train") for name in run.shares},
        run.shares,
        run.seq_len,
        run.batch_size,
        # A base model's order of documents is its own: replay must not repeat the ones that it saw first.
        seed=~run.seed if run.init is None else run.seed,
    )
    per_step = run.seq_len * run.batch_size
    facts = _facts(run, cfg, workdir, base)
    if base is not None and not all(row["eval"] in {old["eval"] for old in directory.rows()} for row in base["losses"]):
        # Before the first step every run of a size is the base model: measured once, at the end of the base run.
        directory.add([{**facts, **row} for row in base["losses"]])

    def init() -> transformer.Params:
        if run.init is None:
            return make_init(cfg, placed)(run.seed)
        return _base_params(workdir, run.init, cfg, placed)

    losses: list[dict[str, Any]] = []

    def evaluate(point: loop.Point, params: transformer.Params) -> None:
        losses[:] = [
            {"eval": corpus, "loss": scores.loss, "loss_se": scores.loss_se}
            for corpus in run.evals
            for scores in [_score(params, workdir, corpus, run, cfg, placed)]
        ]
        for row in losses:
            if not math.isfinite(row["loss"]):
                raise FloatingPointError(f"the {row['eval']} loss is {row['loss']} after step {point.step}")
        at = {"tokens": point.tokens, "step": point.step, "lr": point.lr, "flops": point.flops}
        at |= {"lr_sum": point.lr_sum, "lr_anneal": point.lr_anneal}
        directory.add([{**facts, **at, **row} for row in losses])

    with Checkpoints(directory.checkpoints, recent=2, seconds=checkpoint_seconds) as checkpoints:
        result = loop.train(
            cfg,
            run.schedule(),
            batches,
            init,
            optimizer=Optimizer(**run.optimizer),
            layout=placed,
            checkpoints=checkpoints,
            eval_steps=[tokens // per_step for tokens in run.eval_tokens],
            evaluate=evaluate,
            log=lambda metrics: progress(metrics.point.tokens),
            should_stop=should_stop,
        )
    if result.status == loop.STOPPED:
        raise Stopped
    if result.status == loop.FAILED:
        directory.fail(result.reason)
        return
    if not losses:  # resumed from the checkpoint of the last step
        losses = [
            {name: row[name] for name in ("eval", "loss", "loss_se")}
            for row in directory.rows()
            if row["step"] == result.point.step
        ]
    directory.finish(
        tokens=result.point.tokens,
        lr_sum=result.point.lr_sum,
        lr_anneal=result.point.lr_anneal,
        losses=[
            {"tokens": 0, "step": 0, "lr": 0.0, "flops": 0.0, "lr_sum": 0.0, "lr_anneal": 0.0, **row} for row in losses
        ],
    )


def _facts(run: Run, cfg: Any, workdir: Path, base: dict[str, Any] | None) -> dict[str, Any]:
    """The columns of the runs table that are the same in all of a run's rows."""
    from cptlaw.models import transformer

    facts: dict[str, Any] = {
        "run": run.id,
        "params": transformer.count_params(cfg)["non_embedding"],
        "model": run.size,
        "seed": run.seed,
        "status": "ok",
    }
    for corpus in run.evals:
        facts[f"w_{corpus}"] = run.shares.get(corpus, 0.0)
        facts[f"unique_tokens_{corpus}"] = len(_store(workdir, corpus, "train").tokens)
    if base is not None:
        facts["pretrain_tokens"] = base["tokens"]
        facts["lr_sum_pretrain"] = base["lr_sum"]
        facts["lr_anneal_pretrain"] = base["lr_anneal"]
    return facts


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


@functools.cache
def _base_params(workdir: Path, run_id: str, cfg: Any, layout: Any) -> Any:
    from cptlaw.training.checkpoints import load_params
    from cptlaw.training.step import Optimizer, make_start

    abstract = make_start(cfg, Optimizer(), layout)[1].params
    return load_params(rundir.path_of(workdir, run_id) / "checkpoints", abstract)


def main(plan_path: str, place: str) -> None:
    """Works on the plan's runs until none is left or the sweep goes away."""
    plan = json.loads(Path(plan_path).read_text())
    workdir, runs = Path(plan["workdir"]), [Run.of(fields) for fields in plan["runs"]]
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
    if run.init is None:
        return True
    base = rundir.read_result(rundir.path_of(workdir, run.init))
    if base is None and run.init not in planned:
        RunDir(workdir, run).fail(f"its base run {run.init} has not been trained")
    elif base is not None and base["state"] == rundir.FAILED:
        RunDir(workdir, run).fail(f"its base run {run.init} failed: {base['reason']}")
    return base is not None and base["state"] == rundir.FINISHED


if __name__ == "__main__":
    main(*sys.argv[1:])
