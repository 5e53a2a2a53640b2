"""One decoder-only Transformer for every family (`families.FAMILIES`); packed documents.

Everybody else sees `init` and `apply` on a nested dict of arrays; Flax NNX stays inside this file, as modules
that are pytrees. The layers' parameters are stacked along a leading axis L.

Shape letters, here and in the einsums:
  B rows of a batch     T positions (queries)    S positions (keys)     V vocabulary
  D model width         F feed-forward width     L layers               C channels of a head
  K key/value heads     G query heads that share one key/value head (heads = K * G)
"""

import collections
import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cptlaw.models import attention, loss, rope
from cptlaw.models.config import ACTIVATIONS, REMAT, Config, Kind
from cptlaw.models.tree import differences, path_name

Params = dict[str, Any]
Rotate = Callable[[jax.Array], jax.Array]


def init(rng: jax.Array, cfg: Config) -> Params:
    """Random float32 parameters: a nested dict whose paths (`layers/attention/q`) are stable."""
    return nnx.to_pure_dict(nnx.state(Transformer(cfg, rng)))


def apply(
    params: Params, cfg: Config, tokens_BT: jax.Array, segments_BT: jax.Array, positions_BT: jax.Array
) -> jax.Array:
    """Next-token logits_BTV, float32. Tokens attend only within their segment (packed document).

    Raises ValueError naming a parameter or an input of another shape or type than the config's.
    """
    _check(params, cfg, tokens_BT=tokens_BT, segments_BT=segments_BT, positions_BT=positions_BT)
    model = nnx.merge(_graph(cfg), params)
    return loss.logits(model(tokens_BT, segments_BT, positions_BT), model.unembed_VD, cfg.logit_softcap)


def token_nll(params: Params, cfg: Config, batch: dict[str, jax.Array]) -> jax.Array:
    """Negative log-likelihood (nats) of `targets_BT` at every position: nll_BT, float32, not masked.

    `batch` has int32 arrays of one shape, tokens_BT, targets_BT, segments_BT and positions_BT; others are not looked
    at. Raises ValueError as `apply` does.
    """
    return token_nll_and_log_z(params, cfg, batch)[0]


