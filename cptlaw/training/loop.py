"""The training loop, one page from top to bottom."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.schedules import Schedule, dynamics
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.guard import Diverged, Guard, OnStep, Spike, agree
from cptlaw.training.metrics import Clock, Metrics, Point
from cptlaw.training.step import Optimizer, State, Sums, default_microbatches, make_start, make_step

_ADAMW = Optimizer()

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


class Batches(Protocol):
    """Batches as a pure function of the step; `rows` are those of the global batch that this process wants."""

    batch_size: int
    seq_len: int

    def batch(self, step: int, rows: slice) -> Mapping[str, np.ndarray]: ...


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
    init: Callable[[], State],
    *,
    optimizer: Optimizer = _ADAMW,
    layout: Layout | None = None,
    microbatches: int | None = None,
    checkpoints: Checkpoints | None = None,
    eval_steps: Collection[int] = (),
    evaluate: Callable[[Point, transformer.Params], Any] = lambda point, params: None,
    log_every: int = 10,
    log: Callable[[Metrics], Any] = lambda metrics: None,
    spike: Spike | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: OnStep = lambda step, state: None,
) -> Result:
    """Trains up to step `schedule.steps`, or what is left until there.

    Args:
      init: the state to start from, if there is no checkpoint; see `start.first_state`. It is donated.
      microbatches: parts to take a batch in; None, see `default_microbatches`.
      checkpoints: restored from first; saved to when due, at the steps it keeps, when stopped, and at the end.
      eval_steps: numbers of updates after which `evaluate` is called; 0 is before the first. An evaluation comes
        before the checkpoint of its step, so a crash may repeat it, with the same result, but never skip it.
      log_every: steps between calls of `log`, which come one step late: the host never waits for the device.
      spike: which losses end the run; None, only those that are no number. The last checkpoint is then a sound one.
      should_stop: asked after every step; see `on_sigterm`.
      on_step: called before every step with its number and the state before it.
    """
    layout = layout or Layout(make_mesh())
    rows = layout.rows(batches.batch_size)
    parts = microbatches or default_microbatches(cfg, layout, batches.batch_size, batches.seq_len)
    update = make_step(cfg, optimizer, layout, parts)
    learning_rates = schedule.learning_rates()
    at = points(cfg, schedule, batches)
    guard = Guard(spike)
    clock = Clock(at(1).tokens, at(1).flops / at(1).tokens, layout.mesh.devices.flat[0].device_kind, layout.mesh.size)

    def report(step: int, sums: Sums) -> None:
        nats, count, grad_norm = (float(x) for x in jax.device_get((sums.nats, sums.tokens, sums.grad_norm)))
        metrics = Metrics(at(step), nats, count, grad_norm, clock.arrived(step))
        if step % log_every == 0 or step == schedule.steps:
            log(metrics)
        guard.check(metrics)

    restored = checkpoints.restore(make_start(cfg, optimizer, layout)[1]) if checkpoints else None
    state = restored[1] if restored else init()
    first = int(state.step)
    clock.start(first)
    if first == 0 and 0 in eval_steps:
        evaluate(at(0), state.params)

    late: tuple[int, Sums] | None = None
    try:
        for step in range(first + 1, schedule.steps + 1):
            on_step(step, state)
            batch = layout.put(batches.batch(step - 1, rows), batches.batch_size)
            state, sums = update(state, batch, learning_rates[step - 1])
            if late:
                report(*late)
            late = (step, sums) if step % log_every == 0 else None
            last = step == schedule.steps
            keep = checkpoints is not None and (last or step in checkpoints.keep)
            due = checkpoints is not None and checkpoints.due()
            stop, due = agree(should_stop(), due, together=step % log_every == 0)
            if last or keep or stop or due or step in eval_steps:
                # Nothing is evaluated, kept or returned before its step is known to be sound.
                report(step, sums)
                late = None
            with clock.paused():
                if step in eval_steps:
                    evaluate(at(step), state.params)
                if checkpoints is not None and (keep or ((stop or due) and guard.sound)):
                    checkpoints.save(step, state)
            if stop and not last:
                return Result(STOPPED, at(step), state.params, "asked to stop")
    except Diverged as diverged:
        return Result(FAILED, diverged.point, state.params, str(diverged))
    return Result(FINISHED, at(schedule.steps), state.params)


def points(cfg: transformer.Config, schedule: Schedule, batches: Batches) -> Callable[[int], Point]:
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
