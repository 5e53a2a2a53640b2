"""Attention kernels on packed documents: how far each is from float32, and how long it takes.

    python -m benchmarks.attention              every kernel that this accelerator has
    python -m benchmarks.attention --tiny       a dry run for a CPU: flash kernels are interpreted, times mean nothing

Inputs and gradients are bfloat16; what they are held to is `attention.attention` in float32 on the same numbers. An
error is the largest difference over the largest value, of the output and of each gradient. A kernel's must be at most
twice that of `xla` in bfloat16, else the last column says so and the process ends with 1. Times are medians of forward
and backward together, all kernels taking turns.
"""

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw.errors import UserError
from cptlaw.models import attention
from cptlaw.models.config import Config


@dataclasses.dataclass(frozen=True)
class Shape:
    """B rows of T positions, K heads of keys with G of queries each, of C channels; `documents` in a row."""

    B: int
    T: int
    K: int
    G: int
    C: int
    documents: int
    window: int = 0

    def config(self, kernel: str, dtype: str = "bfloat16") -> Config:
        heads = self.K * self.G
        return Config(
            vocab_size=8,
            d_model=heads * self.C,
            layers=1,
            heads=heads,
            kv_heads=self.K,
            d_ff=8,
            dtype=dtype,
            attention=kernel,
            sliding_window=self.window,
        )


SHAPES = (
    Shape(64, 2048, 8, 1, 64, 8),  # 70M
    Shape(32, 2048, 3, 3, 64, 8),  # SmolLM2 135M
    Shape(8, 2048, 8, 4, 64, 8),  # Llama 3.2 1B
    Shape(4, 2048, 8, 4, 128, 8),  # Llama 3.1 8B
    Shape(2, 8192, 8, 4, 128, 8),
    Shape(2, 8192, 8, 4, 128, 8, window=1024),
    Shape(4, 2048, 4, 2, 256, 8),  # Gemma
)
TINY = (Shape(2, 256, 2, 2, 16, 3), Shape(2, 256, 2, 2, 16, 3, window=64))
KERNELS = ("xla", "cudnn", "triton", "splash")


def inputs(shape: Shape) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """(q, k, v), what the output is multiplied by for a loss, segments."""
    rng = np.random.default_rng(0)
    B, T, K, G, C = shape.B, shape.T, shape.K, shape.G, shape.C
    made = [rng.standard_normal(s, np.float32) for s in ((B, K, G, T, C), (B, K, T, C), (B, K, T, C), (B, K, G, T, C))]
    ends = np.sort(rng.integers(1, T, (B, shape.documents - 1)), axis=1)
    segments = 1 + (np.arange(T)[None, :, None] >= ends[:, None]).sum(-1)
    q, k, v, out = (jnp.asarray(x, jnp.bfloat16) for x in made)
    return [q, k, v], out, jnp.asarray(segments, jnp.int32)


def attend(shape: Shape, kernel: str, dtype: str, interpret: bool) -> Callable[..., jax.Array]:
    """(q, k, v, segments) -> o."""
    if interpret and kernel == "triton":
        return lambda q, k, v, segments: attention.triton(q, k, v, segments, interpret=True)
    if interpret and kernel == "splash":
        return lambda q, k, v, segments: attention.splash(q, k, v, segments, shape.window, interpret=True)
    cfg = shape.config(kernel, dtype)
    return lambda q, k, v, segments: attention.prepare(cfg, segments, cfg.sliding_window)(q, k, v)


def possible(shape: Shape, kernel: str, interpret: bool) -> str:
    """Why a kernel cannot take this shape here; empty where it can."""
    if interpret and kernel == "splash":
        return ""
    platform = "cuda" if interpret and kernel == "triton" else attention._platform()
    try:
        attention.choose(shape.config(kernel), shape.T, platform)
    except UserError as error:
        return str(error).partition(": ")[2].partition(";")[0]
    return ""


def measure(shape: Shape, steps: int, interpret: bool) -> bool:
    """Prints a row for each kernel; whether all are near enough."""
    qkv, out, segments = inputs(shape)

    def both(kernel: str, dtype: str) -> Callable[..., tuple[jax.Array, ...]]:
        forward = attend(shape, kernel, dtype, interpret)

        def run(q, k, v, out, segments):
            o, pull = jax.vjp(lambda *qkv: forward(*qkv, segments), q, k, v)
            return o, *pull(out)

        return jax.jit(run)

    with jax.default_matmul_precision("highest"):  # GPUs and TPUs would round float32 products
        exact = both("xla", "float32")(*(x.astype(jnp.float32) for x in (*qkv, out)), segments)
    print(f"\n{dataclasses.asdict(shape)}")
    ways = {}
    for kernel in KERNELS:
        why = possible(shape, kernel, interpret)
        if why:
            print(f"  {kernel:7} {why}")
        else:
            ways[kernel] = both(kernel, "bfloat16")
    errors = {}
    for kernel, way in ways.items():
        found = way(*qkv, out, segments)
        errors[kernel] = [
            float(jnp.abs(a.astype(jnp.float32) - b).max() / jnp.abs(b).max()) for a, b in zip(found, exact)
        ]
    times: dict[str, list[float]] = {kernel: [] for kernel in ways}
    for _ in range(steps):
        for kernel, way in ways.items():
            begin = time.perf_counter()
            jax.block_until_ready(way(*qkv, out, segments))
            times[kernel].append(time.perf_counter() - begin)
    near = True
    for kernel in ways:
        good = all(ours <= 2 * plain + 1e-3 for ours, plain in zip(errors[kernel], errors["xla"]))
        near &= good
        said = "  ".join(f"{name} {error:.1e}" for name, error in zip(("o", "dq", "dk", "dv"), errors[kernel]))
        milliseconds = 1e3 * statistics.median(times[kernel])
        print(f"  {kernel:7} {milliseconds:9.2f} ms   {said}{'' if good else '   TOO FAR'}", flush=True)
    return near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    shapes = TINY if args.tiny else SHAPES
    near = [measure(shape, args.steps, args.tiny) for shape in shapes]
    sys.exit(0 if all(near) else 1)


if __name__ == "__main__":
    main()
