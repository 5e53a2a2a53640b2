"""The architecture of a model, as data."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax

from cptlaw import fields
from cptlaw.fields import ConfigError, OneOf, above, at_least, between

OUTPUT = "attention_output"  # the name of attention's output, and of what else its gradient needs of it, for `REMAT`


def _is_attention(primitive: Any, *_: Any, **__: Any) -> bool:
    """cuDNN's kernel, whose results JAX gives no name."""
    return primitive.name == "dot_product_attention_fwd_wrapper"


# What the backward pass keeps of each layer's forward pass. none: all of it. dots: the results of linear layers. full:
# nothing but the layer's input. attention: that and attention's output (B T heads head_dim elements a layer), so that
# the kernel's forward pass, whose work grows with T squared, does not run again.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.save_only_these_names(OUTPUT), _is_attention
    ),
}
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


class Kind(NamedTuple):
    """What the attention of one layer may have of its own: keys that a query sees (0: all), and rotary positions (of
    base rope_theta, of rope_local_theta, or none)."""

    window: int
    rotary: str


KINDS = ("full", "sliding", "nope", "sliding_nope")

# Fields of Config that say how a model is computed, which is no part of what it is.
COMPUTATION = ("dtype", "remat", "scan_layers", "loss_block", "attention", "gradient_dtype")


