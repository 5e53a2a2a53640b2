"""The memory that training a run takes on one device, found without one."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from cptlaw.models import loss, transformer
from cptlaw.training.step import Optimizer, loss_sums, new_state

_INPUTS = {
    "tokens_BT": jnp.int32,
    "targets_BT": jnp.int32,
    "segments_BT": jnp.int32,
    "positions_BT": jnp.int32,
    "mask_BT": jnp.float32,
}


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
    kept = _residual_bytes(cfg, state.params, 2 * part, seq_len) - _residual_bytes(cfg, state.params, part, seq_len)
    blocks = loss.blocks(cfg.vocab_size, part * seq_len, cfg.loss_block)
    logits = 2 * 4 * part * seq_len * -(-cfg.vocab_size // blocks)
    return _bytes(state) + min(microbatches, 2) * _bytes(state.params), kept + logits


def _residual_bytes(cfg: transformer.Config, params: Any, rows: int, seq_len: int) -> int:
    batch = {name: jax.ShapeDtypeStruct((rows, seq_len), dtype) for name, dtype in _INPUTS.items()}
    return _bytes(jax.eval_shape(lambda p, b: jax.vjp(lambda p: loss_sums(p, cfg, b)[0], p)[1], params, batch))


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
