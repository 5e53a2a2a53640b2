"""Restormer (Zamir et al., "Restormer: Efficient Transformer for High-Resolution Image Restoration", CVPR 2022, arXiv
2111.09881).

A U-Net of transformer blocks whose attention is between channels. Its taps are the outputs of its three decoder levels,
finest first, before the refinement.
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from cptlaw import fields
from cptlaw.fields import ConfigError, above, at_least
from cptlaw.restoration import layers
from cptlaw.restoration.layers import ChannelNorm, Conv3, Depthwise, Pointwise, to_depth, to_space

Blocks = Annotated[int, at_least(1)]


@dataclasses.dataclass(frozen=True)
class RestormerConfig:
    """The defaults are the paper's.

    Attributes:
      width: channels at full resolution; each of the three halvings of the size doubles them.
      blocks, heads: of the four levels, finest first.
      refinement: blocks after the last decoder level.
      expansion: of the feed-forward layers' width.
    """

    kind: str = "restormer"
    width: Annotated[int, at_least(2)] = 48
    blocks: tuple[Blocks, Blocks, Blocks, Blocks] = (4, 6, 6, 8)
    heads: tuple[Blocks, Blocks, Blocks, Blocks] = (1, 2, 4, 8)
    refinement: Blocks = 4
    expansion: Annotated[float, above(0)] = 2.66

    def __post_init__(self):
        fields.check(self, "network")
        for level, heads in enumerate(self.heads):
            if self.width * 2**level % heads or (level == 1 and self.width * 2 % self.heads[0]):
                raise ConfigError("network.heads", f"{heads} do not divide the {self.width * 2**level} channels")
        if self.width % 2:
            raise ConfigError("network.width", f"must be even, because resizing halves the channels, not {self.width}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the taps, finest first: the finest level keeps the doubled channels of its skip."""
        return 2 * self.width, 2 * self.width, 4 * self.width

    @property
    def multiple(self) -> int:
        """What the sides of an image are padded to."""
        return 8

    def hidden(self, channels: int) -> int:
        """The width of a feed-forward layer's gate."""
        return int(channels * self.expansion)

    def macs(self, crop: int, head: bool = True) -> float:
        """Multiplications of the forward pass of a square crop; with no `head` those up to the last tap."""
        at = [layers.pixels(crop, i) for i in range(4)]

        def block(c: int, heads: int) -> float:  # qkv, its depthwise, two products between channels, out; feed-forward
            hidden = self.hidden(c)
            return 4 * c * c + 27 * c + 2 * c * c / heads + 3 * c * hidden + 18 * hidden

        w = self.width
        total = at[0] * 27 * w
        total += sum(at[i] * self.blocks[i] * block(w * 2**i, self.heads[i]) for i in range(4))  # encoder, latent
        total += sum(at[i] * self.blocks[i] * block(w * 2**i, self.heads[i]) for i in (1, 2))
        total += at[0] * self.blocks[0] * block(2 * w, self.heads[0])
        total += sum(at[i] * 9 * c * c // 2 for i, c in enumerate((w, 2 * w, 4 * w)))  # halvings, at the finer size
        total += sum(at[i] * 18 * c * c for i, c in ((3, 8 * w), (2, 4 * w), (1, 2 * w)))  # doublings, at the coarser
        total += at[2] * 32 * w * w + at[1] * 8 * w * w  # skips
        if head:
            total += at[0] * (self.refinement * block(2 * w, self.heads[0]) + 54 * w)
        return total


class Block(nnx.Module):
    """Attention between channels (MDTA), then a gated feed-forward with a depthwise convolution (GDFN)."""

    def __init__(self, key: jax.Array, c: int, heads: int, hidden: int):
        keys = jax.random.split(key, 6)
        self.heads = heads
        self.norm1, self.norm2 = ChannelNorm(c, 1e-5), ChannelNorm(c, 1e-5)
        self.temperature_scale = nnx.Param(jnp.ones(heads))
        self.qkv, self.qkv_conv = Pointwise(keys[0], c, 3 * c, False), Depthwise(keys[1], 3 * c, False)
        self.out = Pointwise(keys[2], c, c, False)
        self.up, self.up_conv = Pointwise(keys[3], c, 2 * hidden, False), Depthwise(keys[4], 2 * hidden, False)
        self.down = Pointwise(keys[5], hidden, c, False)

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        y = x_BHWC + self.attention(self.norm1(x_BHWC))
        gate, value = jnp.split(self.up_conv(self.up(self.norm2(y))), 2, -1)
        return y + self.down(jax.nn.gelu(gate, approximate=False) * value)

    def attention(self, x_BHWC: jax.Array) -> jax.Array:
        B, H, W, C = x_BHWC.shape
        qkv = self.qkv_conv(self.qkv(x_BHWC)).reshape(B, H * W, 3, self.heads, C // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        q, k = _unit(q), _unit(k)
        # K heads, C and D channels of a head, P pixels.
        scores_BKCD = jnp.einsum("BPKC,BPKD->BKCD", q, k) * self.temperature_scale[...].reshape(1, -1, 1, 1)
        mixed = jnp.einsum("BKCD,BPKD->BPKC", jax.nn.softmax(scores_BKCD, -1), v)
        return self.out(mixed.reshape(B, H, W, C))


def _unit(x_BPKC: jax.Array) -> jax.Array:
    """Unit length over the pixels. The square is floored, not the root, so that zeros have a gradient."""
    return x_BPKC * jax.lax.rsqrt(jnp.maximum((x_BPKC * x_BPKC).sum(1, keepdims=True), 1e-24))


class Restormer(nnx.Module):
    """The network: image -> (restored image, taps)."""

    def __init__(self, cfg: RestormerConfig, key: jax.Array):
        self.cfg = cfg
        keys = iter(jax.random.split(key, 18))
        w = cfg.width

        def blocks(level: int, channels: int, count: int) -> nnx.Module:
            heads, hidden = cfg.heads[level], cfg.hidden(channels)
            return layers.stacked(lambda k: Block(k, channels, heads, hidden), next(keys), count)

        self.intro = Conv3(next(keys), 3, w, False)
        for i in range(3):
            c = w * 2**i
            setattr(self, f"encoder{i}", blocks(i, c, cfg.blocks[i]))
            setattr(self, f"down{i}", Conv3(next(keys), c, c // 2, False))
        self.latent = blocks(3, 8 * w, cfg.blocks[3])
        for i in (2, 1, 0):
            c = w * 2**i
            setattr(self, f"up{i}", Conv3(next(keys), 2 * c, 4 * c, False))
            if i:
                setattr(self, f"skip{i}", Pointwise(next(keys), 2 * c, c, False))
            setattr(self, f"decoder{i}", blocks(i, cfg.channels[i], cfg.blocks[i]))
        self.head_refinement = blocks(0, 2 * w, cfg.refinement)
        self.head = Conv3(next(keys), 2 * w, 3, False)

    def __call__(self, image_BHWC: jax.Array, head: bool = True) -> tuple[jax.Array | None, tuple[jax.Array, ...]]:
        cfg = self.cfg
        x = self.intro(image_BHWC)
        skips = []
        for i in range(3):
            x = layers.through(getattr(self, f"encoder{i}"), x, cfg.blocks[i])
            skips.append(x)
            x = to_depth(getattr(self, f"down{i}")(x))
        x = layers.through(self.latent, x, cfg.blocks[3])
        taps = []
        for i in (2, 1, 0):
            x = jnp.concatenate([to_space(getattr(self, f"up{i}")(x)), skips[i]], -1)
            x = getattr(self, f"skip{i}")(x) if i else x
            x = layers.through(getattr(self, f"decoder{i}"), x, cfg.blocks[i])
            taps.append(x)
        if not head:
            return None, tuple(reversed(taps))
        x = layers.through(self.head_refinement, x, cfg.refinement)
        return image_BHWC + self.head(x), tuple(reversed(taps))
