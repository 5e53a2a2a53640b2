"""Cross-entropy of next tokens; for large vocabularies without ever holding all logits. Letters: see `transformer`."""

import functools
import math

import jax
import jax.numpy as jnp

from cptlaw.models.attention import contract_rows

# All logits at once is faster (none is computed twice) where they fit: a vocabulary no wider than a layer, or few
# tokens (these logits are 256 MiB).
DIRECT_VOCABULARY = 16_384
DIRECT_LOGITS = 1 << 26
_BLOCK = 4_096


def blocks(vocab_size: int, tokens: int, block: int = 0) -> int:
    """In how many parts to take the vocabulary; `block` ids at most in each, 0: as many as suit it and the tokens.

    The number divides the vocabulary if one not much larger than needed does (no padded copy of the embedding).
    """
    if not block:
        direct = vocab_size <= DIRECT_VOCABULARY or vocab_size * tokens <= DIRECT_LOGITS
        block = vocab_size if direct else _BLOCK
    least = math.ceil(vocab_size / block)
    return next((n for n in range(least, 2 * least + 1) if vocab_size % n == 0), least)


def logits(x_BTD: jax.Array, unembed_VD: jax.Array, softcap: float = 0.0) -> jax.Array:
    """logits_BTV, float32; with a `softcap` they become softcap tanh(logits / softcap)."""
    x_BTV = jnp.einsum("btd,vd->btv", x_BTD, unembed_VD.astype(x_BTD.dtype), preferred_element_type=jnp.float32)
    return softcap * jnp.tanh(x_BTV / softcap) if softcap else x_BTV


def nll(
    x_BTD: jax.Array, unembed_VD: jax.Array, targets_BT: jax.Array, block: int = 0, softcap: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Negative log-likelihood (nats) of the targets, nll_BT, and the log of the softmax's normaliser, log_z_BT.

    Both are float32; `block` as of `blocks`, `softcap` of `logits`.
    """
    parts = blocks(len(unembed_VD), targets_BT.size, block)
    if parts > 1:
        log_z_BT, target_BT = _blocked(x_BTD, unembed_VD, targets_BT, parts, softcap)
    else:
        logits_BTV = logits(x_BTD, unembed_VD, softcap)
        target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
        log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    return log_z_BT - target_BT, log_z_BT


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _blocked(
    x_BTD: jax.Array, unembed_VD: jax.Array, targets_BT: jax.Array, parts: int, softcap: float
) -> tuple[jax.Array, jax.Array]:
    """log_z_BT and the targets' logits, the vocabulary in parts, one after the other, with a running log-sum-exp; the
    gradient makes the logits again.

    Part i holds the ids i, i + parts, i + 2 parts, ...: a slice of every shard where the vocabulary is sharded, so no
    device waits; of an embedding sharded over fsdp one part at a time is gathered. Letters v and n: ids of a part, and
    parts.
    """
    return _forward(x_BTD, unembed_VD, targets_BT, parts, softcap)[0]


def _forward(x_BTD, unembed_VD, targets_BT, parts, softcap):
    w_vnD = _parts(unembed_VD, parts)

    def add(carry, i):
        top_BT, sum_BT, target_BT = carry
        logits_BTv = _logits(x_BTD, w_vnD, i, len(unembed_VD), softcap)
        new_BT = jnp.maximum(top_BT, logits_BTv.max(-1))
        sum_BT = sum_BT * jnp.exp(top_BT - new_BT) + jnp.exp(logits_BTv - new_BT[..., None]).sum(-1)
        here_BT = jnp.take_along_axis(logits_BTv, (targets_BT // parts)[..., None], axis=-1)[..., 0]
        return (new_BT, sum_BT, jnp.where(targets_BT % parts == i, here_BT, target_BT)), None

    zero_BT = jnp.zeros(targets_BT.shape, jnp.float32)
    (top_BT, sum_BT, target_BT), _ = jax.lax.scan(add, (zero_BT - jnp.inf, zero_BT, zero_BT), jnp.arange(parts))
    log_z_BT = top_BT + jnp.log(sum_BT)
    return (log_z_BT, target_BT), (x_BTD, unembed_VD, targets_BT, log_z_BT)


def _backward(parts, softcap, saved, gradients):
    x_BTD, unembed_VD, targets_BT, log_z_BT = saved
    of_log_z_BT, of_target_BT = gradients
    w_vnD = _parts(unembed_VD, parts)
    id_v = jnp.arange(len(w_vnD))
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def add(carry, i):
        dx_BTD, dw_vnD = carry
        logits_BTv = _logits(x_BTD, w_vnD, i, len(unembed_VD), softcap)
        p_BTv = jnp.exp(logits_BTv - log_z_BT[..., None])
        is_target_BTv = (id_v * parts + i)[None, None] == targets_BT[..., None]
        of_target_BTv = jnp.where(is_target_BTv, of_target_BT[..., None], 0.0)
        d_BTv = p_BTv * of_log_z_BT[..., None] + of_target_BTv
        if softcap:
            # The slope of the cap where the capped logit is known; ids that do not exist, at -inf, have none.
            d_BTv *= 1 - (jnp.maximum(logits_BTv, -softcap) / softcap) ** 2
        d_BTv = d_BTv.astype(x_BTD.dtype)
        w_vD = jax.lax.dynamic_index_in_dim(w_vnD, i, axis=1, keepdims=False).astype(x_BTD.dtype)
        dx_BTD += einsum("btv,vd->btd", d_BTv, w_vD)
        dw_vD = contract_rows(d_BTv.reshape(-1, len(id_v)), x_BTD.reshape(-1, x_BTD.shape[-1]))
        return (dx_BTD, jax.lax.dynamic_update_index_in_dim(dw_vnD, dw_vD, i, axis=1)), None

    zeros = jnp.zeros(x_BTD.shape, jnp.float32), jnp.zeros(w_vnD.shape, jnp.float32)
    (dx_BTD, dw_vnD), _ = jax.lax.scan(add, zeros, jnp.arange(parts))
    dw_VD = dw_vnD.reshape(-1, dw_vnD.shape[-1])[: len(unembed_VD)]
    return dx_BTD.astype(x_BTD.dtype), dw_VD.astype(unembed_VD.dtype), None


_blocked.defvjp(_forward, _backward)


def _parts(unembed_VD: jax.Array, parts: int) -> jax.Array:
    V, D = unembed_VD.shape
    return jnp.pad(unembed_VD, ((0, -V % parts), (0, 0))).reshape(-1, parts, D)


def _logits(x_BTD: jax.Array, w_vnD: jax.Array, i: jax.Array, vocab_size: int, softcap: float) -> jax.Array:
    logits_BTv = logits(x_BTD, jax.lax.dynamic_index_in_dim(w_vnD, i, axis=1, keepdims=False), softcap)
    if vocab_size % w_vnD.shape[1]:
        exists_v = jnp.arange(len(w_vnD)) * w_vnD.shape[1] + i < vocab_size
        logits_BTv = jnp.where(exists_v[None, None], logits_BTv, -jnp.inf)
    return logits_BTv
