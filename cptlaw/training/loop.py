"""The training loop, one page from top to bottom."""

import contextlib
import dataclasses
import math
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from cptlaw.models import transformer
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.schedules import Schedule, dynamics
from cptlaw.training.sharding import Layout, make_mesh
from cptlaw.training.step import Optimizer, Sums, default_microbatches, make_start, make_step

_ADAMW = Optimizer()

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


class Batches(Protocol):
    """Batches as a pure function of the step; `rows` are those of the global batch that this process wants."""

    batch_size: int
    seq_len: int

    def batch(self, step: int, rows: slice) -> Mapping[str, np.ndarray]: ...


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a run is: columns of the runs table. `step` and `tokens` are done; `lr` is the last one used."""

    step: int
    tokens: int
    lr: float
    lr_sum: float
    lr_anneal: float
    flops: float


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What the step that led to `point` measured before its update: its loss in nats over `count` tokens."""

    point: Point
    nats: float
    count: float
    grad_norm: float

    @property
    def loss(self) -> float:
        return self.nats / self.count if self.count else math.nan


@dataclasses.dataclass(frozen=True)
class Result:
    """How training ended: `status` is finished, stopped (resumable) or failed, with the reason.

    `params` are those at `point`; of a failed run they are worthless.
    """

    status: str
    point: Point
    params: transformer.Params
    reason: str = ""


def train(
    cfg: transformer.Config,
    schedule: Schedule,
    batches: Batches,
    init: Callable[[], transformer.Params],
    *,
    optimizer: Optimizer = _ADAMW,
    layout: Layout | None = None,
    microbatches: int | None = None,
    checkpoints: Checkpoints | None = None,
    eval_steps: Collection[int] = (),
    evaluate: Callable[[Point, transformer.Params], Any] = lambda point, params: None,
    log_every: int = 10,
    log: Callable[[Metrics], Any] = lambda metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Trains for `schedule.steps` steps, or what is left of them.

    Args:
      init: the parameters to start from; called only if there is no checkpoint. They are copied.
      microbatches: parts to take a batch in; None, see `default_microbatches`.
      checkpoints: restored from first, saved to when due, when stopped, and at the end.
      eval_steps: numbers of updates after which `evaluate` is called; 0 is before the first. An evaluation comes
        before the checkpoint of its step, so a crash may repeat it, with the same result, but never skip it.
      log_every: steps between calls of `log`, which come one step late: the host never waits for the device.
      should_stop: asked after every step; see `on_sigterm`.
    """
    layout = layout or Layout(make_mesh())
    start, abstract = make_start(cfg, optimizer, layout)
    rows = layout.rows(batches.batch_size)
    parts = microbatches or default_microbatches(layout, batches.batch_size, batches.seq_len)
    update = make_step(cfg, optimizer, layout, parts)
    learning_rates = schedule.learning_rates()
    at = _points(cfg, schedule, batches)

    def report(step: int, sums: Sums) -> None:
        metrics = Metrics(at(step), *(float(x) for x in jax.device_get((sums.nats, sums.tokens, sums.grad_norm))))
        if step % log_every == 0 or step == schedule.steps:
            log(metrics)
        if not (math.isfinite(metrics.nats) and math.isfinite(metrics.grad_norm)):
            raise _Diverged(metrics)

    restored = checkpoints.restore(abstract) if checkpoints else None
    first, state = restored or (0, start(init()))
    if first == 0 and 0 in eval_steps:
        evaluate(at(0), state.params)

    late: tuple[int, Sums] | None = None
    try:
        for step in range(first + 1, schedule.steps + 1):
            batch = layout.put(batches.batch(step - 1, rows), batches.batch_size)
            state, sums = update(state, batch, learning_rates[step - 1])
            if late:
                report(*late)
            late = (step, sums) if step % log_every == 0 else None

            last = step == schedule.steps
            stop, due = _agree(should_stop(), checkpoints is not None and checkpoints.due(), step % log_every == 0)
            save = checkpoints is not None and (stop or due or last)
            if save or last or step in eval_steps:
                # Nothing is evaluated, kept or returned before its step is known to be sound.
                report(step, sums)
                late = None
            if step in eval_steps:
                evaluate(at(step), state.params)
            if checkpoints is not None and save:
                checkpoints.save(step, state)
            if stop and not last:
                return Result(STOPPED, at(step), state.params, "asked to stop")
    except _Diverged as diverged:
        return Result(FAILED, diverged.metrics.point, state.params, str(diverged))
    return Result(FINISHED, at(schedule.steps), state.params)


@contextlib.contextmanager
def on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yields a `should_stop` that turns true at SIGTERM, as clusters send before they take a machine back.

    Only the main thread may use it.
    """
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


class _Diverged(Exception):
    def __init__(self, metrics: Metrics):
        self.metrics = metrics
        point = metrics.point
        super().__init__(
            f"the loss or its gradient is not finite at step {point.step} (loss {metrics.loss}, gradient norm "
            f"{metrics.grad_norm}, learning rate {point.lr:.3g}); lower the peak learning rate or warm up longer"
        )


def _points(cfg: transformer.Config, schedule: Schedule, batches: Batches) -> Callable[[int], Point]:
    """The run's `Point` after any number of steps."""
    learning_rates = schedule.learning_rates()
    lr_sum, lr_anneal = dynamics(learning_rates, before=schedule.start if schedule.warmup else None)
    flops = transformer.flops_per_token(cfg, batches.seq_len)["training"]

    def at(step: int) -> Point:
        tokens = step * batches.batch_size * batches.seq_len
        if step == 0:
            return Point(0, 0, 0.0, 0.0, 0.0, 0.0)
        lr, s1, s2 = (float(array[step - 1]) for array in (learning_rates, lr_sum, lr_anneal))
        return Point(step, tokens, lr, s1, s2, tokens * flops)

    return at


def _agree(stop: bool, due: bool, together: bool) -> tuple[bool, bool]:
    """What any process says, all do; with several processes only at steps where they come `together` anyway."""
    if jax.process_count() == 1:
        return stop, due
    if not together:
        return False, False
    said = multihost_utils.process_allgather(np.array([stop, due])).any(axis=0)
    return bool(said[0]), bool(said[1])
