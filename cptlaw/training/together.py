"""Many runs of one model in one compiled program, for runs that differ in data, schedule and start alone.

Their states are stacked along a leading axis R (runs), which a mesh axis `runs` splits over the devices: each device
trains whole runs, several at a time by vmap, and never talks to another. Numbers are those of runs of their own, to
rounding. A small model leaves most of an accelerator idle; several side by side do not. On a CPU they gain nothing
(benchmarks/cpu_step.py), so a sweep there trains its runs in processes of their own.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.guard import Diverged, Guard
from cptlaw.training.loop import FAILED, FINISHED, STOPPED, Batches, Result, points
from cptlaw.training.metrics import Metrics, Point
from cptlaw.training.schedules import Schedule
from cptlaw.training.step import Optimizer, State, Sums, new_state, plain_step

_ADAMW = Optimizer()


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the runs; all have schedules of the same number of steps and batches of the same shape."""

    schedule: Schedule
    batches: Batches
    init: Callable[[], State]


def train(
    cfg: transformer.Config,
    members: Sequence[Member],
    *,
    optimizer: Optimizer = _ADAMW,
    microbatches: int = 1,
    checkpoints: Checkpoints | None = None,
    eval_steps: Collection[int] = (),
    evaluate: Callable[[int, Point, transformer.Params], Any] = lambda run, point, params: None,
    log_every: int = 10,
    log: Callable[[int, Metrics], Any] = lambda run, metrics: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Result]:
    """Trains all members to their end, or what is left of it; arguments are those of `loop.train`, run by run.

    A run that diverges fails alone; it is measured no more. One process.
    """
    shapes = {(m.schedule.steps, m.batches.batch_size, m.batches.seq_len) for m in members}
    if len(shapes) != 1:
        raise UserError(f"runs trained together need the same steps, batch_size and seq_len, not {sorted(shapes)}")
    ((steps, _, _),) = shapes
    every = range(len(members))
    mesh = make_mesh(len(members))
    by_run = jax.NamedSharding(mesh, jax.P("runs"))
    update = make_steps(cfg, optimizer, mesh, microbatches)
    learning_rates = np.stack([m.schedule.learning_rates() for m in members], axis=1).astype(np.float32)
    at = [points(cfg, m.schedule, m.batches) for m in members]
    guards = [Guard(None) for _ in every]
    failed: dict[int, Result] = {}

    def report(step: int, sums: Sums) -> None:
        nats, tokens, grad_norms = jax.device_get((sums.nats, sums.tokens, sums.grad_norm))
        for run in set(every) - failed.keys():
            metrics = Metrics(at[run](step), float(nats[run]), float(tokens[run]), float(grad_norms[run]))
            if step % log_every == 0 or step == steps:
                log(run, metrics)
            try:
                guards[run].check(metrics)
            except Diverged as diverged:
                failed[run] = Result(FAILED, diverged.point, {}, str(diverged))

    def measure(step: int, state: State) -> None:
        for run in set(every) - failed.keys():
            evaluate(run, at[run](step), params_of(state, run))

    restored = checkpoints.restore(_abstract(cfg, optimizer, len(members), by_run)) if checkpoints else None
    state = restored[1] if restored else jax.device_put(_stack([m.init() for m in members]), by_run)
    first = int(state.step[0])
    if first == 0 and 0 in eval_steps:
        measure(0, state)
    late: tuple[int, Sums] | None = None
    for step in range(first + 1, steps + 1):
        batch = _stack([m.batches.batch(step - 1, slice(None)) for m in members])
        state, sums = update(state, jax.device_put(batch, by_run), learning_rates[step - 1])
        if late:
            report(*late)
        late = (step, sums) if step % log_every == 0 else None
        last, stop = step == steps, should_stop()
        save = checkpoints is not None and (last or stop or step in checkpoints.keep or checkpoints.due())
        if save or last or stop or step in eval_steps:
            report(step, sums)
            late = None
        if step in eval_steps:
            measure(step, state)
        if checkpoints is not None and save:
            checkpoints.save(step, state)
        if stop and not last:
            break
    done = int(state.step[0])
    status, reason = (FINISHED, "") if done == steps else (STOPPED, "asked to stop")
    # A run that had diverged before the checkpoint that this call went on from is known by its parameters.
    sound = np.all([np.asarray(jnp.isfinite(leaf).reshape(len(members), -1).all(1))
                    for leaf in jax.tree.leaves(state.params)], axis=0)  # fmt: skip
    for run in np.flatnonzero(~sound).tolist():
        failed.setdefault(run, Result(FAILED, at[run](done), {}, "its parameters are not finite"))
    return [failed.get(run) or Result(status, at[run](done), params_of(state, run), reason) for run in every]


@functools.lru_cache(maxsize=16)
def make_steps(
    cfg: transformer.Config, optimizer: Optimizer, mesh: jax.sharding.Mesh, microbatches: int = 1
) -> Callable[[State, Any, np.ndarray], tuple[State, Sums]]:
    """The compiled step of R runs: (state, batch, learning rates), each with a leading axis R. Donates the state."""
    runs = jax.P("runs")
    steps = jax.vmap(plain_step(cfg, optimizer, microbatches))
    return jax.jit(jax.shard_map(steps, mesh=mesh, in_specs=runs, out_specs=runs, check_vma=False), donate_argnums=0)


def params_of(state: State, run: int) -> transformer.Params:
    """The parameters of one of the runs."""
    return jax.tree.map(lambda leaf: leaf[run], state.params)


def make_mesh(runs: int) -> jax.sharding.Mesh:
    """A mesh of one axis, `runs`, over as many devices as divide the runs."""
    devices = jax.devices()[: math.gcd(runs, jax.device_count())]
    return jax.make_mesh((len(devices),), ("runs",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves) if isinstance(leaves[0], jax.Array) else np.stack(leaves), *trees
    )


def _abstract(cfg: transformer.Config, optimizer: Optimizer, runs: int, sharding: jax.sharding.Sharding) -> State:
    one = jax.eval_shape(lambda: new_state(transformer.init(jax.random.key(0), cfg), optimizer))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype, sharding=sharding), one)
