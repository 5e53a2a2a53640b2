"""Rotary position embedding (Su et al. 2021), with the rescalings that open weights use for longer contexts."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw.models.config import Config


def frequencies(cfg: Config, local: bool = False) -> np.ndarray:
    """Radians per position of each pair of channels (rotary_dim / 2,), float32.

    `linear` scaling divides all by the factor (Chen et al. 2023). `llama3` (Llama 3.1) divides those that turn less
    than `rope_low_freq_factor` times within the original context, keeps those that turn more than
    `rope_high_freq_factor` times, and blends between. `yarn` (Peng et al. 2023, arXiv 2309.00071, section 3.2) keeps
    the channels up to that which turns `rope_beta_fast` times, divides those from that which turns `rope_beta_slow`
    times, and blends between by the channel's number. With `local` those of `rope_local_theta`, not rescaled.
    """
    theta = cfg.rope_local_theta if local else cfg.rope_theta
    frequency = theta ** (-np.arange(0, cfg.rotary_dim, 2, dtype=np.float32) / cfg.rotary_dim)
    if local:
        return frequency.astype(np.float32)
    kept: float | np.ndarray = 1.0
    if cfg.rope_scaling == "linear":
        kept = 0.0
    if cfg.rope_scaling == "llama3":
        turns = cfg.rope_original_context * frequency / (2 * np.pi)
        low, high = cfg.rope_low_freq_factor, cfg.rope_high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
    if cfg.rope_scaling == "yarn":
        kept = 1 - _ramp(cfg)
    return (frequency * (kept + (1 - kept) / cfg.rope_factor)).astype(np.float32)


def _ramp(cfg: Config) -> np.ndarray:
    """YaRN's share of interpolation (rotary_dim / 2,): 0 for the fast channels, 1 for the slow ones."""
    half = cfg.rotary_dim // 2

    def channel(turns: float) -> float:
        """The channel, counted in pairs, that turns so many times within the original context."""
        return half * math.log(cfg.rope_original_context / (turns * 2 * math.pi)) / math.log(cfg.rope_theta)

    low, high = channel(cfg.rope_beta_fast), channel(cfg.rope_beta_slow)
    if cfg.rope_truncate:
        low, high = math.floor(low), math.ceil(high)
    # As in transformers: bounded by the number of channels, not of pairs.
    low, high = max(low, 0), min(high, cfg.rotary_dim - 1)
    return np.clip((np.arange(half, dtype=np.float32) - low) / (high - low or 0.001), 0, 1)


def _attention_factor(cfg: Config) -> float:
    """What YaRN multiplies cosines and sines with, so that the scores' temperature falls as the context grows."""
    if cfg.rope_scaling != "yarn":
        return 1.0
    return cfg.rope_attention_factor or 0.1 * math.log(max(cfg.rope_factor, 1)) + 1


def tables(cfg: Config, positions_BT: jax.Array, local: bool = False) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (B, T, rotary_dim / 2) in float32, made once a batch."""
    angles = positions_BT[..., None].astype(jnp.float32) * frequencies(cfg, local)[None, None]
    factor = 1.0 if local else _attention_factor(cfg)
    if factor == 1:
        return jnp.cos(angles), jnp.sin(angles)
    return factor * jnp.cos(angles), factor * jnp.sin(angles)


def rotate(x_BKGTC: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the first channels, as many as the tables are for; their two halves are a pair, as in Hugging Face."""
    cos, sin = (table[:, None, None].astype(x_BKGTC.dtype) for table in tables)
    half = cos.shape[-1]
    a, b, rest = x_BKGTC[..., :half], x_BKGTC[..., half : 2 * half], x_BKGTC[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)
