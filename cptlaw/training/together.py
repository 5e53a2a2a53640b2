"""Many runs of one model in one compiled program, for runs that differ in data, schedule and start alone.

Their states are stacked along a leading axis R (runs), which a mesh axis `runs` splits over the devices: each device
trains whole runs, several at a time (on a CPU in turn), and never talks to another. Numbers are those of runs of their
own, to rounding. A small model leaves most of an accelerator idle; several side by side do not. A CPU gains a tenth at
most (benchmarks/together.md), so a sweep there trains its runs in processes of their own.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout
from cptlaw.models.sharding import make_mesh as make_data_mesh
from cptlaw.training import feed, loop
from cptlaw.training.loop import Member, Result, Sequences
from cptlaw.training.memory import run_bytes
from cptlaw.training.metrics import Metrics, Point, peak_flops
from cptlaw.training.step import Optimizer, State, Sums, default_microbatches, make_start, plain_step

_ADAMW = Optimizer()

_STEP_SECONDS = 1e-3
_PEAK = 200e12  # of an accelerator that `peak_flops` does not know
_FILLED = 0.7  # of a device's memory; the rest is for streams, evaluation and what the compiler adds
_MOST = 128

# Of where each run is that has not failed, by its index; the parameters of all, stacked along an axis R; and a function
# that gives those of one. Gives the reasons of the runs to fail, by index.
EvaluateAll = Callable[
    [Mapping[int, Point], transformer.Params, Callable[[int], transformer.Params]], Mapping[int, str]
]


def train_all(
    cfg: transformer.Config,
    members: Sequence[Member[Sequences]],
    *,
    optimizer: Optimizer = _ADAMW,
    layout: Layout | None = None,
    microbatches: int | None = None,
    evaluate: Callable[[int, Point, transformer.Params], Any] = lambda run, point, params: None,
    evaluate_all: EvaluateAll | None = None,
    log: Callable[[int, Metrics], Any] = lambda run, metrics: None,
    **options: Unpack[loop.Options],
) -> list[Result]:
    """Trains all members to their end, or what is left of it, in one process; a result for each.

    Args:
      members: their schedules have the same number of steps, and their batches the same shape.
      layout: where a run's state is while it is measured or saved, and how `init` places it; None, on one device.
      microbatches: parts to take a run's batch in; None, see `default_microbatches`.
      evaluate: called with the index of each run, where it is, and its parameters; FloatingPointError fails it.
      evaluate_all: in place of `evaluate`, for all runs at once.
      log, options: see `loop.run`.

    Raises:
      UserError: the members differ in steps, batches or in the step that they go on from.
    """
    shapes = {(m.schedule.steps, m.batches.batch_size, m.batches.seq_len) for m in members}
    if len(shapes) != 1:
        raise UserError(f"runs trained together need the same steps, batch_size and seq_len, not {sorted(shapes)}")
    program = _Stacked(cfg, members, optimizer, layout, microbatches)
    every = loop.one_by_one(evaluate, program) if evaluate_all is None else program.evaluation(evaluate_all)
    at = [loop.token_points(cfg, member.schedule, member.batches) for member in members]
    return loop.run(members, program, at, evaluate=every, log=log, **options)


class _Stacked:
    """The program of all runs: their states, batches and learning rates stacked along the axis R.

    Runs that repeat the last one fill up the devices; nobody looks at them.
    """

    def __init__(
        self,
        cfg: transformer.Config,
        members: Sequence[Member[Sequences]],
        optimizer: Optimizer,
        layout: Layout | None,
        microbatches: int | None,
    ):
        one_device = Layout(make_data_mesh(devices=jax.devices()[:1]))
        batches = members[0].batches
        parts = microbatches or default_microbatches(cfg, one_device, batches.batch_size, batches.seq_len)
        self.mesh = make_mesh(len(members))
        self.members = [*members, *[members[-1]] * (-len(members) % self.mesh.size)]
        self.runs, self.by_run = len(members), jax.NamedSharding(self.mesh, jax.P("runs"))
        self.feed = feed.feed([member.batches for member in self.members], self.mesh, cfg.vocab_size)
        self.update = make_steps(cfg, optimizer, self.mesh, self.feed.recipe, parts)
        self.abstract = make_start(cfg, optimizer, layout or one_device)[1]
        self.placed = jax.tree.map(lambda x: x.sharding, self.abstract)
        rates = np.stack([m.schedule.learning_rates() for m in self.members], axis=1).astype(np.float32)
        self.learning_rates = np.concatenate([rates, np.zeros_like(rates[: self.feed.block])])  # of the last block
        self.block: tuple[int, Any] = (-1, None)

    def start(self) -> tuple[int, State]:
        # States are stacked on the host, because no device may have the memory for all of them.
        states = [jax.device_get(member.start(self.abstract)) for member in self.members[: self.runs]]
        if len(starts := {int(state.step) for state in states}) != 1:
            raise UserError(f"runs trained together go on from the same step, not {sorted(starts)}")
        states += [states[-1]] * (len(self.members) - self.runs)
        return starts.pop(), jax.device_put(_stack(states), self.by_run)

    def advance(self, step: int, until: int, state: State) -> tuple[int, State, Sums]:
        size = self.feed.block
        first = step - step % size
        if self.block[0] != first:
            needed = self.feed.of(first), self.learning_rates[first : first + size]
            self.block = first, jax.device_put(needed, jax.NamedSharding(self.mesh, jax.P(None, "runs")))
        until = min(until, first + size)
        span = jax.device_put(np.array([step - first, until - first], np.int32), jax.NamedSharding(self.mesh, jax.P()))
        return until, *self.update(state, self.feed.resident, self.block[1], span)

    def evaluation(self, evaluate: EvaluateAll) -> loop.Evaluate:
        return lambda points, state: evaluate(points, state.params, lambda run: self.params_of(state, run))

    def state_of(self, state: State, run: int) -> State:
        return one_of(state, run, self.placed)

    def params_of(self, state: State, run: int) -> transformer.Params:
        return one_of(state.params, run, self.placed.params)


@functools.lru_cache(maxsize=16)
def make_steps(
    cfg: transformer.Config,
    optimizer: Optimizer,
    mesh: jax.sharding.Mesh,
    recipe: feed.Made | feed.Cut,
    microbatches: int = 1,
) -> Callable[..., tuple[State, Sums]]:
    """The compiled steps of R runs, as many as asked for in one call: the host is heard only between calls.

    Of (state, resident, (parts, learning rates), span): `resident` and `parts` as of the feed, learning rates (block,
    R), and `span` int32 (2,), the first of the block's steps that is taken and the one after the last. Gives the state,
    which is donated, and what the last step measured, with a leading axis R.
    """
    step = plain_step(cfg, optimizer, microbatches)
    # A CPU takes the runs of a device in turn: side by side their arrays would leave its cache.
    in_turn = mesh.devices.flat[0].platform == "cpu"

    def steps(state: State, resident: Any, block: Any, span: jax.Array) -> tuple[State, Sums]:
        def one_run(state: State, part: Any, learning_rate: jax.Array) -> tuple[State, Sums]:
            return step(state, recipe.batch(resident, part), learning_rate)

        def all_runs(at: jax.Array, before: tuple[State, Sums]) -> tuple[State, Sums]:
            parts, learning_rates = jax.tree.map(lambda x: x[at], block)
            given = before[0], parts, learning_rates
            return jax.lax.map(lambda one: one_run(*one), given) if in_turn else jax.vmap(one_run)(*given)

        nothing = jnp.zeros(state.step.shape, jnp.float32)
        return jax.lax.fori_loop(span[0], span[1], all_runs, (state, Sums(nothing, nothing, nothing)))

    runs, by_step = jax.P("runs"), jax.P(None, "runs")
    mapped = jax.shard_map(
        steps, mesh=mesh, in_specs=(runs, jax.P(), by_step, jax.P()), out_specs=runs, check_vma=False
    )
    return jax.jit(mapped, donate_argnums=0)


def most(cfg: transformer.Config, optimizer: Optimizer, batch_size: int, seq_len: int, microbatches: int = 1) -> int:
    """How many runs of this model to train together on this process's devices.

    As many as give a device a millisecond of arithmetic a step at its peak, since what a step launches takes about as
    long whatever its size, and as fit into its memory; on a CPU, which has no launches to hide, 1.
    """
    device = jax.devices()[0]
    if device.platform == "cpu":
        return 1
    arithmetic = transformer.flops_per_token(cfg, seq_len)["training"] * batch_size * seq_len
    wanted = math.ceil((peak_flops(device.device_kind) or _PEAK) * _STEP_SECONDS / arithmetic)
    if memory := (device.memory_stats() or {}).get("bytes_limit"):
        wanted = min(wanted, int(_FILLED * memory) // sum(run_bytes(cfg, optimizer, batch_size, seq_len, microbatches)))
    return max(1, min(wanted, _MOST)) * jax.device_count()


def make_mesh(runs: int) -> jax.sharding.Mesh:
    """A mesh of one axis, `runs`, over as many devices as leave none with more runs than it must have.

    Up to one run less than a device has may be missing on the last: 11 runs on 8 devices are two on each of six.
    """
    each = -(-runs // jax.device_count())
    count = -(-runs // each)
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
