"""Many runs of one model in one compiled program, for runs that differ in data, schedule and start alone.

Their states are stacked along a leading axis R (runs), which a mesh axis `runs` splits over the devices: each device
trains whole runs, several at a time by vmap, and never talks to another. Numbers are those of runs of their own, to
rounding. A small model leaves most of an accelerator idle; several side by side do not. On a CPU they gain nothing
(benchmarks/cpu_step.py), so a sweep there trains its runs in processes of their own.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import numpy as np

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout
from cptlaw.models.sharding import make_mesh as make_data_mesh
from cptlaw.training import loop
from cptlaw.training.loop import Member, Result
from cptlaw.training.metrics import Metrics, Point
from cptlaw.training.step import Optimizer, State, Sums, default_microbatches, make_start, plain_step

_ADAMW = Optimizer()


def train_all(
    cfg: transformer.Config,
    members: Sequence[Member],
    *,
    optimizer: Optimizer = _ADAMW,
    layout: Layout | None = None,
    microbatches: int | None = None,
    evaluate: Callable[[int, Point, transformer.Params], Any] = lambda run, point, params: None,
    log: Callable[[int, Metrics], Any] = lambda run, metrics: None,
    **options: Unpack[loop.Options],
) -> list[Result]:
    """Trains all members to their end, or what is left of it, in one process; a result for each.

    Args:
      members: their schedules have the same number of steps, and their batches the same shape.
      layout: where a run's state is while it is measured or saved, and how `init` places it; None, on one device.
      microbatches: parts to take a run's batch in; None, see `default_microbatches`.
      evaluate, log, options: see `loop.run`.

    Raises:
      UserError: the members differ in steps, batches or in the step that they go on from.
    """
    shapes = {(m.schedule.steps, m.batches.batch_size, m.batches.seq_len) for m in members}
    if len(shapes) != 1:
        raise UserError(f"runs trained together need the same steps, batch_size and seq_len, not {sorted(shapes)}")
    program = _Stacked(cfg, members, optimizer, layout, microbatches)
    return loop.run(cfg, members, program, evaluate=evaluate, log=log, **options)


class _Stacked:
    """The program of all runs: their states, batches and learning rates stacked along the axis R."""

    def __init__(
        self,
        cfg: transformer.Config,
        members: Sequence[Member],
        optimizer: Optimizer,
        layout: Layout | None,
        microbatches: int | None,
    ):
        one_device = Layout(make_data_mesh(devices=jax.devices()[:1]))
        batches = members[0].batches
        parts = microbatches or default_microbatches(cfg, one_device, batches.batch_size, batches.seq_len)
        self.members, self.mesh = members, make_mesh(len(members))
        self.by_run = jax.NamedSharding(self.mesh, jax.P("runs"))
        self.update = make_steps(cfg, optimizer, self.mesh, parts)
        self.abstract = make_start(cfg, optimizer, layout or one_device)[1]
        self.placed = jax.tree.map(lambda x: x.sharding, self.abstract)
        rates = [m.schedule.learning_rates() for m in members]
        self.learning_rates = np.stack(rates, axis=1).astype(np.float32)

    def start(self) -> tuple[int, State]:
        # States are stacked on the host, because no device may have the memory for all of them.
        states = [jax.device_get(member.start(self.abstract)) for member in self.members]
        if len(starts := {int(state.step) for state in states}) != 1:
            raise UserError(f"runs trained together go on from the same step, not {sorted(starts)}")
        return starts.pop(), jax.device_put(_stack(states), self.by_run)

    def step(self, step: int, state: State) -> tuple[State, Sums]:
        batch = _stack([member.batches.batch(step - 1, slice(None)) for member in self.members])
        return self.update(state, *jax.device_put((batch, self.learning_rates[step - 1]), self.by_run))

    def state_of(self, state: State, run: int) -> State:
        return one_of(state, run, self.placed)

    def params_of(self, state: State, run: int) -> transformer.Params:
        return one_of(state.params, run, self.placed.params)


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
