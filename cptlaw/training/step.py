"""One optimizer step: loss as sums and counts, AdamW or Muon, donated buffers, gradients accumulated as sums."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from cptlaw import fields
from cptlaw.errors import UserError
from cptlaw.fields import ConfigError, OneOf, Range, above, at_least, between
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout
from cptlaw.models.tree import path_name
from cptlaw.training import mup
from cptlaw.training.optimizers import OPTIMIZERS

Batch = dict[str, jax.Array]

# What weight decay leaves out, as a pattern of the parameters' paths. Stacking over layers hides their rank, so names
# decide.
UNDECAYED = {
    "matrices": r"(norm|bias)$",
    "hidden": r"(norm|bias|embed)$",
    "all": r"(?!)",  # is found nowhere
}


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW or Muon with decoupled decay, after clipping to a global norm. The learning rate is data.

    Attributes:
      kind: adamw; or muon, whose hidden matrices have Muon's step and whose other parameters AdamW's, all with AdamW's
        learning rate (`muon`); or FILE.py:NAME, one of your own (`optimizers.optimizer`).
      b1, b2, eps: of Adam's moments.
      momentum: of Muon.
      moment_dtype: in what the first moment, or Muon's momentum, is kept between steps. The second moment stays
        float32: in a step it changes by a share of 1 - b2, which bfloat16 rounds away for a b2 above 0.996.
      weight_decay: of a weight in a step, as a share of the learning rate.
      decay_mask: which weights decay: matrices, embeddings among them; hidden, those of the layers alone (OLMo 2, arXiv
        2501.00656, decays no embeddings); or all, norms and biases too.
      ema: decay, a step, of an exponential average of the weights, which is evaluated beside them: of about the last
        1 / (1 - ema) steps, and at first of all there are. 0 keeps none. Averaged weights behave much as annealed ones.
      clip: the largest global norm of the gradient; infinite clips nothing.
      z_loss: adds so much of the squared log of the softmax's normaliser to a token's loss, which keeps logits small in
        bfloat16 (1e-4 in PaLM, arXiv 2204.02311, section 5). Losses that are reported do not hold it.
      mup_base: with it, the learning rate is that of this model, and others' weights have theirs by `mup`.

    Raises ConfigError for a field out of its range, and for muP with another kind than adamw, whose
    steps it does not describe.
    """

    kind: Annotated[str, OPTIMIZERS] = "adamw"
    b1: Annotated[float, between(0, 1, open_high=True)] = 0.9
    b2: Annotated[float, between(0, 1, open_high=True)] = 0.95
    eps: Annotated[float, above(0)] = 1e-8
    momentum: Annotated[float, between(0, 1, open_high=True)] = 0.95
    moment_dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"
    weight_decay: Annotated[float, at_least(0)] = 0.1
    decay_mask: Annotated[str, OneOf(tuple(UNDECAYED))] = "matrices"
    ema: Annotated[float, between(0, 1, open_high=True)] = 0.0
    clip: Annotated[float, Range(low=0, open_low=True, infinite=True)] = 1.0
    z_loss: Annotated[float, at_least(0)] = 0.0
    mup_base: transformer.Config | None = None

    def __post_init__(self):
        fields.check(self, "optimizer")
        if self.mup_base is not None and self.kind != "adamw":
            raise ConfigError(
                "optimizer.mup_base", "muP's learning rates are those of kind adamw; remove one of the two"
            )

    def transform(self) -> optax.GradientTransformation:
        """The direction of the step, to be scaled by minus the learning rate."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            OPTIMIZERS.find(self.kind).make(self),
            optax.identity() if self.mup_base is None else mup.scale_by_width(self.mup_base),
            optax.add_decayed_weights(self.weight_decay, mask=self.decayed),
        )

    def decayed(self, params: transformer.Params) -> Any:
        """True for the weights that decay."""
        return jax.tree_util.tree_map_with_path(
            lambda path, _: not re.search(UNDECAYED[self.decay_mask], path_name(path)), params
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    """All that a step changes. `step` counts the updates done (int32).

    `average` is that of the weights, with `Optimizer.ema`; before the first step it is the weights.
    """

    step: jax.Array
    params: transformer.Params
    optimizer: optax.OptState
    average: transformer.Params | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Sums:
    """What a step measured, before its update: float32 scalars."""

    nats: jax.Array
    tokens: jax.Array
    grad_norm: jax.Array


def loss_sums(
    params: transformer.Params, cfg: transformer.Config, batch: Batch, z_loss: float = 0.0
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """(what is minimised, (nats, tokens)), summed over the positions where mask_BT is 1; `z_loss` as of `Optimizer`."""
    nll_BT, log_z_BT = transformer.token_nll_and_log_z(params, cfg, batch)
    nats = (nll_BT * batch["mask_BT"]).sum()
    minimised = nats + z_loss * (log_z_BT**2 * batch["mask_BT"]).sum() if z_loss else nats
    return minimised, (nats, batch["mask_BT"].sum())


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
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=optimizer.transform().init(params),
        average=jax.tree.map(jnp.copy, params) if optimizer.ema else None,
    )


def averaged(
    average: transformer.Params, params: transformer.Params, step: jax.Array, decay: float
) -> transformer.Params:
    """The average of the weights after `step` updates, of that after the one before and the new weights:

    sum_i decay^(step - i) params_i over the updates i = 1 ... step, divided by the sum of the decays.

    The parameters before the first update have no part in it, as in Adam's correction of its moments.
    """
    share = (1 - decay) / -jnp.expm1(step.astype(jnp.float32) * math.log(decay))
    return jax.tree.map(lambda a, p: a + share * (p - a), average, params)


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

    def sums_and_gradient(params: transformer.Params, batch: Batch) -> Any:
        (_, sums), grads = jax.value_and_grad(loss_sums, has_aux=True)(params, cfg, batch, optimizer.z_loss)
        return sums, grads

    def gradients(params: transformer.Params, batch: Batch) -> Any:
        if microbatches == 1:
            return sums_and_gradient(params, batch)
        rows = len(batch["mask_BT"])
        if rows % microbatches:
            raise UserError(f"microbatches: {microbatches} does not divide the batch of {rows} rows")
        # Every part takes rows at a stride, so that it has some of every device.
        parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)

        def add(total: Any, part: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, sums_and_gradient(params, part)), None

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
        done, average = state.step + 1, state.average
        if average is not None:
            average = averaged(average, params, done, optimizer.ema)
        return State(step=done, params=params, optimizer=moments, average=average), sums

    return step
