"""The layers that the networks share. Letters of shapes: B images, H rows, W columns, C channels (I in, O out)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Make = Callable[[jax.Array], nnx.Module]


def uniform(key: jax.Array, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """Uniform between -1/sqrt(fan_in) and 1/sqrt(fan_in), as the networks' papers start from."""
    bound = fan_in**-0.5
    return nnx.Param(jax.random.uniform(key, shape, jnp.float32, -bound, bound))


class Pointwise(nnx.Module):
    """A 1x1 convolution, as a product of matrices; also a linear layer of (B, C)."""

    def __init__(self, key: jax.Array, inputs: int, outputs: int, bias: bool = True):
        keys = jax.random.split(key)
        self.dense = uniform(keys[0], (inputs, outputs), inputs)
        self.bias = uniform(keys[1], (outputs,), inputs) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.dense[...].astype(x.dtype)
        return y if self.bias is None else y + _last(self.bias, y)


class Conv3(nnx.Module):
    """A 3x3 convolution that keeps the size: zeros beyond the border."""

    def __init__(self, key: jax.Array, inputs: int, outputs: int, bias: bool = True):
        keys = jax.random.split(key)
        self.conv = uniform(keys[0], (3, 3, inputs, outputs), 9 * inputs)
        self.bias = uniform(keys[1], (outputs,), 9 * inputs) if bias else None

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x_BHWC, self.conv[...].astype(x_BHWC.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y if self.bias is None else y + _last(self.bias, y)


class Depthwise(nnx.Module):
    """A 3x3 convolution of every channel by itself, as nine shifted products: XLA on a CPU takes three times as long
    for the gradient of the grouped convolution."""

    def __init__(self, key: jax.Array, channels: int, bias: bool = True):
        keys = jax.random.split(key)
        self.depthwise = uniform(keys[0], (3, 3, channels), 9)
        self.bias = uniform(keys[1], (channels,), 9) if bias else None

    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        H, W = x_BHWC.shape[1:3]
        padded = jnp.pad(x_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
        weight = self.depthwise[...].astype(x_BHWC.dtype)
        shifted = [padded[:, i : i + H, j : j + W] * _last(weight[i, j], padded) for i in range(3) for j in range(3)]
        y = sum(shifted[1:], shifted[0])
        return y if self.bias is None else y + _last(self.bias, y)


class ChannelNorm(nnx.Module):
    """LayerNorm over the channels of a pixel, with scale and bias."""

    def __init__(self, channels: int, eps: float = 1e-6):
        self.scale, self.norm_bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.eps)
        return (y * _last(self.scale, y) + _last(self.norm_bias, y)).astype(x.dtype)


def _last(weight: Any, like: jax.Array) -> jax.Array:
    """A weight of the last dimension, with an axis of 1 for each of the others."""
    return weight[...].astype(like.dtype).reshape((1,) * (like.ndim - 1) + (-1,))


def scaled(x: jax.Array, weight: nnx.Param) -> jax.Array:
    """Every channel times its weight."""
    return x * _last(weight, x)


def to_depth(x_BHWC: jax.Array) -> jax.Array:
    """(B, H, W, C) -> (B, H/2, W/2, 4C): the four pixels of a 2x2 square, one after the other."""
    B, H, W, C = x_BHWC.shape
    return x_BHWC.reshape(B, H // 2, 2, W // 2, 2, C).transpose(0, 1, 3, 2, 4, 5).reshape(B, H // 2, W // 2, 4 * C)


def to_space(x_BHWC: jax.Array) -> jax.Array:
    """The inverse of `to_depth`."""
    B, H, W, C = x_BHWC.shape
    return x_BHWC.reshape(B, H, W, 2, 2, C // 4).transpose(0, 1, 3, 2, 4, 5).reshape(B, 2 * H, 2 * W, C // 4)


def stacked(make: Make, key: jax.Array, count: int) -> nnx.Module:
    """`count` equal blocks as one, whose parameters carry a leading axis."""
    return jax.vmap(make)(jax.random.split(key, count))


def through(blocks: nnx.Module, x: jax.Array, count: int) -> jax.Array:
    """`x` after each of the stacked blocks in turn. Scanned, so that 28 blocks compile as fast as one."""
    if count == 1:
        return jax.tree.map(lambda leaf: leaf[0], blocks)(x)
    return jax.lax.scan(lambda h, block: (block(h), None), x, blocks)[0]


def padded(x_BHWC: jax.Array, multiple: int) -> jax.Array:
    """Zeros below and to the right, until both sides are multiples."""
    H, W = x_BHWC.shape[1:3]
    return jnp.pad(x_BHWC, ((0, 0), (0, -H % multiple), (0, -W % multiple), (0, 0)))


def pixels(crop: int, level: int) -> float:
    """Pixels of a square crop after `level` halvings."""
    return crop * crop / math.pow(4, level)