def token_nll_and_log_z(params: Params, cfg: Config, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """As `token_nll`, and beside it the log of the softmax's normaliser over the vocabulary, log_z_BT."""
    _check(params, cfg, **{name: batch[name] for name in _INPUTS})
    model = nnx.merge(_graph(cfg), params)
    x_BTD = model(batch["tokens_BT"], batch["segments_BT"], batch["positions_BT"])
    return loss.nll(x_BTD, model.unembed_VD, batch["targets_BT"], cfg.loss_block, cfg.logit_softcap)


def count_params(cfg: Config) -> dict[str, int]:
    """Parameters: `total`, and `non_embedding` (without input and output embeddings), the N of scaling laws."""
    norm = cfg.d_model * (2 if cfg.norm == "layer" else 1)
    norms = 4 if cfg.norm_placement == "both" else 2
    normed_heads = 2 if cfg.qk_norm_over == "head" else cfg.heads + cfg.kv_heads
    layer = _weights(cfg) + _biases(cfg) + norms * norm + (normed_heads * cfg.head_dim if cfg.qk_norm else 0)
    non_embedding = cfg.layers * layer + norm
    embedding = cfg.vocab_size * cfg.d_model * (1 if cfg.tie_embeddings else 2)
    return {"total": non_embedding + embedding, "non_embedding": non_embedding}


def count_hidden(cfg: Config) -> int:
    """Weights of the layers' matrices, those that have a `fan_in`."""
    return cfg.layers * _weights(cfg)


# Dimensions (after the layers') that a hidden layer's weight sums over, by its path; its others are its outputs.
_FAN_IN = {r"attention/[qkv]$": (1,), r"attention/o$": (1, 2, 3), r"mlp/(gate|up|down)$": (1,)}


def fan_in(name: str) -> tuple[int, ...]:
    """The dimensions of the parameter `name` that a hidden layer sums over; none of an embedding, a norm or a bias."""
    return next((dims for pattern, dims in _FAN_IN.items() if re.search(pattern, name)), ())


def flops_per_token(cfg: Config, seq_len: int) -> dict[str, float]:
    """FLOPs of a token: `forward`, and `training` (three times that; recomputation by remat is not counted).

    Two for every weight of a matmul (the output embedding included, the lookup not), and causal attention's two
    products over the keys that a query sees: (seq_len + 1) / 2 on average, fewer in layers with a sliding window.
    """
    scores = 0.0
    for kind, layers in collections.Counter(cfg.kind_of_each).items():
        window = min(kind.window or seq_len, seq_len)
        keys = window - window * (window - 1) / (2 * seq_len)
        scores += 4 * layers * cfg.heads * cfg.head_dim * keys
    forward = 2.0 * (cfg.layers * _weights(cfg) + cfg.vocab_size * cfg.d_model) + scores
    return {"forward": forward, "training": 3 * forward}


def _weights(cfg: Config) -> int:
    """Weights of one layer's matmuls."""
    attention_size = 2 * cfg.d_model * cfg.head_dim * (cfg.heads + cfg.kv_heads)
    return attention_size + (3 if cfg.gated else 2) * cfg.d_model * cfg.d_ff


def _biases(cfg: Config) -> int:
    qkv = cfg.head_dim * (cfg.heads + 2 * cfg.kv_heads)
    rest = 2 * cfg.d_model + (2 if cfg.gated else 1) * cfg.d_ff
    return {"none": 0, "qkv": qkv, "all": qkv + rest}[cfg.bias]


_INPUTS = ("tokens_BT", "targets_BT", "segments_BT", "positions_BT")


def _check(params: Params, cfg: Config, **inputs: jax.Array) -> None:
    """Compares shapes and types with what the model takes: Python at tracing, and no operation of the program."""
    shape = inputs["tokens_BT"].shape
    for name, array in inputs.items():
        if array.ndim != 2 or array.shape != shape:
            wanted = "(B, T)" if len(shape) != 2 else f"{shape}, the shape of tokens_BT"
            raise ValueError(f"{name}: shape {array.shape}; expected {wanted}")
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name}: {array.dtype}; expected integers, int32")
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if wrong := differences(_shapes(cfg), {path_name(path): x.shape for path, x in leaves}, "is not in this model"):
        raise ValueError(f"params: {'; '.join(wrong)}")
    for path, array in leaves:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"params: {path_name(path)} is {array.dtype}; expected float32")


@functools.lru_cache
def _shapes(cfg: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters."""
    abstract = jax.eval_shape(lambda: init(jax.random.key(0), cfg))
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)}


@functools.lru_cache
def _graph(cfg: Config) -> nnx.GraphDef:
    return nnx.graphdef(jax.eval_shape(lambda: Transformer(cfg, jax.random.key(0))))


def _normal(key: jax.Array, shape: tuple[int, ...], std: float) -> nnx.Param:
    return nnx.Param(std * jax.random.truncated_normal(key, -3.0, 3.0, shape, jnp.float32))


def _bias(present: bool, *shape: int) -> nnx.Param | None:
    return nnx.Param(jnp.zeros(shape)) if present else None


def _scale(cfg: Config, present: bool, *shape: int) -> nnx.Param | None:
    return nnx.Param(jnp.zeros(shape) if cfg.norm_offset else jnp.ones(shape)) if present else None


def _norm(x: jax.Array, scale: nnx.Param | None, bias: nnx.Param | None, cfg: Config) -> jax.Array:
    """RMSNorm over the scale's dimensions, or with a bias LayerNorm, or without a scale nothing; float32 inside."""
    if scale is None:
        return x
    y = x.astype(jnp.float32)
    weight = 1 + scale[...] if cfg.norm_offset else scale[...]
    axes = tuple(range(-weight.ndim, 0))
    if bias is not None:
        y -= jnp.mean(y, axis=axes, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=axes, keepdims=True) + cfg.norm_eps) * _aligned(weight, y)
    return (y if bias is None else y + _aligned(bias[...], y)).astype(x.dtype)


def _aligned(weight: jax.Array, like: jax.Array) -> jax.Array:
    """A weight of the last dimensions, with an axis of 1 for each of the others."""
    return weight.reshape((1,) * (like.ndim - weight.ndim) + weight.shape)


