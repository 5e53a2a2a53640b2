"""Rotary position embedding (Su et al. 2021), with the rescalings that open weights use for longer contexts."""

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw.models.config import Config


def frequencies(cfg: Config) -> np.ndarray:
    """Radians per position of each pair of channels (rotary_dim / 2,), float32.

    `linear` scaling divides all by the factor (Chen et al. 2023). `llama3` (Llama 3.1) divides those that turn less
    than `rope_low_freq_factor` times within the original context, keeps those that turn more than
    `rope_high_freq_factor` times, and blends between.
    """
    frequency = cfg.rope_theta ** (-np.arange(0, cfg.rotary_dim, 2, dtype=np.float32) / cfg.rotary_dim)
    kept: float | np.ndarray = 1.0
    if cfg.rope_scaling == "linear":
        kept = 0.0
    if cfg.rope_scaling == "llama3":
        turns = cfg.rope_original_context * frequency / (2 * np.pi)
        low, high = cfg.rope_low_freq_factor, cfg.rope_high_freq_factor
        kept = np.clip((turns - low) / (high - low), 0, 1)
    return (frequency * (kept + (1 - kept) / cfg.rope_factor)).astype(np.float32)


def tables(cfg: Config, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines (B, T, rotary_dim / 2) in float32, made once a batch."""
    angles = positions_BT[..., None].astype(jnp.float32) * frequencies(cfg)[None, None]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BKGTC: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates the first channels, as many as the tables are for; their two halves are a pair, as in Hugging Face."""
    cos, sin = (table[:, None, None].astype(x_BKGTC.dtype) for table in tables)
    half = cos.shape[-1]
    a, b, rest = x_BKGTC[..., :half], x_BKGTC[..., half : 2 * half], x_BKGTC[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)
