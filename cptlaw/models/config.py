"""The architecture of a model, as data."""

import dataclasses
import functools
from collections.abc import Callable

import jax

from cptlaw.errors import UserError

# What the backward pass keeps of each layer's forward pass.
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}

# Fields of Config that say how a model is computed, which is no part of what it is.
COMPUTATION = ("dtype", "remat", "scan_layers", "loss_block", "attention")


@dataclasses.dataclass(frozen=True)
class Config:
    """Architecture. Parameters are float32; `dtype` is that of the computation (float32 or bfloat16).

    The defaults are Llama's. Qwen2 has bias "qkv"; Qwen3 has qk_norm; Mistral has sliding_window; GPT-NeoX has norm
    "layer", bias "all", activation "gelu", gated false, parallel_residual, and rotary_fraction 0.25.
    """

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
    loss_block: int = 0  # token ids whose logits are held at a time; 0: all that fit, else 4,096 (`loss.blocks`)
    norm: str = "rms"  # or "layer": with mean and bias
    bias: str = "none"  # of linear layers: "qkv", or "all" (not the embeddings)
    activation: str = "silu"
    gated: bool = True  # the feed-forward layer multiplies its activation with a second projection
    parallel_residual: bool = False  # attention and feed-forward read the same input
    qk_norm: bool = False  # RMSNorm of each head's queries and keys
    sliding_window: int = 0  # keys a query sees, itself included; 0: all
    rotary_fraction: float = 1.0  # share of a head's channels that carry position
    rope_scaling: str = "none"
    rope_factor: float = 1.0
    # Of llama3 scaling alone.
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_context: int = 8192
    attention: str = "auto"  # the kernel: xla, cudnn (NVIDIA) or splash (TPU); auto: by platform

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
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise UserError(
                f"model.head_dim, rotary_fraction: rotary embeddings need an even number of channels, at most "
                f"{self.head_dim}, not {self.rotary_dim}"
            )
        for name in ("sliding_window", "loss_block"):
            if getattr(self, name) < 0:
                raise UserError(f"model.{name}: a positive number, or 0, not {getattr(self, name)}")
        choices: dict[str, tuple[str, ...]] = {
            "dtype": ("float32", "bfloat16"),
            "remat": tuple(REMAT),
            "norm": ("rms", "layer"),
            "bias": ("none", "qkv", "all"),
            "activation": tuple(ACTIVATIONS),
            "rope_scaling": ("none", "linear", "llama3"),
            "attention": ("auto", "xla", "cudnn", "splash"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UserError(f"model.{name}: one of {', '.join(known)}, not {getattr(self, name)!r}")

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that carry position."""
        return int(self.head_dim * self.rotary_fraction)
