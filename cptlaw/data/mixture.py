"""Which sequence comes when: a mixture by token share as a pure integer function.

All sequences have the same length, so a share of sequences is a share of tokens. Sequence i of the stream is sequence
k of corpus c, and (c, k) depends on (weights, seed, i) alone: not on the batch size, the number of hosts or where a
run was resumed.

Two corpora with share w: the first has had n(i) = floor(i w + phase) of the first i sequences, so in ANY window of L
sequences it has less than one more or fewer than L w (w in 32-bit fixed point). More corpora nest: the sequences that
are not the first corpus's are divided in the same way among the rest.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping

import numpy as np

from cptlaw.errors import UserError

_ONE = 1 << 32


class MixtureError(UserError):
    """Weights that are not shares, or that name a corpus there is no store of."""


def check_weights(weights: Mapping[str, float], known: Iterable[str] | None = None) -> None:
    """Raises MixtureError unless `weights` are non-negative, sum to 1, and (where given) name `known` corpora only."""
    if not weights:
        raise MixtureError(
            "mixture: no corpus has a weight; give token shares that sum to 1, such as code=0.25 general=0.75"
        )
    known = None if known is None else sorted(known)
    for name, weight in weights.items():
        if known is not None and name not in known:
            raise MixtureError(f"mixture: no corpus named {name!r}; there are {', '.join(known) or 'none'}")
        if not (math.isfinite(weight) and weight >= 0):
            raise MixtureError(f"mixture: the weight of {name!r} is {weight}; a token share lies between 0 and 1")
    total = math.fsum(weights.values())
    if abs(total - 1) > 1e-6:
        given = ", ".join(f"{name}={weight:g}" for name, weight in weights.items())
        raise MixtureError(f"mixture: the weights ({given}) sum to {total:.6g}; token shares must sum to 1")


class Mixture:
    """The order of sequences of a mixture. `names` (sorted) gives the meaning of a corpus index."""

    def __init__(self, weights: Mapping[str, float], seed: int = 0):
        check_weights(weights)
        self.names = tuple(sorted(weights))
        shares = [float(weights[name]) for name in self.names]
        self._fixed, self._phases = [], []
        for level, (name, share) in enumerate(zip(self.names, shares)):
            rest = math.fsum(shares[level:])
            # The last corpus with any weight gets exactly what is left, the ones after it exactly nothing.
            self._fixed.append(np.uint64(round(_ONE * share / rest) if rest > 0 else 0))
            self._phases.append(np.uint64(key(seed, "phase", name) % _ONE))

    def locate(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places sequences of the stream.

        Args:
          index: (n,) integers in [0, 2^32 - 1), sequences of the stream.

        Returns:
          corpus: (n,) int64, an index into `names`.
          k: (n,) int64, how many sequences of that corpus came before.
        """
        if index.size and not 0 <= index.min() <= index.max() < _ONE - 1:
            raise ValueError(f"sequences {index.min()} to {index.max()}: the stream has 2^32 - 1, counted from 0")
        rest = index.astype(np.uint64)
        corpus = np.zeros(rest.shape, np.int64)
        k = np.zeros(rest.shape, np.int64)
        open_ = np.ones(rest.shape, bool)
        shift = np.uint64(32)
        for level, (fixed, phase) in enumerate(zip(self._fixed, self._phases)):
            before = (rest * fixed + phase) >> shift
            taken = open_ & (((rest + np.uint64(1)) * fixed + phase) >> shift > before)
            corpus[taken] = level
            k[taken] = before[taken]
            open_ &= ~taken
            rest = rest - before
        return corpus, k

    def counts(self, sequences: int) -> dict[str, int]:
        """How many of the first `sequences` sequences each corpus has."""
        rest, counts = sequences, {}
        for name, fixed, phase in zip(self.names, self._fixed, self._phases):
            counts[name] = (rest * int(fixed) + int(phase)) >> 32
            rest -= counts[name]
        return counts


def key(*parts: object) -> int:
    """A 64-bit key of `parts`, the same on every machine and version."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def permute(index: np.ndarray, n: int, keys: np.ndarray) -> np.ndarray:
    """A pseudo-random permutation of [0, n) at `index`, without storing it.

    A six-round Feistel network over the next even power of two, walked until it lands inside (Black and Rogaway 2002).
    A table would take memory in proportion to the corpus, and NumPy's shuffles may change between versions.

    Args:
      index: (m,) integers in [0, n).
      n: size of the domain, at most 2^62.
      keys: (m,) uint64; each key is a permutation of its own.

    Returns:
      (m,) int64.
    """
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    value = np.asarray(index).astype(np.uint64)
    todo = np.arange(value.size)
    while todo.size:
        left, right = value[todo] >> half, value[todo] & low
        for round_ in range(6):
            left, right = (
                right,
                left ^ (_mix(right + keys[todo] + np.uint64(round_ * 0x9E3779B97F4A7C15 % 2**64)) & low),
            )
        value[todo] = left << half | right
        todo = todo[value[todo] >= n]
    return value.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