def _linear(x: jax.Array, weight: nnx.Param, bias: nnx.Param | None, cfg: Config, inputs: int = 1) -> jax.Array:
    """A linear layer in the dtype of x, from its last `inputs` dimensions, which are the weight's first.

    One product of two matrices: of a gradient that sums over B and T apart, XLA on a CPU transposes the larger operand
    first, which took a fifth of the step.
    """
    w = weight[...]
    width = math.prod(w.shape[:inputs])
    product = _product if cfg.gradient_dtype == "float32" and x.dtype == jnp.bfloat16 else _plain_product
    y = product(x.reshape(-1, width), w.reshape(width, -1)).reshape(*x.shape[: x.ndim - inputs], *w.shape[inputs:])
    return y if bias is None else y + _aligned(bias[...].astype(x.dtype), y)


def _plain_product(x_NI: jax.Array, w_IO: jax.Array) -> jax.Array:
    return x_NI @ w_IO.astype(x_NI.dtype)


@jax.custom_vjp
def _product(x_NI: jax.Array, w_IO: jax.Array) -> jax.Array:
    """The same; its weight's gradient is summed in float32, over the rows of a device and over devices. Autodiff would
    round each device's sum to bfloat16 first."""
    return _plain_product(x_NI, w_IO)


def _product_backward(saved: tuple[jax.Array, jax.Array], dy_NO: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_NI, w_IO = saved
    return dy_NO @ w_IO.astype(dy_NO.dtype).T, attention.contract_rows(x_NI, dy_NO).astype(w_IO.dtype)


_product.defvjp(lambda x_NI, w_IO: (_product(x_NI, w_IO), (x_NI, w_IO)), _product_backward)


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, cfg: Config, key: jax.Array):
        D, K, G, C = cfg.d_model, cfg.kv_heads, cfg.heads // cfg.kv_heads, cfg.head_dim
        keys = jax.random.split(key, 4)
        self.cfg = cfg
        self.q = _normal(keys[0], (D, K, G, C), D**-0.5)
        self.k = _normal(keys[1], (D, K, C), D**-0.5)
        self.v = _normal(keys[2], (D, K, C), D**-0.5)
        # The residual stream's sum of 2 L outputs starts at unit size.
        self.o = _normal(keys[3], (K, G, C, D), (cfg.heads * C * 2 * cfg.layers) ** -0.5)
        self.q_bias = _bias(cfg.bias != "none", K, G, C)
        self.k_bias = _bias(cfg.bias != "none", K, C)
        self.v_bias = _bias(cfg.bias != "none", K, C)
        self.o_bias = _bias(cfg.bias == "all", D)
        heads = cfg.qk_norm_over == "projection"
        self.q_norm = _scale(cfg, cfg.qk_norm, *((K, G, C) if heads else (C,)))
        self.k_norm = _scale(cfg, cfg.qk_norm, *((K, C) if heads else (C,)))

    def __call__(self, x_BTD: jax.Array, rotate: Rotate, attend: attention.Attend) -> jax.Array:
        q_BTKGC = self._normed(_linear(x_BTD, self.q, self.q_bias, self.cfg), self.q_norm, "projection")
        q_BKGTC = q_BTKGC.transpose(0, 2, 3, 1, 4)
        k_BSKC = self._normed(_linear(x_BTD, self.k, self.k_bias, self.cfg), self.k_norm, "projection")
        k_BKSC = k_BSKC.swapaxes(1, 2)
        v_BKSC = _linear(x_BTD, self.v, self.v_bias, self.cfg).swapaxes(1, 2)
        q_BKGTC = self._normed(q_BKGTC, self.q_norm, "head")
        k_BKSC = self._normed(k_BKSC, self.k_norm, "head")
        o_BKGTC = attend(rotate(q_BKGTC), rotate(k_BKSC[:, :, None])[:, :, 0], v_BKSC)
        return _linear(o_BKGTC.transpose(0, 3, 1, 2, 4), self.o, self.o_bias, self.cfg, inputs=3)

    def _normed(self, x: jax.Array, scale: nnx.Param | None, over: str) -> jax.Array:
        return _norm(x, scale if self.cfg.qk_norm_over == over else None, None, self.cfg)