@dataclasses.dataclass(frozen=True)
class Config:
    """Architecture. Parameters are float32; `dtype` is that of the computation (float32 or bfloat16).

    The defaults are Llama's. Qwen2 has bias "qkv"; Qwen3 has qk_norm; Mistral has sliding_window; GPT-NeoX has norm
    "layer", bias "all", activation "gelu", gated false, parallel_residual, and rotary_fraction 0.25. OLMo 2 has
    norm_placement "post", and qk_norm over the whole projection. Gemma has norm_placement "both", norm_offset,
    scale_embeddings, activation "gelu_tanh", and layers of two kinds; Gemma 2 the soft caps, Gemma 3 qk_norm and
    rope_local_theta.

    Attributes:
      vocab_size: rows of the embedding.
      d_model: channels of the residual stream.
      layers: how many, each of attention and a feed-forward layer.
      heads, kv_heads: of queries, and of keys and values; the second divides the first.
      d_ff: channels of the feed-forward layer.
      head_dim: channels of a head; 0: d_model // heads.
      rope_theta: base of the rotary frequencies.
      norm_eps: added to the mean square in norms.
      tie_embeddings: the output layer is the embedding.
      dtype: of the computation; parameters stay float32.
      remat: what the backward pass computes again: none; dots, all but products with weights; attention, all but
        attention's output; full, all of a layer.
      scan_layers: one compiled layer for all: compiles faster when there are many, runs slower on a CPU.
      loss_block: token ids whose logits are held at a time; 0: all that fit, else 4,096 (`loss.blocks`).
      norm: rms, or layer, with mean and bias.
      bias: of linear layers: none, those of q, k and v (qkv), or all (not the embeddings).
      activation: of the feed-forward layer.
      gated: the feed-forward layer multiplies its activation with a second projection.
      parallel_residual: attention and feed-forward layer read the same input.
      qk_norm: RMSNorm of queries and keys.
      sliding_window: keys a query sees, itself included; 0: all.
      rotary_fraction: share of a head's channels that carry position.
      rope_scaling: how rotary frequencies are rescaled for a longer context.
      rope_factor: by how much.
      rope_low_freq_factor, rope_high_freq_factor: of llama3 scaling alone.
      rope_original_context: of llama3 and yarn scaling: the context before it, in tokens.
      attention: the kernel: xla, cudnn or triton (NVIDIA), or splash (TPU); auto: by platform.
      gradient_dtype: in what the gradients of linear layers' weights leave a device's matmul and are summed over
        devices, when dtype is bfloat16: bfloat16 moves half as many bytes, float32 rounds each element once less for
        every doubling of devices.
      norm_placement: where a layer has norms: before attention and the feed-forward layer, after them, or both.
      qk_norm_over: what qk_norm takes the mean square of: a head's channels, or those of all heads together.
      layer_kinds: kinds of layers, in turn, with commas between; empty: all alike. full: a query sees all keys.
        sliding: it sees those of sliding_window. nope, sliding_nope: the same without rotary positions.
      rope_beta_fast, rope_beta_slow: of yarn scaling alone.
      rope_attention_factor: of yarn scaling: factor of cosines and sines; 0: 0.1 ln(rope_factor) + 1.
      rope_truncate: of yarn scaling: the blend begins and ends at whole channels.
      rope_local_theta: of layers with a window, which then have no rope_scaling either; 0: rope_theta.
      norm_offset: norms multiply with 1 + their weights.
      scale_embeddings: the embedding is multiplied with sqrt(d_model).
      query_pre_attn_scalar: attention's scores are divided by its square root; 0: by head_dim's.
      attention_softcap, logit_softcap: logits x of attention and of the vocabulary become cap tanh(x / cap); 0: they
        stay.
      described: JSON of the config.json (and generation_config.json) that an imported model had, for an export to give
        back. No part of what the model is.
    """

    vocab_size: Annotated[int, at_least(1)]
    d_model: Annotated[int, at_least(1)]
    layers: Annotated[int, at_least(1)]
    heads: Annotated[int, at_least(1)]
    kv_heads: Annotated[int, at_least(1)]
    d_ff: Annotated[int, at_least(1)]
    head_dim: Annotated[int, at_least(0)] = 0
    rope_theta: Annotated[float, above(0)] = 10_000.0
    norm_eps: Annotated[float, at_least(0)] = 1e-5
    tie_embeddings: bool = True
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"
    remat: Annotated[str, OneOf(tuple(REMAT))] = "none"
    scan_layers: bool = False
    loss_block: Annotated[int, at_least(0)] = 0
    norm: Annotated[str, OneOf(("rms", "layer"))] = "rms"
    bias: Annotated[str, OneOf(("none", "qkv", "all"))] = "none"
    activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = "silu"
    gated: bool = True
    parallel_residual: bool = False
    qk_norm: bool = False
    sliding_window: Annotated[int, at_least(0)] = 0
    rotary_fraction: Annotated[float, between(0, 1, open_low=True)] = 1.0
    rope_scaling: Annotated[str, OneOf(("none", "linear", "llama3", "yarn"))] = "none"
    rope_factor: Annotated[float, above(0)] = 1.0
    rope_low_freq_factor: Annotated[float, above(0)] = 1.0
    rope_high_freq_factor: Annotated[float, above(0)] = 4.0
    rope_original_context: Annotated[int, at_least(1)] = 8192
    attention: Annotated[str, OneOf(("auto", "xla", "cudnn", "triton", "splash"))] = "auto"
    gradient_dtype: Annotated[str, OneOf(("bfloat16", "float32"))] = "bfloat16"
    # The fields from here on are younger than runs whose ids hold the ones above (`studies.settings.Study`).
    norm_placement: Annotated[str, OneOf(("pre", "post", "both"))] = "pre"
    qk_norm_over: Annotated[str, OneOf(("head", "projection"))] = "head"
    layer_kinds: str = ""
    rope_beta_fast: Annotated[float, above(0)] = 32.0
    rope_beta_slow: Annotated[float, above(0)] = 1.0
    rope_attention_factor: Annotated[float, at_least(0)] = 0.0
    rope_truncate: bool = True
    rope_local_theta: Annotated[float, at_least(0)] = 0.0
    norm_offset: bool = False
    scale_embeddings: bool = False
    query_pre_attn_scalar: Annotated[float, at_least(0)] = 0.0
    attention_softcap: Annotated[float, at_least(0)] = 0.0
    logit_softcap: Annotated[float, at_least(0)] = 0.0
    described: str = dataclasses.field(default="", compare=False, repr=False)

    def __post_init__(self):
        fields.check(self, "model")
        if self.heads % self.kv_heads:
            raise ConfigError("model.kv_heads", f"{self.kv_heads} does not divide model.heads, {self.heads}")
        if not self.head_dim:
            if self.d_model % self.heads:
                raise ConfigError(
                    "model.heads", f"{self.heads} does not divide model.d_model, {self.d_model}; set head_dim"
                )
            object.__setattr__(self, "head_dim", self.d_model // self.heads)
        if self.rotary_dim % 2 or not self.rotary_dim:
            raise ConfigError(
                "model.head_dim",
                f"rotary embeddings need an even number of channels, but {self.head_dim} channels a head and "
                f"rotary_fraction {self.rotary_fraction:g} make {self.rotary_dim}",
            )
        if self.norm_placement != "pre" and (self.norm == "layer" or self.parallel_residual):
            raise ConfigError(
                "model.norm_placement", f'"{self.norm_placement}" needs norm "rms" and parallel_residual false'
            )
        if self.rope_scaling == "llama3" and self.rope_low_freq_factor >= self.rope_high_freq_factor:
            raise ConfigError(
                "model.rope_low_freq_factor",
                f"must be below rope_high_freq_factor, {self.rope_high_freq_factor:g}, but is "
                f"{self.rope_low_freq_factor:g}",
            )

        if self.rope_scaling == "yarn":
            if self.rope_beta_slow >= self.rope_beta_fast:
                raise ConfigError("model.rope_beta_slow", f"must be below rope_beta_fast, {self.rope_beta_fast:g}")
            if self.rope_theta <= 1:
                raise ConfigError("model.rope_theta", f"must be above 1 for yarn, but is {self.rope_theta:g}")
        names = self.layer_kinds.split(",") if self.layer_kinds else []
        if unknown := [name for name in names if name not in KINDS]:
            raise ConfigError(
                "model.layer_kinds", f"{unknown[0]!r} is no kind of layer; name some of {', '.join(KINDS)}"
            )
        if not self.sliding_window and any("sliding" in name for name in names):
            raise ConfigError(
                "model.sliding_window", "0, but model.layer_kinds names layers that have a window; set it"
            )

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of the first layers; those after them repeat these."""
        if not self.layer_kinds:
            names = ["sliding" if self.sliding_window else "full"]
        else:
            names = self.layer_kinds.split(",")
        local = "local" if self.rope_local_theta else "global"
        rotary = {"full": "global", "sliding": local, "nope": "none", "sliding_nope": "none"}
        return tuple(Kind(self.sliding_window if "sliding" in name else 0, rotary[name]) for name in names)

    @property
    def kind_of_each(self) -> tuple[Kind, ...]:
        """The kind of every layer."""
        return tuple(self.kinds[i % len(self.kinds)] for i in range(self.layers))

    @property
    def attention_scale(self) -> float:
        """What attention multiplies its scores with."""
        return (self.query_pre_attn_scalar or self.head_dim) ** -0.5

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that carry position."""
        return int(self.head_dim * self.rotary_fraction)
