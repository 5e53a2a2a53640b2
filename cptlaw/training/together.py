"""Many runs of one model in one compiled program, for runs that differ in data, schedule and start alone.

Their states are stacked along a leading axis R (runs), which a mesh axis `runs` splits over the devices: each device
trains whole runs, several at a time by vmap, and never talks to another. Numbers are those of runs of their own, to
rounding. A small model leaves most of an accelerator idle; several side by side do not. On a CPU they gain nothing
(benchmarks/cpu_step.py), so a sweep there trains its runs in processes of their own.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout
from cptlaw.models.sharding import make_mesh as make_data_mesh
from cptlaw.schedules import Schedule
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.guard import Diverged, Guard, OnStep, Spike
from cptlaw.training.loop import FAILED, FINISHED, STOPPED, Batches, Result, points
from cptlaw.training.metrics import Clock, Metrics, Point
from cptlaw.training.step import Optimizer, State, Sums, default_microbatches, make_start, plain_step

_ADAMW = Optimizer()


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the runs; all have schedules of the same number of steps and batches of the same shape.

    Its checkpoints are those that `loop.train` would write, and go on from: a run may change between the two.
    """

    schedule: Schedule
    batches: Batches
    init: Callable[[], State]
    checkpoints: Checkpoints | None = None


def train(
    cfg: transformer.Config,
    members: Sequence[Member],
    *,
    optimizer: Optimizer = _ADAMW,
    layout: Layout | None = None,
    microbatches: int | None = None,
    eval_steps: Collection[int] = (),
    evaluate: Callable[[int, Point, transformer.Params], Any] = lambda run, point, params: None,
    log_every: int = 10,
    log: Callable[[int, Metrics], Any] = lambda run, metrics: None,
    spike: Spike | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: OnStep = lambda step, state: None,
) -> list[Result]:
    """Trains all members to their end, or what is left of it; arguments are those of `loop.train`, run by run.

    A run that diverges fails alone; it is measured and saved no more. One process.

    Args:
      layout: where a run's state is while it is measured or saved, and how `init` places it; None, on one device.
      log: the speed in its metrics is that of all runs together.
      on_step: the state that it is given is that of all runs.

    Returns:
      A result for each member, the parameters of a failed one left out.

    Raises:
      UserError: the members differ in steps, batches or in the step that they go on from.
    """
    shapes = {(m.schedule.steps, m.batches.batch_size, m.batches.seq_len) for m in members}
    if len(shapes) != 1:
        raise UserError(f"runs trained together need the same steps, batch_size and seq_len, not {sorted(shapes)}")
    ((steps, batch_size, seq_len),) = shapes
    one_device = Layout(make_data_mesh(devices=jax.devices()[:1]))
    abstract = make_start(cfg, optimizer, layout or one_device)[1]
    placed = jax.tree.map(lambda x: x.sharding, abstract)
    mesh = make_mesh(len(members))
    by_run = jax.NamedSharding(mesh, jax.P("runs"))
    parts = microbatches or default_microbatches(cfg, one_device, batch_size, seq_len)
    update = make_steps(cfg, optimizer, mesh, parts)
    learning_rates = np.stack([m.schedule.learning_rates() for m in members], axis=1).astype(np.float32)
    at = [points(cfg, m.schedule, m.batches) for m in members]
    flops_per_token = at[0](1).flops / at[0](1).tokens
    clock = Clock(at[0](1).tokens * len(members), flops_per_token, mesh.devices.flat[0].device_kind, mesh.size)
    guards = [Guard(spike) for _ in members]
    failed: dict[int, Result] = {}

    def alive() -> list[int]:
        return [run for run in range(len(members)) if run not in failed]

    def report(step: int, sums: Sums) -> None:
        nats, tokens, grad_norms = jax.device_get((sums.nats, sums.tokens, sums.grad_norm))
        speed = clock.arrived(step)
        for run in alive():
            metrics = Metrics(at[run](step), float(nats[run]), float(tokens[run]), float(grad_norms[run]), speed)
            if step % log_every == 0 or step == steps:
                log(run, metrics)
            try:
                guards[run].check(metrics)
            except Diverged as diverged:
                failed[run] = Result(FAILED, diverged.point, {}, str(diverged))

    def measure(step: int, state: State) -> None:
        for run in alive():
            try:
                evaluate(run, at[run](step), one_of(state.params, run, placed.params))
            except FloatingPointError as error:  # of this run's own parameters
                failed[run] = Result(FAILED, at[run](step), {}, str(error))

    # Through the host, so that no device holds all of them at any time.
    states = [jax.device_get(_start(m, abstract)) for m in members]
    if len(starts := {int(state.step) for state in states}) != 1:
        raise UserError(f"runs trained together go on from the same step, not {sorted(starts)}")
    (first,) = starts
    state = jax.device_put(_stack(states), by_run)
    del states
    clock.start(first)
    if first == 0 and 0 in eval_steps:
        measure(0, state)
    late: tuple[int, Sums] | None = None
    stopped = False
    for step in range(first + 1, steps + 1):
        on_step(step, state)
        batch = _stack([m.batches.batch(step - 1, slice(None)) for m in members])
        state, sums = update(state, jax.device_put(batch, by_run), learning_rates[step - 1])
        if late:
            report(*late)
        late = (step, sums) if step % log_every == 0 else None
        last, stop = step == steps, should_stop()
        # One clock for all, so that all are saved at the same step, from which they can go on together. A run whose
        # loss is high waits to be sound; the others do not.
        kept = [members[run].checkpoints for run in alive() if guards[run].sound]
        due = stop or any(checkpoints.due(among=len(members)) for checkpoints in kept if checkpoints)
        keep = [run for run, m in enumerate(members) if m.checkpoints and (last or step in m.checkpoints.keep)]
        if last or keep or due or step in eval_steps:
            # Nothing is evaluated, kept or returned before its step is known to be sound.
            report(step, sums)
            late = None
        with clock.paused():
            if step in eval_steps:
                measure(step, state)
            for run in alive():
                checkpoints = members[run].checkpoints
                if checkpoints is not None and (run in keep or (due and guards[run].sound)):
                    checkpoints.save(step, one_of(state, run, placed))
        if not alive():
            break
        if stopped := stop and not last:
            break
    done = int(state.step[0])
    status, reason = (STOPPED, "asked to stop") if stopped else (FINISHED, "")
    return [
        failed.get(run) or Result(status, at[run](done), one_of(state.params, run, placed.params), reason)
        for run in range(len(members))
    ]


