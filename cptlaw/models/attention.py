"""Causal attention that respects packed documents. Shape letters: see `cptlaw.models.transformer`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def mask_bias(segments_BT: jax.Array) -> jax.Array:
    """Additive float32 mask (B, T, S), made once a batch: 0 where a query may attend, a large negative elsewhere.

    A query sees its own document's earlier tokens and itself, so no row is empty.
    """
    index_T = jnp.arange(segments_BT.shape[1])
    causal_TS = index_T[:, None] >= index_T[None, :]
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    return jnp.where(causal_TS & same_BTS, 0.0, np.finfo(np.float32).min / 2)


@jax.custom_vjp
def attention(q_BKGTC: jax.Array, k_BKSC: jax.Array, v_BKSC: jax.Array, bias_BTS: jax.Array) -> jax.Array:
    """Softmax attention, float32 inside the softmax; returns o_BKGTC in the dtype of q.

    The gradient is written out because autodiff of the same expression takes about twice as long on a CPU (5 to 15%
    of a step): it transposes T x S arrays, and reduces over T x S where do * o over T x C gives the same number.
    """
    return _forward(q_BKGTC, k_BKSC, v_BKSC, bias_BTS)[0]


def _forward(q_BKGTC, k_BKSC, v_BKSC, bias_BTS):
    B, K, G, T, C = q_BKGTC.shape
    # Rows R = (G, T): the query heads of one kv head share its keys, so they are one larger matmul.
    q_BKRC = (q_BKGTC * np.asarray(C**-0.5, q_BKGTC.dtype)).reshape(B, K, G * T, C)
    scores_BKRS = jnp.einsum("bkrc,bksc->bkrs", q_BKRC, k_BKSC, preferred_element_type=jnp.float32)
    scores_BKGTS = scores_BKRS.reshape(B, K, G, T, -1) + bias_BTS[:, None, None]
    e_BKGTS = jnp.exp(scores_BKGTS - scores_BKGTS.max(-1, keepdims=True))
    inverse_BKGT1 = 1 / e_BKGTS.sum(-1, keepdims=True)
    e_BKRS = e_BKGTS.reshape(B, K, G * T, -1).astype(v_BKSC.dtype)
    o_BKRC = jnp.einsum("bkrs,bksc->bkrc", e_BKRS, v_BKSC, preferred_element_type=jnp.float32)
    o_BKGTC = (o_BKRC.reshape(B, K, G, T, C) * inverse_BKGT1).astype(q_BKGTC.dtype)
    return o_BKGTC, (q_BKRC, k_BKSC, v_BKSC, e_BKRS, inverse_BKGT1, o_BKGTC)


def _backward(saved, do_BKGTC):
    q_BKRC, k_BKSC, v_BKSC, e_BKRS, inverse_BKGT1, o_BKGTC = saved
    dtype = q_BKRC.dtype
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    # With p = e * inverse: dv = p' do, dp = do v', ds = p (dp - sum_S p dp), and sum_S p dp = sum_C do o.
    do_BKGTC = do_BKGTC.astype(jnp.float32) * inverse_BKGT1
    mean_BKR1 = (do_BKGTC * o_BKGTC).sum(-1).reshape(*q_BKRC.shape[:3], 1)
    do_BKRC = do_BKGTC.reshape(q_BKRC.shape).astype(dtype)
    dv_BKSC = contract_rows(e_BKRS, do_BKRC)
    dp_BKRS = einsum("bkrc,bksc->bkrs", do_BKRC, v_BKSC)
    ds_BKRS = (e_BKRS * (dp_BKRS - mean_BKR1)).astype(dtype)
    dq_BKRC = einsum("bkrs,bksc->bkrc", ds_BKRS, k_BKSC) * q_BKRC.shape[-1] ** -0.5
    dk_BKSC = contract_rows(ds_BKRS, q_BKRC)
    return dq_BKRC.reshape(o_BKGTC.shape).astype(dtype), dk_BKSC.astype(dtype), dv_BKSC.astype(dtype), None


attention.defvjp(_forward, _backward)


def contract_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    """a' b: (..., N, M) and (..., N, K) to (..., M, K), accumulated in float32.

    XLA's CPU matmul takes twice as long when the transposed operand is the large one (M > K, as here), so there it
    is computed as (b' a)', behind a barrier without which the compiler would turn it round again.
    """
    if jax.default_backend() == "cpu":
        product = jnp.einsum("...nk,...nm->...km", b, a, preferred_element_type=jnp.float32)
        return jax.lax.optimization_barrier(product).swapaxes(-1, -2)
    return jnp.einsum("...nm,...nk->...mk", a, b, preferred_element_type=jnp.float32)


def rope_tables(positions_BT: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (B, T, C/2) in float32, made once a batch."""
    frequency = theta ** (-np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = positions_BT[..., None].astype(jnp.float32) * frequency
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BKGTC: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotary position embedding; the two halves of the channels are a pair, as in Hugging Face weights."""
    cos, sin = cos[:, None, None].astype(x_BKGTC.dtype), sin[:, None, None].astype(x_BKGTC.dtype)
    a, b = jnp.split(x_BKGTC, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
