"""Causal attention that respects packed documents. Shape letters: see `cptlaw.models.transformer`."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from cptlaw.errors import UserError
from cptlaw.models.config import OUTPUT, Config

LEAST_BLOCK, BLOCKS = 128, 8  # positions of a block of queries, and how many blocks at most (of `attention`)

# (q_BKGTC, k_BKSC, v_BKSC) -> o_BKGTC
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def prepare(cfg: Config, segments_BT: jax.Array, window: int) -> Attend:
    """The attention of all layers that have this window (0: none) over one batch; what it needs of the segments is made
    once.

    xla: scores in memory, block by block of queries, with a gradient written for CPUs.
    cudnn: flash attention; scores stay on the chip. It takes no segments but a mask of B T S elements in bfloat16, read
      by every head of every layer, whose gradient the backward pass also writes; causality skips half.
    triton: flash attention that takes segments; nothing of size T S. Keys and values are repeated for the query heads
      that share them. Its products reach a smaller part of a GPU's peak than cuDNN's.
    splash: flash attention that takes segments and skips what the causal window excludes; nothing of size T S.
    """
    kernel = choose(cfg, segments_BT.shape[1], _platform())
    if kernel == "cudnn":
        same_B1TS = segments_BT[:, None, :, None] == segments_BT[:, None, None, :]
        return functools.partial(_cudnn, mask_B1TS=same_B1TS, window=window, scale=cfg.attention_scale)
    if kernel == "triton":
        return functools.partial(triton, segments_BT=segments_BT, scale=cfg.attention_scale)
    if kernel == "splash":
        return functools.partial(
            splash, segments_BT=segments_BT, window=window, scale=cfg.attention_scale, softcap=cfg.attention_softcap
        )
    bias_BTS = mask_bias(segments_BT, window)
    return lambda q_BKGTC, k_BKSC, v_BKSC: attention(
        q_BKGTC, k_BKSC, v_BKSC, bias_BTS, window, cfg.attention_scale, cfg.attention_softcap
    )


def _platform() -> str:
    """cpu, tpu, cuda, or another's name: of the mesh in scope, which may be of devices that are not here, else of the
    default backend. AMD's GPUs, too, are JAX's "gpu"."""
    described = jax.sharding.get_abstract_mesh().abstract_device
    if described is not None and described.platform in ("cpu", "tpu"):
        return described.platform
    client = jax.devices()[0].client
    return "cuda" if "cuda" in client.platform_version else client.platform


def choose(cfg: Config, seq_len: int, platform: str) -> str:
    """xla, cudnn, triton or splash: what the config asks for, or with "auto" the first that can. Where both can, cudnn
    comes before triton because nobody has measured yet from which sequence length and head size its mask costs more
    than it gains (`python -m benchmarks.mfu --attention triton` beside `cudnn`).

    Raises UserError when the kernel asked for cannot run on this platform (cpu, cuda, tpu) or with these shapes.
    """
    refusals = {
        "cudnn": [
            (platform != "cuda", f"runs on NVIDIA GPUs, not on {platform}"),
            (cfg.dtype != "bfloat16", "needs dtype bfloat16"),
            (cfg.attention_softcap > 0, "has no attention_softcap"),
            (cfg.head_dim % 8 > 0 or cfg.head_dim > 128, f"needs a head_dim of 8, 16, ... 128, not {cfg.head_dim}"),
            (seq_len % 2 > 0, f"needs an even sequence length, not {seq_len}"),
        ],
        "triton": [
            (platform != "cuda", f"runs on NVIDIA GPUs, not on {platform}"),
            (cfg.dtype != "bfloat16", "needs dtype bfloat16"),
            (cfg.head_dim > 256, f"needs a head_dim of at most 256, not {cfg.head_dim}"),
            (cfg.sliding_window > 0, f"has no sliding_window ({cfg.sliding_window})"),
            (cfg.attention_softcap > 0, "has no attention_softcap"),
            (seq_len % 128 > 0, f"needs a sequence length that is a multiple of 128, not {seq_len}"),
        ],
        "splash": [
            (platform != "tpu", f"runs on TPUs, not on {platform}"),
            (seq_len % 128 > 0, f"needs a sequence length that is a multiple of 128, not {seq_len}"),
        ],
        "xla": [],
    }
    if cfg.attention == "auto":
        return next(kernel for kernel, rules in refusals.items() if not any(refused for refused, _ in rules))
    for refused, why in refusals[cfg.attention]:
        if refused:
            raise UserError(f"model.attention: {cfg.attention} {why}; use auto or xla")
    return cfg.attention


def mask_bias(segments_BT: jax.Array, window: int = 0) -> jax.Array:
    """Additive float32 mask (B, T, S), made once a batch: 0 where a query may attend, a large negative elsewhere.

    A query sees itself and its own document's earlier tokens (`window` > 0: the last `window` of these, itself
    included), so no row is empty.
    """
    index_T = jnp.arange(segments_BT.shape[1])
    back_TS = index_T[:, None] - index_T[None, :]
    seen_TS = (back_TS >= 0) & (back_TS < window) if window else back_TS >= 0
    same_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    return jnp.where(seen_TS[None] & same_BTS, 0.0, np.finfo(np.float32).min / 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def attention(
    q_BKGTC: jax.Array,
    k_BKSC: jax.Array,
    v_BKSC: jax.Array,
    bias_BTS: jax.Array,
    window: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
) -> jax.Array:
    """Softmax attention, float32 inside the softmax; returns o_BKGTC in the dtype of q.

    Queries are taken in blocks, each with the keys that causality and `window` leave it: of many positions hardly more
    than half of the scores are computed, and a block's may stay in the cache. Scores are multiplied with `scale`
    (None: C ** -0.5); with a `softcap` they become softcap tanh(scores / softcap), which the gradient computes again.

    The gradient is written out because autodiff of the same expression takes about twice as long on a CPU (5 to 15%
    of a step): it transposes T x S arrays, and reduces over T x S where do * o over T x C gives the same number.
    """
    return _forward(q_BKGTC, k_BKSC, v_BKSC, bias_BTS, window, scale, softcap)[0]


def spans(T: int, window: int = 0) -> list[tuple[slice, slice]]:
    """Blocks of queries and the keys that any of these may see; at most `BLOCKS`, so that the program stays short."""
    size = max(LEAST_BLOCK, -(-T // BLOCKS))
    edges = [*range(0, T, size), T]
    return [
        (slice(begin, end), slice(max(0, begin - window + 1) if window else 0, end))
        for begin, end in itertools.pairwise(edges)
    ]


def _forward(q_BKGTC, k_BKSC, v_BKSC, bias_BTS, window, scale, softcap):
    part = functools.partial(_part, scale=scale or q_BKGTC.shape[-1] ** -0.5, softcap=softcap)
    parts = [
        part(q_BKGTC[:, :, :, at], k_BKSC[:, :, seen], v_BKSC[:, :, seen], bias_BTS[:, at, seen])
        for at, seen in spans(q_BKGTC.shape[3], window)
    ]
    o_BKGTC = checkpoint_name(jnp.concatenate([o for o, _ in parts], axis=3), OUTPUT)
    return o_BKGTC, (k_BKSC, v_BKSC, o_BKGTC, [saved for _, saved in parts])


def _part(q_BKGTC, k_BKSC, v_BKSC, bias_BTS, *, scale, softcap):
    """Some queries over some keys: o, and of the softmax what its gradient needs."""
    B, K, G, T, C = q_BKGTC.shape
    # Rows R = (G, T): the query heads of one kv head share its keys, so they are one larger matmul.
    q_BKRC = (q_BKGTC * np.asarray(scale, q_BKGTC.dtype)).reshape(B, K, G * T, C)
    scores_BKRS = jnp.einsum("bkrc,bksc->bkrs", q_BKRC, k_BKSC, preferred_element_type=jnp.float32)
    if softcap:
        scores_BKRS = softcap * jnp.tanh(scores_BKRS / softcap)
    scores_BKGTS = scores_BKRS.reshape(B, K, G, T, -1) + bias_BTS[:, None, None]
    e_BKGTS = jnp.exp(scores_BKGTS - scores_BKGTS.max(-1, keepdims=True))
    inverse_BKGT1 = 1 / e_BKGTS.sum(-1, keepdims=True)
    e_BKRS = e_BKGTS.reshape(B, K, G * T, -1).astype(v_BKSC.dtype)
    o_BKRC = jnp.einsum("bkrs,bksc->bkrc", e_BKRS, v_BKSC, preferred_element_type=jnp.float32)
    o_BKGTC = (o_BKRC.reshape(B, K, G, T, C) * inverse_BKGT1).astype(q_BKGTC.dtype)
    return o_BKGTC, (q_BKRC, e_BKRS, inverse_BKGT1)


def _backward(window, scale, softcap, saved, do_BKGTC):
    k_BKSC, v_BKSC, o_BKGTC, parts = saved
    T = o_BKGTC.shape[3]
    part_backward = functools.partial(_part_backward, scale=scale or o_BKGTC.shape[-1] ** -0.5, softcap=softcap)
    dq, dkv = [], []
    for (at, seen), part in zip(spans(T, window), parts):
        dq_BKGTC, dk_BKSC, dv_BKSC = part_backward(
            part, k_BKSC[:, :, seen], v_BKSC[:, :, seen], o_BKGTC[:, :, :, at], do_BKGTC[:, :, :, at]
        )
        dq.append(dq_BKGTC)
        unseen = ((0, 0), (0, 0), (seen.start, T - seen.stop), (0, 0))
        dkv.append((jnp.pad(dk_BKSC, unseen), jnp.pad(dv_BKSC, unseen)))
    dtype = o_BKGTC.dtype
    dk, dv = (functools.reduce(jnp.add, some).astype(dtype) for some in zip(*dkv))
    return jnp.concatenate(dq, axis=3).astype(dtype), dk, dv, None


def _part_backward(saved, k_BKSC, v_BKSC, o_BKGTC, do_BKGTC, *, scale, softcap):
    """The gradients of q, k and v, float32."""
    q_BKRC, e_BKRS, inverse_BKGT1 = saved
    dtype = q_BKRC.dtype
    einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    # With p = e * inverse: dv = p' do, dp = do v', ds = p (dp - sum_S p dp), and sum_S p dp = sum_C do o.
    do_BKGTC = do_BKGTC.astype(jnp.float32) * inverse_BKGT1
    mean_BKR1 = (do_BKGTC * o_BKGTC.astype(jnp.float32)).sum(-1).reshape(*q_BKRC.shape[:3], 1)
    do_BKRC = do_BKGTC.reshape(q_BKRC.shape).astype(dtype)
    dv_BKSC = contract_rows(e_BKRS, do_BKRC)
    dp_BKRS = einsum("bkrc,bksc->bkrs", do_BKRC, v_BKSC)
    ds_BKRS = e_BKRS.astype(jnp.float32) * (dp_BKRS - mean_BKR1)
    if softcap:
        ds_BKRS *= 1 - jnp.tanh(einsum("bkrc,bksc->bkrs", q_BKRC, k_BKSC) / softcap) ** 2
    ds_BKRS = ds_BKRS.astype(dtype)
    dq_BKRC = einsum("bkrs,bksc->bkrc", ds_BKRS, k_BKSC) * scale
    dk_BKSC = contract_rows(ds_BKRS, q_BKRC)
    return dq_BKRC.reshape(o_BKGTC.shape), dk_BKSC, dv_BKSC


attention.defvjp(_forward, _backward)


def _cudnn(
    q_BKGTC: jax.Array, k_BKSC: jax.Array, v_BKSC: jax.Array, mask_B1TS: jax.Array, window: int, scale: float
) -> jax.Array:
    B, K, G, T, C = q_BKGTC.shape
    o_BTNC = jax.nn.dot_product_attention(
        q_BKGTC.reshape(B, K * G, T, C).swapaxes(1, 2),
        k_BKSC.swapaxes(1, 2),
        v_BKSC.swapaxes(1, 2),
        mask=mask_B1TS,
        scale=scale,
        is_causal=True,
        local_window_size=(window - 1, 0) if window else None,
        implementation="cudnn",
    )
    return o_BTNC.swapaxes(1, 2).reshape(q_BKGTC.shape)


def triton(
    q_BKGTC: jax.Array,
    k_BKSC: jax.Array,
    v_BKSC: jax.Array,
    segments_BT: jax.Array,
    interpret: bool = False,
    scale: float | None = None,
) -> jax.Array:
    """JAX's own flash attention for GPUs, in Pallas; each device of a mesh in scope runs it on its rows and heads."""
    kernel = functools.partial(_triton, interpret=interpret, scale=scale or q_BKGTC.shape[-1] ** -0.5)
    return _on_each_device(kernel)(q_BKGTC, k_BKSC, v_BKSC, segments_BT)