class MLP(nnx.Module):
    """The feed-forward layer: gated (SwiGLU with silu), or not."""

    def __init__(self, cfg: Config, key: jax.Array):
        D, F = cfg.d_model, cfg.d_ff
        keys = jax.random.split(key, 3)
        self.cfg = cfg
        self.gate = _normal(keys[0], (D, F), D**-0.5) if cfg.gated else None
        self.up = _normal(keys[1], (D, F), D**-0.5)
        self.down = _normal(keys[2], (F, D), (F * 2 * cfg.layers) ** -0.5)
        self.gate_bias = _bias(cfg.bias == "all" and cfg.gated, F)
        self.up_bias = _bias(cfg.bias == "all", F)
        self.down_bias = _bias(cfg.bias == "all", D)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        activation = ACTIVATIONS[self.cfg.activation]
        up_BTF = _linear(x_BTD, self.up, self.up_bias, self.cfg)
        if self.gate is None:
            y_BTF = activation(up_BTF)
        else:
            y_BTF = activation(_linear(x_BTD, self.gate, self.gate_bias, self.cfg)) * up_BTF
        return _linear(y_BTF, self.down, self.down_bias, self.cfg)


class Block(nnx.Module):
    """One residual layer, sequential or parallel (GPT-J, GPT-NeoX); norms before its two parts, after them, or both."""

    def __init__(self, cfg: Config, key: jax.Array):
        keys = jax.random.split(key)
        self.cfg = cfg
        before, after = cfg.norm_placement != "post", cfg.norm_placement != "pre"
        self.attention_norm = _scale(cfg, before, cfg.d_model)
        self.attention_norm_bias = _bias(cfg.norm == "layer", cfg.d_model)
        self.attention = Attention(cfg, keys[0])
        self.attention_post_norm = _scale(cfg, after, cfg.d_model)
        self.mlp_norm = _scale(cfg, before, cfg.d_model)
        self.mlp_norm_bias = _bias(cfg.norm == "layer", cfg.d_model)
        self.mlp = MLP(cfg, keys[1])
        self.mlp_post_norm = _scale(cfg, after, cfg.d_model)

    def __call__(self, x_BTD: jax.Array, rotate: Rotate, attend: attention.Attend) -> jax.Array:
        y_BTD = _norm(x_BTD, self.attention_norm, self.attention_norm_bias, self.cfg)
        a_BTD = x_BTD + _norm(self.attention(y_BTD, rotate, attend), self.attention_post_norm, None, self.cfg)
        read_BTD = x_BTD if self.cfg.parallel_residual else a_BTD
        m_BTD = self.mlp(_norm(read_BTD, self.mlp_norm, self.mlp_norm_bias, self.cfg))
        return a_BTD + _norm(m_BTD, self.mlp_post_norm, None, self.cfg)


Layer = Callable[[jax.Array, Block], tuple[jax.Array, None]]


