"""The degradation classifier of DCPT (arXiv 2501.15510): logits from a network's taps alone, never from the image."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from cptlaw import fields
from cptlaw.fields import NotEmpty, at_least
from cptlaw.restoration import layers
from cptlaw.restoration.layers import ChannelNorm, Pointwise


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Over the taps of NAFNet of width 64, with 5 classes, 49.29M parameters.

    Attributes:
      channels: of the taps, finest first.
      classes: degradation types; none of them is "clean".
      blocks: residual blocks of a tap, and again after the last.
      expansion: of a block's inner channels.
    """

    channels: Annotated[tuple[int, ...], NotEmpty(), at_least(1)]
    classes: Annotated[int, at_least(2)]
    blocks: Annotated[int, at_least(1)] = 2
    expansion: Annotated[int, at_least(1)] = 2

    def __post_init__(self):
        fields.check(self, "classifier")

    def macs(self, crop: int, strides: tuple[int, ...] | None = None) -> float:
        """Multiplications of the forward pass over the taps of a square crop, the first of which has its size."""
        total = 0.0
        for i, c in enumerate(self.channels):
            block = self.blocks * c * c * self.expansion * (2 + 9 * self.expansion)
            after = self.channels[min(i + 1, len(self.channels) - 1)]
            total += layers.pixels(crop, i) * (block + c * after)
        return total + layers.pixels(crop, len(self.channels)) * block


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions, wide inside, each with a norm over channels; ReLU after the sum."""

    def __init__(self, key: jax.Array, c: int, expansion: int):
        wide = c * expansion
        keys = jax.random.split(key, 3)
        self.conv1 = nnx.Param(_kaiming(keys[0], (1, 1, c, wide)))
        self.conv2 = nnx.Param(_kaiming(keys[1], (3, 3, wide, wide)))
        self.conv3 = nnx.Param(_kaiming(keys[2], (1, 1, wide, c)))
        self.norm1, self.norm2, self.norm3 = ChannelNorm(wide), ChannelNorm(wide), ChannelNorm(c)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        h = jax.nn.relu(self.norm1(_convolved(x_BHWC, self.conv1)))
        h = jax.nn.relu(self.norm2(_convolved(h, self.conv2)))
        return jax.nn.relu(x_BHWC + self.norm3(_convolved(h, self.conv3)))


def _convolved(x_BHWC: jax.Array, weight: nnx.Param) -> jax.Array:
    w = weight[...].astype(x_BHWC.dtype)
    if w.shape[0] == 1:
        return x_BHWC @ w[0, 0]
    return jax.lax.conv_general_dilated(x_BHWC, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _kaiming(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Normal with variance 2 / fan_out, for ReLU (He et al. 2015, arXiv 1502.01852)."""
    return jax.random.normal(key, shape, jnp.float32) * (2 / (shape[0] * shape[1] * shape[3])) ** 0.5


class Classifier(nnx.Module):
    """Taps, finest first -> logits (B, K)."""

    def __init__(self, cfg: ClassifierConfig, key: jax.Array):
        self.cfg = cfg
        keys = iter(jax.random.split(key, 2 * len(cfg.channels) + 2))
        self.mixing = nnx.Param(jnp.ones(len(cfg.channels)))
        for i, c in enumerate(cfg.channels):
            after = cfg.channels[min(i + 1, len(cfg.channels) - 1)]
            setattr(self, f"stage{i}", _blocks(next(keys), c, cfg))
            setattr(self, f"to{i}", Pointwise(next(keys), c, after, bias=False))
        self.last = _blocks(next(keys), cfg.channels[-1], cfg)
        self.logits = Pointwise(next(keys), cfg.channels[-1], cfg.classes)

    def __call__(self, taps: tuple[jax.Array, ...]) -> jax.Array:
        share = jax.nn.softmax(self.mixing[...])
        h: jax.Array | None = None
        for i, tap in enumerate(taps):
            x = tap * share[i].astype(tap.dtype)
            h = x if h is None else _resized(h, x.shape[1:3]) + x
            h = layers.through(getattr(self, f"stage{i}"), h, self.cfg.blocks)
            h = jax.nn.relu(_pooled(getattr(self, f"to{i}")(h)))
        assert h is not None
        h = layers.through(self.last, h, self.cfg.blocks)
        return self.logits(h.mean((1, 2)).astype(jnp.float32))


def _pooled(x_BHWC: jax.Array) -> jax.Array:
    """The largest of each 2x2 square."""
    B, H, W, C = x_BHWC.shape
    return x_BHWC.reshape(B, H // 2, 2, W // 2, 2, C).max((2, 4))


def _resized(h_BHWC: jax.Array, size: tuple[int, ...]) -> jax.Array:
    if h_BHWC.shape[1:3] != size:
        raise ValueError(f"taps: sizes must halve from one to the next, but {h_BHWC.shape[1:3]} meets {size}")
    return h_BHWC


def _blocks(key: jax.Array, channels: int, cfg: ClassifierConfig) -> nnx.Module:
    return layers.stacked(lambda k: Bottleneck(k, channels, cfg.expansion), key, cfg.blocks)
