"""One optimizer step: loss as sums and counts, AdamW, donated buffers, gradients accumulated as sums."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from cptlaw import fields
from cptlaw.errors import UserError
from cptlaw.fields import Range, above, at_least, between
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout
from cptlaw.training import mup

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with decoupled decay (not of norms), after clipping to a global norm. The learning rate is data.

    Attributes:
      b1, b2, eps: of Adam's moments.
      weight_decay: of a weight in a step, as a share of the learning rate.
      clip: the largest global norm of the gradient; infinite clips nothing.
      mup_base: with it, the learning rate is that of this model, and others' weights have theirs by `mup`.

    Raises ConfigError for a field out of its range.
    """

    b1: Annotated[float, between(0, 1, open_high=True)] = 0.9
    b2: Annotated[float, between(0, 1, open_high=True)] = 0.95
    eps: Annotated[float, above(0)] = 1e-8
    weight_decay: Annotated[float, at_least(0)] = 0.1
    clip: Annotated[float, Range(low=0, open_low=True, infinite=True)] = 1.0
    mup_base: transformer.Config | None = None

    def __post_init__(self):
        fields.check(self, "optimizer")

    def transform(self) -> optax.GradientTransformation:
        """The direction of the step, to be scaled by minus the learning rate."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.scale_by_adam(self.b1, self.b2, self.eps),
            optax.identity() if self.mup_base is None else mup.scale_by_width(self.mup_base),
            optax.add_decayed_weights(self.weight_decay, mask=decayed),
        )


def decayed(params: transformer.Params) -> Any:
    """True for the weights that decay: all but norm scales and biases. Stacking over layers hides their rank, so names
    decide."""
    return jax.tree_util.tree_map_with_path(lambda path, _: not str(path[-1].key).endswith(("norm", "bias")), params)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    """All that a step changes. `step` counts the updates done (int32)."""

    step: jax.Array
    params: transformer.Params
    optimizer: optax.OptState


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Sums:
    """What a step measured, before its update: float32 scalars."""

    nats: jax.Array
    tokens: jax.Array
    grad_norm: jax.Array


def loss_sums(params: transformer.Params, cfg: transformer.Config, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """(nats, tokens) summed over the positions where mask_BT is 1."""
    nll_BT = transformer.token_nll(params, cfg, batch)
    return (nll_BT * batch["mask_BT"]).sum(), batch["mask_BT"].sum()


@functools.lru_cache(maxsize=64)
def make_init(
    cfg: transformer.Config, layout: Layout, mup_base: transformer.Config | None = None
) -> Callable[[int], transformer.Params]:
    """The compiled random initialisation: seed -> params, placed by the layout."""

    def init(seed: int) -> transformer.Params:
        params = transformer.init(jax.random.key(seed), cfg)
        return params if mup_base is None else mup.scale_init(params, mup_base)

    return jax.jit(init, out_shardings=layout.shardings(jax.eval_shape(init, 0)))


@functools.lru_cache(maxsize=64)
def make_start(
    cfg: transformer.Config, optimizer: Optimizer, layout: Layout
) -> tuple[Callable[[transformer.Params], State], State]:
    """The compiled params -> State at step 0 (a copy: steps donate their state), and the state's abstract arrays."""

    def start(params: transformer.Params) -> State:
        return new_state(jax.tree.map(jnp.copy, params), optimizer)

    abstract = layout.abstract(jax.eval_shape(lambda: start(transformer.init(jax.random.key(0), cfg))))
    return jax.jit(start, out_shardings=jax.tree.map(lambda x: x.sharding, abstract)), abstract


def new_state(params: transformer.Params, optimizer: Optimizer) -> State:
    """The state at step 0."""
    return State(step=jnp.zeros((), jnp.int32), params=params, optimizer=optimizer.transform().init(params))


def default_microbatches(cfg: transformer.Config, layout: Layout, batch_size: int, seq_len: int) -> int:
    """How many parts to take a batch in: 1, but on a CPU as many as leave a device enough tokens at a time.

    There the arrays of 256 tokens stay in the cache, which makes a small model's step 1.4 to 2 times as fast. But every
    part reads and writes all gradients, so a model of more than a million parameters needs more of them
    (benchmarks/cpu_step.py).
    """
    if layout.mesh.devices.flat[0].platform != "cpu":
        return 1
    rows = batch_size // (layout.mesh.shape["data"] * layout.mesh.shape["fsdp"])
    enough = max(256, transformer.count_params(cfg)["total"] // 4096)
    return max(m for m in range(1, rows + 1) if rows % m == 0 and (m == 1 or rows // m * seq_len >= enough))


@functools.lru_cache(maxsize=64)
def make_step(
    cfg: transformer.Config, optimizer: Optimizer, layout: Layout, microbatches: int = 1
) -> Callable[[State, Batch, jax.Array], tuple[State, Sums]]:
    """The compiled step (state, batch, learning rate) -> (state, sums); cached, so many runs share one program.

    The state is donated. `microbatches`: see `plain_step`.
    """
    _, abstract = make_start(cfg, optimizer, layout)
    plain = plain_step(cfg, optimizer, microbatches)

    shape = layout.mesh.shape
    split = shape["data"] * shape["fsdp"]
    # A lookup in parts of the embedding takes whole rows of every device.
    in_parts = shape["fsdp"] * shape["tensor"] > 1

    def step(state: State, batch: Batch, learning_rate: jax.Array) -> tuple[State, Sums]:
        rows = len(batch["mask_BT"])
        if in_parts and rows % microbatches == 0 and rows // microbatches % split:
            raise UserError(
                f"microbatches: {microbatches} parts of a batch of {rows} rows are not divisible by the {split} "
                "devices that split a batch"
            )
        # The mesh is named for attention kernels, which the compiler cannot divide by itself.
        with jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh):
            return plain(state, batch, learning_rate)

    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.replicated))


def plain_step(
    cfg: transformer.Config, optimizer: Optimizer, microbatches: int = 1
) -> Callable[[State, Batch, jax.Array], tuple[State, Sums]]:
    """The step, to be compiled.

    With `microbatches` > 1 the rows are taken in that many parts, one after the other, and gradients and counts are
    added: the same update as one large batch, whatever the masks.
    """
    transform = optimizer.transform()
    value_and_grad = jax.value_and_grad(loss_sums, has_aux=True)

    def gradients(params: transformer.Params, batch: Batch) -> Any:
        if microbatches == 1:
            return value_and_grad(params, cfg, batch)
        rows = len(batch["mask_BT"])
        if rows % microbatches:
            raise UserError(f"microbatches: {microbatches} does not divide the batch of {rows} rows")
        # Every part takes rows at a stride, so that it has some of every device.
        parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total: Any, part: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, value_and_grad(params, cfg, part)), None

        zero = jnp.zeros((), jnp.float32)
        total, _ = jax.lax.scan(add, ((zero, zero), jax.tree.map(jnp.zeros_like, params)), parts)
        return total

    def step(state: State, batch: Batch, learning_rate: jax.Array) -> tuple[State, Sums]:
        (nats, tokens), grads = gradients(state.params, batch)
        grads = jax.tree.map(lambda g: g / jnp.maximum(tokens, 1), grads)
        with jax.numpy_dtype_promotion("standard"):  # Optax raises decays to integer powers
            direction, moments = transform.update(grads, state.optimizer, state.params)
        params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)
        sums = Sums(nats=nats, tokens=tokens, grad_norm=optax.global_norm(grads))
        return State(step=state.step + 1, params=params, optimizer=moments), sums

    return step
