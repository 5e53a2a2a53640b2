"""What the steps of runs that train together are fed, a block of steps at a time.

Batches whose rows are windows of token streams are made where they are used: the streams lie on the device, and the
host gives no more than where each window begins. A host that made the batches of 64 small runs itself would take longer
than an accelerator takes to train on them. Other batches, and streams too long for the device, are fed whole.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Batch = dict[str, jax.Array]

BLOCK = 64  # steps whose windows are found at once: NumPy takes about as long for 64 as for one
_CPU_BYTES = 2**30  # of streams in the memory of a CPU
_PART = 8  # streams take this part of an accelerator's memory at most


class Stream(Protocol):
    """Documents one after another: `offsets` (documents + 1,) says where each begins in `tokens` (n,)."""

    tokens: np.ndarray
    offsets: np.ndarray


@runtime_checkable
class Windowed(Protocol):
    """Batches whose rows are windows of seq_len + 1 tokens of streams."""

    batch_size: int
    seq_len: int

    @property
    def streams(self) -> tuple[Stream, ...]: ...

    def windows_of(self, step: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """(index of the stream, first token), each (steps, B), of the batches from `step` on."""


@dataclasses.dataclass(frozen=True)
class Made:
    """Batches that the host has made."""

    def batch(self, resident: tuple[jax.Array, ...], part: Batch) -> Batch:
        return part


@dataclasses.dataclass(frozen=True)
class Cut:
    """Batches of `seq_len` that are cut from streams on the device, in which bit `flag` says where documents start."""

    seq_len: int
    flag: int

    def batch(self, resident: tuple[jax.Array, ...], part: jax.Array) -> Batch:
        """The arrays of `data.batches`, from where the rows begin (B,); traced."""
        (marked,) = resident
        windows_BW = marked[part[:, None] + jnp.arange(self.seq_len + 1)[None]]
        starts_BW = (windows_BW >> self.flag).astype(jnp.int32).at[:, 0].set(0)
        tokens_BW = (windows_BW & ((1 << self.flag) - 1)).astype(jnp.int32)
        column_BT = jax.lax.broadcasted_iota(jnp.int32, (len(part), self.seq_len), 1)
        starts_BT = starts_BW[:, :-1]
        return {
            "tokens_BT": tokens_BW[:, :-1],
            "targets_BT": tokens_BW[:, 1:],
            "segments_BT": starts_BT.cumsum(axis=1) + 1,
            "positions_BT": column_BT - jax.lax.cummax(starts_BT * column_BT, axis=1),
            "mask_BT": (1 - starts_BW[:, 1:]).astype(jnp.float32),
        }


class Feed(Protocol):
    """What feeds R runs.

    Attributes:
      recipe: makes the batch of one run and step in the program; equal recipes share a compiled program.
      block: steps that are fed at once.
      resident: what lies on every device all the time.
    """

    recipe: Made | Cut
    block: int
    resident: tuple[jax.Array, ...]

    def of(self, step: int) -> Any:
        """What the recipe needs for the `block` steps from `step` on: arrays (block, R, ...)."""


class Whole:
    """Feeds batches that the host makes, a step at a time."""

    recipe: Made | Cut = Made()
    block: int = 1
    resident: tuple[jax.Array, ...] = ()

    def __init__(self, batches: Sequence[Any]):
        self._batches = batches

    def of(self, step: int) -> dict[str, np.ndarray]:
        made = [batches.batch(step, slice(None)) for batches in self._batches]
        return {name: np.stack([batch[name] for batch in made])[None] for name in made[0]}


class Windows:
    """Feeds the places of windows in streams that lie on the devices."""

    block: int = BLOCK

    def __init__(self, batches: Sequence[Windowed], mesh: jax.sharding.Mesh, vocab_size: int):
        self._batches = batches
        streams = _streams(batches)
        flag = 15 if vocab_size <= 1 << 15 else 31
        self.recipe: Made | Cut = Cut(batches[0].seq_len, flag)
        self.resident: tuple[jax.Array, ...] = (_placed(streams, flag, mesh),)
        self._first = dict(zip(map(id, streams), np.cumsum([0, *(len(stream.tokens) for stream in streams)])))

    def of(self, step: int) -> np.ndarray:
        begins = []
        for batches in self._batches:
            stream, begin = batches.windows_of(step, self.block)
            begins.append(begin + np.array([self._first[id(s)] for s in batches.streams])[stream])
        return np.stack(begins, axis=1).astype(np.int32)


def feed(batches: Sequence[Any], mesh: jax.sharding.Mesh, vocab_size: int) -> Feed:
    """What feeds runs with these batches on the devices of `mesh`."""
    if not all(isinstance(one, Windowed) for one in batches):
        return Whole(batches)
    tokens = sum(len(stream.tokens) for stream in _streams(batches))
    size = tokens * (2 if vocab_size <= 1 << 15 else 4)
    memory = (mesh.devices.flat[0].memory_stats() or {}).get("bytes_limit")
    fits = size <= (_CPU_BYTES if memory is None else memory // _PART) and tokens < 2**31  # which int32 counts to
    return Windows(batches, mesh, vocab_size) if fits else Whole(batches)


def _streams(batches: Sequence[Windowed]) -> tuple[Stream, ...]:
    """All streams that the runs read, each once."""
    return tuple({id(stream): stream for one in batches for stream in one.streams}.values())


@functools.lru_cache(maxsize=1)  # one process trains many groups on the same corpora
def _placed(streams: tuple[Stream, ...], flag: int, mesh: jax.sharding.Mesh) -> jax.Array:
    """All streams one after another, on every device; the highest bit says that a document starts."""
    dtype = np.uint16 if flag == 15 else np.uint32
    marked = np.concatenate([stream.tokens.astype(dtype) for stream in streams])
    first = 0
    for stream in streams:
        marked[first + stream.offsets[:-1]] |= dtype(1 << flag)
        first += len(stream.tokens)
    return jax.device_put(marked, jax.NamedSharding(mesh, jax.P()))