def _start(member: Member, abstract: State) -> State:
    restored = member.checkpoints.restore(abstract) if member.checkpoints else None
    return restored[1] if restored else member.init()


@functools.lru_cache(maxsize=16)
def make_steps(
    cfg: transformer.Config, optimizer: Optimizer, mesh: jax.sharding.Mesh, microbatches: int = 1
) -> Callable[[State, Any, np.ndarray], tuple[State, Sums]]:
    """The compiled step of R runs: (state, batch, learning rates), each with a leading axis R. Donates the state."""
    runs = jax.P("runs")
    steps = jax.vmap(plain_step(cfg, optimizer, microbatches))
    return jax.jit(jax.shard_map(steps, mesh=mesh, in_specs=runs, out_specs=runs, check_vma=False), donate_argnums=0)


def make_mesh(runs: int) -> jax.sharding.Mesh:
    """A mesh of one axis, `runs`, over as many devices as divide the runs."""
    count = max(n for n in range(1, jax.device_count() + 1) if runs % n == 0)
    return jax.make_mesh((count,), ("runs",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:count])


def one_of(tree: Any, run: int, shardings: Any) -> Any:
    """The arrays of one of the runs, fetched from the device that trains it and placed as `shardings` say."""

    def home(leaf: jax.Array) -> tuple[int, jax.Array]:
        for shard in leaf.addressable_shards:
            first = shard.index[0].start or 0
            if first <= run < first + len(shard.data):
                return first, shard.data
        raise IndexError(f"run {run} of {len(leaf)}")

    first, _ = home(jax.tree.leaves(tree)[0])
    return jax.device_put(_row(jax.tree.map(lambda leaf: home(leaf)[1], tree), run - first), shardings)


@jax.jit
def _row(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
