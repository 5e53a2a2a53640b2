"""NAFNet (Chen et al., "Simple Baselines for Image Restoration", ECCV 2022, arXiv 2204.04676).

A U-Net without activation functions. Its taps are the outputs of its decoder stages, finest first.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from cptlaw import fields
from cptlaw.fields import ConfigError, NotEmpty, at_least
from cptlaw.restoration import layers
from cptlaw.restoration.layers import ChannelNorm, Conv3, Depthwise, Pointwise, scaled, to_depth, to_space

Blocks = Annotated[int, at_least(1)]


@dataclasses.dataclass(frozen=True)
class NAFNetConfig:
    """Width 64 with these blocks is the paper's for deblurring: 67.888835M parameters.

    Attributes:
      width: channels at full resolution; each level doubles them.
      encoder, decoder: blocks of every level, finest first and coarsest first.
      middle: blocks below the coarsest level.
    """

    kind: str = "nafnet"
    width: Annotated[int, at_least(2)] = 64
    encoder: Annotated[tuple[Blocks, ...], NotEmpty()] = (1, 1, 1, 28)
    middle: Blocks = 1
    decoder: Annotated[tuple[Blocks, ...], NotEmpty()] = (1, 1, 1, 1)

    def __post_init__(self):
        fields.check(self, "network")
        if len(self.encoder) != len(self.decoder):
            raise ConfigError("network.decoder", f"has {len(self.decoder)} levels and the encoder {len(self.encoder)}")
        if self.width % 2:
            raise ConfigError("network.width", f"must be even, because a gate halves the channels, not {self.width}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the taps, finest first."""
        return tuple(self.width * 2**level for level in range(len(self.encoder)))

    @property
    def multiple(self) -> int:
        """What the sides of an image are padded to."""
        return 2 ** len(self.encoder)

    def macs(self, crop: int, head: bool = True) -> float:
        """Multiplications of the forward pass of a square crop; with no `head` those up to the last tap."""

        def level(i: int, blocks: int) -> float:
            c = self.width * 2**i
            return layers.pixels(crop, i) * blocks * (6 * c * c + 18 * c)

        levels = len(self.encoder)
        total = layers.pixels(crop, 0) * 27 * self.width * (2 if head else 1)
        total += sum(level(i, a + b) for i, (a, b) in enumerate(zip(self.encoder, self.decoder[::-1])))
        # Halving takes 4c x 2c weights at each coarser pixel; doubling 2c x 4c.
        resizing = sum(layers.pixels(crop, i + 1) * 16 * c * c for i, c in enumerate(self.channels))
        return total + level(levels, self.middle) + resizing


class Block(nnx.Module):
    """NAFBlock: gated depthwise convolution with channel attention, then a gated feed-forward; starts as the
    identity."""

    def __init__(self, key: jax.Array, c: int):
        keys = jax.random.split(key, 6)
        self.norm1, self.norm2 = ChannelNorm(c), ChannelNorm(c)
        self.conv1, self.conv2 = Pointwise(keys[0], c, 2 * c), Depthwise(keys[1], 2 * c)
        self.attention, self.conv3 = Pointwise(keys[2], c, c), Pointwise(keys[3], c, c)
        self.conv4, self.conv5 = Pointwise(keys[4], c, 2 * c), Pointwise(keys[5], c, c)
        self.beta_scale, self.gamma_scale = nnx.Param(jnp.zeros(c)), nnx.Param(jnp.zeros(c))

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        h = _gate(self.conv2(self.conv1(self.norm1(x_BHWC))))
        h = h * self.attention(h.mean((1, 2), keepdims=True))
        y = x_BHWC + scaled(self.conv3(h), self.beta_scale)
        return y + scaled(self.conv5(_gate(self.conv4(self.norm2(y)))), self.gamma_scale)


def _gate(x: jax.Array) -> jax.Array:
    a, b = jnp.split(x, 2, -1)
    return a * b


class NAFNet(nnx.Module):
    """The network: image -> (restored image, taps)."""

    def __init__(self, cfg: NAFNetConfig, key: jax.Array):
        self.cfg = cfg
        keys = iter(jax.random.split(key, 3 + 4 * len(cfg.encoder)))
        self.intro, self.head = Conv3(next(keys), 3, cfg.width), Conv3(next(keys), cfg.width, 3)
        for i, (c, blocks) in enumerate(zip(cfg.channels, cfg.encoder)):
            setattr(self, f"encoder{i}", _blocks(next(keys), c, blocks))
            setattr(self, f"down{i}", Pointwise(next(keys), 4 * c, 2 * c))
        self.middle = _blocks(next(keys), 2 * cfg.channels[-1], cfg.middle)
        for i, blocks in zip(reversed(range(len(cfg.decoder))), cfg.decoder):
            c = cfg.channels[i]
            setattr(self, f"up{i}", Pointwise(next(keys), 2 * c, 4 * c, bias=False))
            setattr(self, f"decoder{i}", _blocks(next(keys), c, blocks))

    def __call__(self, image_BHWC: jax.Array, head: bool = True) -> tuple[jax.Array | None, tuple[jax.Array, ...]]:
        cfg = self.cfg
        x = self.intro(image_BHWC)
        skips = []
        for i, blocks in enumerate(cfg.encoder):
            x = layers.through(getattr(self, f"encoder{i}"), x, blocks)
            skips.append(x)
            x = getattr(self, f"down{i}")(to_depth(x))
        x = layers.through(self.middle, x, cfg.middle)
        taps = []
        for i, blocks in zip(reversed(range(len(cfg.decoder))), cfg.decoder):
            x = to_space(getattr(self, f"up{i}")(x)) + skips[i]
            x = layers.through(getattr(self, f"decoder{i}"), x, blocks)
            taps.append(x)
        return (image_BHWC + self.head(x) if head else None), tuple(reversed(taps))


def _blocks(key: jax.Array, channels: int, count: int) -> nnx.Module:
    return layers.stacked(lambda k: Block(k, channels), key, count)
