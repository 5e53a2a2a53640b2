"""A decoder-only Transformer: RMSNorm, RoPE, SwiGLU, grouped-query attention, packed documents.

Everybody else sees `init` and `apply` on a nested dict of arrays; Flax NNX stays inside this file, as modules
that are pytrees. The layers' parameters are stacked along a leading axis L.

Shape letters, here and in the einsums:
  B rows of a batch     T positions (queries)    S positions (keys)     V vocabulary
  D model width         F feed-forward width     L layers               C channels of a head
  K key/value heads     G query heads that share one key/value head (heads = K * G)
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cptlaw.errors import UserError
from cptlaw.models.attention import attention, mask_bias, rope_tables, rotate

Params = dict[str, Any]

# What the backward pass keeps of each layer's forward pass.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """Architecture. Parameters are float32; `dtype` is that of the computation (float32 or bfloat16)."""

    vocab_size: int
    d_model: int
    layers: int
    heads: int
    kv_heads: int
    d_ff: int
    head_dim: int = 0  # 0: d_model // heads
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    dtype: str = "float32"
    remat: str = "none"
    # One compiled layer for all: compiles faster when there are many, runs slower on a CPU.
    scan_layers: bool = False

    def __post_init__(self):
        for name in ("vocab_size", "d_model", "layers", "heads", "kv_heads", "d_ff"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name}: must be at least 1, not {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise UserError(f"model.kv_heads: {self.kv_heads} does not divide model.heads, {self.heads}")
        if not self.head_dim:
            if self.d_model % self.heads:
                raise UserError(
                    f"model.heads: {self.heads} does not divide model.d_model, {self.d_model}; set head_dim"
                )
            object.__setattr__(self, "head_dim", self.d_model // self.heads)
        if self.head_dim % 2:
            raise UserError(f"model.head_dim: rotary embeddings need an even number, not {self.head_dim}")
        for name, known in {"dtype": ("float32", "bfloat16"), "remat": tuple(REMAT)}.items():
            if getattr(self, name) not in known:
                raise UserError(f"model.{name}: one of {', '.join(known)}, not {getattr(self, name)!r}")


def init(rng: jax.Array, cfg: Config) -> Params:
    """Random float32 parameters: a nested dict whose paths (`layers/attention/q`) are stable."""
    return nnx.to_pure_dict(nnx.state(Transformer(cfg, rng)))


def apply(
    params: Params, cfg: Config, tokens_BT: jax.Array, segments_BT: jax.Array, positions_BT: jax.Array
) -> jax.Array:
    """Next-token logits_BTV, float32. Tokens attend only within their segment (packed document)."""
    return nnx.merge(_graph(cfg), params)(tokens_BT, segments_BT, positions_BT)


def token_nll(params: Params, cfg: Config, batch: dict[str, jax.Array]) -> jax.Array:
    """Negative log-likelihood (nats) of `targets_BT` at every position: nll_BT, float32, not masked."""
    logits_BTV = apply(params, cfg, batch["tokens_BT"], batch["segments_BT"], batch["positions_BT"])
    target_BT = jnp.take_along_axis(logits_BTV, batch["targets_BT"][..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - target_BT


def count_params(cfg: Config) -> dict[str, int]:
    """Parameters: `total`, and `non_embedding` (without input and output embeddings), the N of scaling laws."""
    attention_size = 2 * cfg.d_model * cfg.head_dim * (cfg.heads + cfg.kv_heads)
    layer = attention_size + 3 * cfg.d_model * cfg.d_ff + 2 * cfg.d_model
    non_embedding = cfg.layers * layer + cfg.d_model
    embedding = cfg.vocab_size * cfg.d_model * (1 if cfg.tie_embeddings else 2)
    return {"total": non_embedding + embedding, "non_embedding": non_embedding}


def flops_per_token(cfg: Config, seq_len: int) -> dict[str, float]:
    """FLOPs of a token: `forward`, and `training` (three times that; recomputation by remat is not counted).

    Two for every weight of a matmul (the output embedding included, the lookup not), and causal attention's two
    products over (seq_len + 1) / 2 keys on average.
    """
    norms = (2 * cfg.layers + 1) * cfg.d_model
    matmul = count_params(cfg)["non_embedding"] - norms + cfg.vocab_size * cfg.d_model
    scores = 4 * cfg.layers * cfg.heads * cfg.head_dim * (seq_len + 1) / 2
    forward = 2.0 * matmul + scores
    return {"forward": forward, "training": 3 * forward}


@functools.lru_cache
def _graph(cfg: Config) -> nnx.GraphDef:
    return nnx.graphdef(jax.eval_shape(lambda: Transformer(cfg, jax.random.key(0))))


def _normal(key: jax.Array, shape: tuple[int, ...], std: float) -> nnx.Param:
    return nnx.Param(std * jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32))


def _rms_norm(x: jax.Array, scale: nnx.Param, eps: float) -> jax.Array:
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    return (y * scale[...]).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, cfg: Config, key: jax.Array):
        D, K, G, C = cfg.d_model, cfg.kv_heads, cfg.heads // cfg.kv_heads, cfg.head_dim
        keys = jax.random.split(key, 4)
        self.q = _normal(keys[0], (D, K, G, C), D**-0.5)
        self.k = _normal(keys[1], (D, K, C), D**-0.5)
        self.v = _normal(keys[2], (D, K, C), D**-0.5)
        # The residual stream's sum of 2 L outputs starts at unit size.
        self.o = _normal(keys[3], (K, G, C, D), (cfg.heads * C * 2 * cfg.layers) ** -0.5)

    def __call__(self, x_BTD: jax.Array, shared: dict[str, jax.Array]) -> jax.Array:
        dtype = x_BTD.dtype
        q_BKGTC = jnp.einsum("btd,dkgc->bkgtc", x_BTD, self.q.astype(dtype))
        k_BKSC = jnp.einsum("bsd,dkc->bksc", x_BTD, self.k.astype(dtype))
        v_BKSC = jnp.einsum("bsd,dkc->bksc", x_BTD, self.v.astype(dtype))
        q_BKGTC = rotate(q_BKGTC, shared["cos"], shared["sin"])
        k_BKSC = rotate(k_BKSC[:, :, None], shared["cos"], shared["sin"])[:, :, 0]
        o_BKGTC = attention(q_BKGTC, k_BKSC, v_BKSC, shared["bias_BTS"])
        return jnp.einsum("bkgtc,kgcd->btd", o_BKGTC, self.o.astype(dtype))


class MLP(nnx.Module):
    """SwiGLU feed-forward layer."""

    def __init__(self, cfg: Config, key: jax.Array):
        D, F = cfg.d_model, cfg.d_ff
        keys = jax.random.split(key, 3)
        self.gate = _normal(keys[0], (D, F), D**-0.5)
        self.up = _normal(keys[1], (D, F), D**-0.5)
        self.down = _normal(keys[2], (F, D), (F * 2 * cfg.layers) ** -0.5)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        dtype = x_BTD.dtype
        gate_BTF = jnp.einsum("btd,df->btf", x_BTD, self.gate.astype(dtype))
        up_BTF = jnp.einsum("btd,df->btf", x_BTD, self.up.astype(dtype))
        return jnp.einsum("btf,fd->btd", jax.nn.silu(gate_BTF) * up_BTF, self.down.astype(dtype))


class Block(nnx.Module):
    """One pre-norm residual layer."""

    def __init__(self, cfg: Config, key: jax.Array):
        keys = jax.random.split(key)
        self.eps = cfg.norm_eps
        self.attention_norm = nnx.Param(jnp.ones(cfg.d_model))
        self.attention = Attention(cfg, keys[0])
        self.mlp_norm = nnx.Param(jnp.ones(cfg.d_model))
        self.mlp = MLP(cfg, keys[1])

    def __call__(self, x_BTD: jax.Array, shared: dict[str, jax.Array]) -> jax.Array:
        x_BTD += self.attention(_rms_norm(x_BTD, self.attention_norm, self.eps), shared)
        return x_BTD + self.mlp(_rms_norm(x_BTD, self.mlp_norm, self.eps))


class Transformer(nnx.Module):
    """The whole model; `layers` is one Block whose parameters carry a leading axis L."""

    def __init__(self, cfg: Config, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.cfg = cfg
        self.embed = _normal(keys[0], (cfg.vocab_size, cfg.d_model), 0.02)
        self.layers = jax.vmap(lambda k: Block(cfg, k))(jax.random.split(keys[1], cfg.layers))
        self.final_norm = nnx.Param(jnp.ones(cfg.d_model))
        if not cfg.tie_embeddings:
            self.unembed = _normal(keys[2], (cfg.vocab_size, cfg.d_model), 0.02)

    def __call__(self, tokens_BT: jax.Array, segments_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        cfg = self.cfg
        x_BTD = self.embed[tokens_BT].astype(cfg.dtype)
        cos, sin = rope_tables(positions_BT, cfg.head_dim, cfg.rope_theta)
        shared = {"bias_BTS": mask_bias(segments_BT), "cos": cos, "sin": sin}

        def layer(x_BTD: jax.Array, block: Block) -> tuple[jax.Array, None]:
            return block(x_BTD, shared), None

        if cfg.remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT[cfg.remat])
        if cfg.scan_layers:
            x_BTD, _ = jax.lax.scan(layer, x_BTD, self.layers)
        else:
            for block in _unstack(self.layers, cfg.layers):
                x_BTD, _ = layer(x_BTD, block)
        x_BTD = _rms_norm(x_BTD, self.final_norm, cfg.norm_eps)
        unembed_VD = (self.embed if cfg.tie_embeddings else self.unembed).astype(cfg.dtype)
        return jnp.einsum("btd,vd->btv", x_BTD, unembed_VD, preferred_element_type=jnp.float32)


def _unstack(stacked: Block, layers: int) -> list[Block]:
    """The L layers of a stacked one. The gradient of `lax.split` is one concatenation, not L padded sums."""
    leaves, tree = jax.tree.flatten(stacked)
    split = [jax.lax.split(leaf, (1,) * layers) for leaf in leaves]
    return [jax.tree.unflatten(tree, [leaf[i][0] for leaf in split]) for i in range(layers)]
