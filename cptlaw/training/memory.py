"""The memory that training a run takes on one device, found without one."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from cptlaw.models import loss, transformer
from cptlaw.training.step import Optimizer, loss_sums, new_state


@functools.lru_cache(maxsize=64)
def run_bytes(
    cfg: transformer.Config, optimizer: Optimizer, rows: int, seq_len: int, microbatches: int = 1
) -> tuple[int, int]:
    """What one run takes: (bytes of its state and gradients, bytes that grow with the rows of a batch).

    The second is what the backward pass keeps of `rows` rows in `microbatches` parts, and two blocks of logits.
    """
    state = jax.eval_shape(lambda: new_state(transformer.init(jax.random.key(0), cfg), optimizer))
    part = max(1, rows // microbatches)
    # What does not grow with the rows is parameters, which the state counts.
    kept = residual_bytes(cfg, 2 * part, seq_len) - residual_bytes(cfg, part, seq_len)
    blocks = loss.blocks(cfg.vocab_size, part * seq_len, cfg.loss_block)
    logits = 2 * 4 * part * seq_len * -(-cfg.vocab_size // blocks)
    return tree_bytes(state) + min(microbatches, 2) * tree_bytes(state.params), kept + logits


def least_bytes(cfg: transformer.Config, optimizer: Optimizer) -> int:
    """Bytes of a run's state and gradients, found by arithmetic: it needs no device, not even to trace a program."""
    total = transformer.count_params(cfg)["total"]
    parameter_and_gradient, first_moment = 4 + 4, jnp.dtype(optimizer.moment_dtype).itemsize
    average = 4 if optimizer.ema else 0
    with_second_moment = total - (transformer.count_hidden(cfg) if optimizer.kind == "muon" else 0)
    return total * (parameter_and_gradient + first_moment + average) + 4 * with_second_moment


def residual_bytes(cfg: transformer.Config, rows: int, seq_len: int) -> int:
    """Bytes that the backward pass of `rows` rows is given."""
    params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg))
    batch = abstract_batch(rows, seq_len)
    return tree_bytes(jax.eval_shape(lambda p, b: jax.vjp(lambda p: loss_sums(p, cfg, b)[0], p)[1], params, batch))


def abstract_batch(
    rows: int, seq_len: int, sharding: jax.sharding.Sharding | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays (rows, seq_len) of a training batch, none of which is made."""
    integers = ("tokens_BT", "targets_BT", "segments_BT", "positions_BT")
    dtypes = {**dict.fromkeys(integers, jnp.int32), "mask_BT": jnp.float32}
    return {name: jax.ShapeDtypeStruct((rows, seq_len), dtype, sharding=sharding) for name, dtype in dtypes.items()}


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, of all devices together."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
