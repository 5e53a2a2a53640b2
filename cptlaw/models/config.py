"""The architecture of a model, as data."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

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

# Fields of Config that say how a model is computed, which is no part of what it is.
COMPUTATION = ("dtype", "remat", "scan_layers", "loss_block", "attention", "gradient_dtype")


@dataclasses.dataclass(frozen=True)
class Config:
    """Architecture. Parameters are float32; `dtype` is that of the computation (float32 or bfloat16).

    The defaults are Llama's. Qwen2 has bias "qkv"; Qwen3 has qk_norm; Mistral has sliding_window; GPT-NeoX has norm
    "layer", bias "all", activation "gelu", gated false, parallel_residual, and rotary_fraction 0.25.
    """

    vocab_size: Annotated[int, at_least(1)]
    d_model: Annotated[int, at_least(1)]
    layers: Annotated[int, at_least(1)]
    heads: Annotated[int, at_least(1)]
    kv_heads: Annotated[int, at_least(1)]
    d_ff: Annotated[int, at_least(1)]
    head_dim: Annotated[int, at_least(0)] = 0  # 0: d_model // heads
    rope_theta: Annotated[float, above(0)] = 10_000.0
    norm_eps: Annotated[float, at_least(0)] = 1e-5
    tie_embeddings: bool = True
    dtype: Annotated[str, OneOf(("float32", "bfloat16"))] = "float32"
    remat: Annotated[str, OneOf(tuple(REMAT))] = "none"
    # One compiled layer for all: compiles faster when there are many, runs slower on a CPU.
    scan_layers: bool = False
    loss_block: Annotated[int, at_least(0)] = (
        0  # token ids whose logits are held at a time; 0: all that fit, else 4,096 (`loss.blocks`)
    )
    norm: Annotated[str, OneOf(("rms", "layer"))] = "rms"  # "layer": with mean and bias
    bias: Annotated[str, OneOf(("none", "qkv", "all"))] = (
        "none"  # of linear layers: "qkv", or "all" (not the embeddings)
    )
    activation: Annotated[str, OneOf(tuple(ACTIVATIONS))] = "silu"
    gated: bool = True  # the feed-forward layer multiplies its activation with a second projection
    parallel_residual: bool = False  # attention and feed-forward read the same input
    qk_norm: bool = False  # RMSNorm of each head's queries and keys
    sliding_window: Annotated[int, at_least(0)] = 0  # keys a query sees, itself included; 0: all
    # Share of a head's channels that carry position.
    rotary_fraction: Annotated[float, between(0, 1, open_low=True)] = 1.0
    rope_scaling: Annotated[str, OneOf(("none", "linear", "llama3"))] = "none"
    rope_factor: Annotated[float, above(0)] = 1.0
    # Of llama3 scaling alone.
    rope_low_freq_factor: Annotated[float, above(0)] = 1.0
    rope_high_freq_factor: Annotated[float, above(0)] = 4.0
    rope_original_context: Annotated[int, at_least(1)] = 8192
    attention: Annotated[str, OneOf(("auto", "xla", "cudnn", "triton", "splash"))] = (
        "auto"  # the kernel: xla, cudnn or triton (NVIDIA), or splash (TPU); auto: by platform
    )
    # In what the gradients of linear layers' weights leave a device's matmul and are summed over devices, when dtype is
    # bfloat16: bfloat16 moves half as many bytes, float32 rounds each element once less for every doubling of devices.
    gradient_dtype: Annotated[str, OneOf(("bfloat16", "float32"))] = "bfloat16"
    # JSON of the config.json (and generation_config.json) that an imported model had, for an export to give back. No
    # part of what the model is.
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
        if self.rope_scaling == "llama3" and self.rope_low_freq_factor >= self.rope_high_freq_factor:
            raise ConfigError(
                "model.rope_low_freq_factor",
                f"must be below rope_high_freq_factor, {self.rope_high_freq_factor:g}, but is "
                f"{self.rope_low_freq_factor:g}",
            )

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that carry position."""
        return int(self.head_dim * self.rotary_fraction)