def splash(
    q_BKGTC: jax.Array,
    k_BKSC: jax.Array,
    v_BKSC: jax.Array,
    segments_BT: jax.Array,
    window: int = 0,
    interpret: bool = False,
    scale: float | None = None,
    softcap: float = 0.0,
) -> jax.Array:
    """Splash attention; each device of a mesh in scope runs it on its rows and heads."""
    scale = scale or q_BKGTC.shape[-1] ** -0.5
    kernel = functools.partial(_splash, window=window, interpret=interpret, scale=scale, softcap=softcap)
    return _on_each_device(kernel)(q_BKGTC, k_BKSC, v_BKSC, segments_BT)


def _on_each_device(kernel: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The compiler cannot divide a kernel, so in the scope of a mesh (`use_abstract_mesh`) each device runs it on its
    rows (axes data, fsdp) and heads (axis tensor), which those axes have to divide."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return kernel
    rows = tuple(axis for axis in ("data", "fsdp") if axis in mesh.shape)
    heads = jax.P(rows, "tensor" if "tensor" in mesh.shape else None)
    return jax.shard_map(kernel, in_specs=(heads, heads, heads, jax.P(rows)), out_specs=heads, check_vma=False)


def _triton(q_BKGTC, k_BKSC, v_BKSC, segments_BT, *, interpret: bool, scale: float):
    # Pallas takes a second to import, and only GPUs need it.
    from jax.experimental.pallas.ops.gpu import attention as kernels

    B, K, G, T, C = q_BKGTC.shape
    side = 128 if C <= 64 else 64  # larger tiles of larger heads do not fit the shared memory of an A100
    blocks = kernels.BlockSizes(
        block_q=side, block_k=side, block_q_dkv=32, block_kv_dkv=32, block_q_dq=32, block_kv_dq=32
    )
    k_BTNC, v_BTNC = (jnp.repeat(x.swapaxes(1, 2), G, axis=2) for x in (k_BKSC, v_BKSC))
    o_BTNC = kernels.mha(
        q_BKGTC.reshape(B, K * G, T, C).swapaxes(1, 2),
        k_BTNC,
        v_BTNC,
        segments_BT,
        sm_scale=scale,
        causal=True,
        block_sizes=blocks,
        interpret=interpret,
    )
    return o_BTNC.swapaxes(1, 2).reshape(q_BKGTC.shape)


def _splash(q_BKGTC, k_BKSC, v_BKSC, segments_BT, *, window: int, interpret: bool, scale: float, softcap: float):
    # Pallas takes a second to import, and only TPUs need it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    B, K, G, T, C = q_BKGTC.shape
    side = next(n for n in (512, 256, 128) if T % n == 0)
    seen = masks.LocalMask((T, T), (window - 1, 0), 0) if window else masks.CausalMask((T, T))
    kernel = kernels.make_splash_mha_single_device(
        mask=masks.MultiHeadMask([seen] * (K * G)),
        block_sizes=kernels.BlockSizes(
            block_q=side, block_kv=side, block_q_dkv=side, block_kv_dkv=side, block_q_dq=side, block_kv_dq=side
        ),
        residual_checkpoint_name=OUTPUT,
        attn_logits_soft_cap=softcap or None,
        interpret=interpret,
    )
    q_BNTC = (q_BKGTC * np.asarray(scale, q_BKGTC.dtype)).reshape(B, K * G, T, C)
    o_BNTC = jax.vmap(kernel)(q_BNTC, k_BKSC, v_BKSC, kernels.SegmentIds(segments_BT, segments_BT))
    return o_BNTC.reshape(q_BKGTC.shape)


def contract_rows(a: jax.Array, b: jax.Array) -> jax.Array:
    """a' b: (..., N, M) and (..., N, K) to (..., M, K), accumulated in float32.

    XLA's CPU matmul takes twice as long when the transposed operand is the large one (M > K, as here), so there it
    is computed as (b' a)', behind a barrier without which the compiler would turn it round again.
    """
    if _platform() == "cpu":
        product = jnp.einsum("...nk,...nm->...km", b, a, preferred_element_type=jnp.float32)
        return jax.lax.optimization_barrier(product).swapaxes(-1, -2)
    return jnp.einsum("...nm,...nk->...mk", a, b, preferred_element_type=jnp.float32)