class Transformer(nnx.Module):
    """The whole model; `layers` is one Block whose parameters carry a leading axis L."""

    def __init__(self, cfg: Config, key: jax.Array):
        keys = jax.random.split(key, 3)
        self.cfg = cfg
        self.embed = _normal(keys[0], (cfg.vocab_size, cfg.d_model), 0.02)
        self.layers = jax.vmap(lambda k: Block(cfg, k))(jax.random.split(keys[1], cfg.layers))
        self.final_norm = _scale(cfg, True, cfg.d_model)
        self.final_norm_bias = _bias(cfg.norm == "layer", cfg.d_model)
        if not cfg.tie_embeddings:
            self.unembed = _normal(keys[2], (cfg.vocab_size, cfg.d_model), 0.02)

    def __call__(self, tokens_BT: jax.Array, segments_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """The last hidden states x_BTD, normalised."""
        cfg = self.cfg
        x_BTD = _lookup(self.embed[...], tokens_BT, jnp.dtype(cfg.dtype))
        if cfg.scale_embeddings:
            x_BTD *= np.asarray(cfg.d_model**0.5, x_BTD.dtype)
        rotates: dict[str, Rotate] = {"none": lambda x: x}
        for rotary in dict.fromkeys(kind.rotary for kind in cfg.kinds if kind.rotary != "none"):
            tables = rope.tables(cfg, positions_BT, local=rotary == "local")
            rotates[rotary] = functools.partial(rope.rotate, tables=tables)
        windows = dict.fromkeys(kind.window for kind in cfg.kinds)
        attends = {window: attention.prepare(cfg, segments_BT, window) for window in windows}

        def layer_of(kind: Kind) -> Layer:
            def layer(x_BTD: jax.Array, block: Block) -> tuple[jax.Array, None]:
                return block(x_BTD, rotates[kind.rotary], attends[kind.window]), None

            return layer if cfg.remat == "none" else jax.checkpoint(layer, policy=REMAT[cfg.remat])

        turn = [layer_of(kind) for kind in cfg.kinds]
        if cfg.scan_layers:
            x_BTD = _scan(turn, x_BTD, self.layers, cfg.layers)
        else:
            x_BTD = _in_turn(turn, x_BTD, self.layers, cfg.layers)
        return _norm(x_BTD, self.final_norm, self.final_norm_bias, cfg)

    @property
    def unembed_VD(self) -> jax.Array:
        return (self.embed if self.cfg.tie_embeddings else self.unembed)[...]


def _lookup(embed_VD: jax.Array, tokens_BT: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows of the embedding, x_BTD.

    In the scope of a mesh that splits the table, no device sees more of it than its own part: each takes its columns of
    the tokens of its fsdp group, and they exchange columns for rows. So B T D elements move in the dtype of the
    computation, and of the table none; the gradient, too, goes back to the part that it belongs to. Left to itself,
    the compiler gathers the table, makes its gradient whole in float32 and sums that over all devices: 1.05 and 2.1 GB
    of a vocabulary of 128,256 and a width of 4,096.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if "tensor" not in mesh.shape or mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return embed_VD[tokens_BT].astype(dtype)
    rows = jax.P(("data", "fsdp"))
    # check_vma: what the replicated axis (data) adds up is derived from the types, so it must hold.
    return jax.shard_map(
        functools.partial(_lookup_in_parts, dtype=dtype), in_specs=(jax.P("tensor", "fsdp"), rows), out_specs=rows
    )(embed_VD, tokens_BT)


def _lookup_in_parts(embed_VD: jax.Array, tokens_BT: jax.Array, *, dtype: jnp.dtype) -> jax.Array:
    """On one device: `embed_VD` and `tokens_BT` are its part of the table and its rows."""
    tokens_BT = jax.lax.all_gather(tokens_BT, "fsdp", tiled=True)
    # Of a vocabulary split over the axis tensor, one device has each token's row; the others add zeros.
    at_BT = tokens_BT - jax.lax.axis_index("tensor") * len(embed_VD)
    here_BT = (at_BT >= 0) & (at_BT < len(embed_VD))
    x_BTD = embed_VD[jnp.where(here_BT, at_BT, 0)].astype(dtype)
    x_BTD = jnp.where(here_BT[..., None], x_BTD, jnp.zeros((), dtype))
    x_BTD = jax.lax.all_to_all(x_BTD, "fsdp", split_axis=0, concat_axis=2, tiled=True)
    return jax.lax.psum(x_BTD, "tensor")


def _in_turn(turn: Sequence[Layer], x_BTD: jax.Array, stacked: Block, layers: int) -> jax.Array:
    """So many stacked layers one after the other, their kinds in turn."""
    for i, block in enumerate(_unstack(stacked, layers)):
        x_BTD, _ = turn[i % len(turn)](x_BTD, block)
    return x_BTD


def _scan(turn: Sequence[Layer], x_BTD: jax.Array, stacked: Block, layers: int) -> jax.Array:
    """The same as one compiled program for each turn; of what is left after whole turns, one for each layer."""
    if len(turn) == 1:
        return jax.lax.scan(turn[0], x_BTD, stacked)[0]
    turns, rest = divmod(layers, len(turn))
    leaves, tree = jax.tree.flatten(stacked)
    split = [jax.lax.split(leaf, (layers - rest, rest)) for leaf in leaves]
    if turns:
        whole = [most.reshape(turns, len(turn), *most.shape[1:]) for most, _ in split]
        blocks = jax.tree.unflatten(tree, whole)
        x_BTD, _ = jax.lax.scan(lambda x, block: (_in_turn(turn, x, block, len(turn)), None), x_BTD, blocks)
    return _in_turn(turn, x_BTD, jax.tree.unflatten(tree, [last for _, last in split]), rest)


def _unstack(stacked: Block, layers: int) -> list[Block]:
    """The L layers of a stacked one. The gradient of `lax.split` is one concatenation, not L padded sums."""
    leaves, tree = jax.tree.flatten(stacked)
    split = [jax.lax.split(leaf, (1,) * layers) for leaf in leaves]
    return [jax.tree.unflatten(tree, [leaf[i][0] for leaf in split]) for i in range(layers)]
