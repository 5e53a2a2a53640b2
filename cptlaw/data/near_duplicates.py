"""Near-duplicates across the split, on a sample: validation documents that the training documents nearly hold.

Exact duplicates are removed when a corpus is split. What differs by a header or a date is not, and lowers the held-out
loss by memory alone. Two documents are near-duplicates when their sets of shingles (runs of 8 tokens) have a Jaccard
index of at least 0.7 (Broder 1997). Token shingles need no second pass over the text.
"""

from typing import NamedTuple

import numpy as np

WIDTH = 8
SIMILARITY = 0.7
# Shorter documents (titles, single lines) are alike for other reasons.
_LEAST_TOKENS = 24
# A sample of so many tokens takes about a second.
VALIDATION_TOKENS, TRAIN_TOKENS = 1_000_000, 8_000_000
# A shingle that more documents share is boilerplate, and says nothing of a pair.
_COMMON = 20
_TABLE = (1 << 24) - 1


class Found(NamedTuple):
    """What was compared, and found.

    Attributes:
      validation_documents, train_documents: how many were compared.
      found: validation documents with a near-duplicate among those.
      example: a pair of document numbers, (train, validation); None where there is none.
    """

    validation_documents: int
    train_documents: int
    found: int
    example: tuple[int, int] | None


def find(
    train_tokens: np.ndarray, train_offsets: np.ndarray, validation_tokens: np.ndarray, validation_offsets: np.ndarray
) -> Found:
    """Compares the first validation documents (which come in random order) with training documents taken evenly.

    Args:
      train_tokens, validation_tokens: (n,) of all documents, one after the other.
      train_offsets, validation_offsets: (documents + 1,) where each begins.
    """
    ours = _sample(validation_offsets, VALIDATION_TOKENS, evenly=False)
    theirs = _sample(train_offsets, TRAIN_TOKENS, evenly=True)
    validation = shingles(validation_tokens, validation_offsets, ours)
    train = shingles(train_tokens, train_offsets, theirs)

    # Unique (document, shingle) pairs of the validation side, by shingle, without those that many documents share.
    pairs = np.unique(np.stack([validation.hashes, validation.document.astype(np.uint64)]), axis=1)
    _, place, times = np.unique(pairs[0], return_inverse=True, return_counts=True)
    hashes, documents = pairs[:, times[place] <= _COMMON]
    table = np.zeros(_TABLE + 1, bool)
    table[(hashes & np.uint64(_TABLE)).astype(np.int64)] = True
    known = table[(train.hashes & np.uint64(_TABLE)).astype(np.int64)]
    seen = np.unique(np.stack([train.hashes[known], train.document[known].astype(np.uint64)]), axis=1)

    first, last = np.searchsorted(hashes, seen[0], "left"), np.searchsorted(hashes, seen[0], "right")
    count = last - first
    at = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count) + np.repeat(first, count)
    both = np.repeat(seen[1], count) * np.uint64(len(ours) + 1) + documents[at]
    keys, shared = np.unique(both, return_counts=True)
    alike: dict[int, int] = {}
    for key, together in zip(keys.tolist(), shared.tolist()):
        a, b = divmod(key, len(ours) + 1)
        enough = SIMILARITY * max(validation.counts[b], 1) * 0.5
        if b not in alike and together >= enough and _jaccard(train.of(a), validation.of(b)) >= SIMILARITY:
            alike[b] = a
    example = None
    if alike:
        b = min(alike)
        example = (int(theirs[alike[b]]), int(ours[b]))
    return Found(len(ours), len(theirs), len(alike), example)


class Shingles(NamedTuple):
    """hashes (n,) uint64 and the sampled document (n,) of each; counts and starts (documents,) of each document's."""

    hashes: np.ndarray
    document: np.ndarray
    counts: np.ndarray
    starts: np.ndarray

    def of(self, document: int) -> np.ndarray:
        begin = self.starts[document]
        return np.unique(self.hashes[begin : begin + self.counts[document]])


def _sample(offsets: np.ndarray, tokens: int, evenly: bool) -> np.ndarray:
    """Numbers of documents that have about so many tokens together."""
    chosen = np.flatnonzero(np.diff(offsets) >= _LEAST_TOKENS)
    if evenly:
        chosen = chosen[:: max(1, int(-(-offsets[-1] // tokens)))]
    return chosen[: max(1, int(np.searchsorted(np.diff(offsets)[chosen].cumsum(), tokens, "right")))]


def shingles(tokens: np.ndarray, offsets: np.ndarray, chosen: np.ndarray) -> Shingles:
    """The hashed runs of `WIDTH` tokens of the documents numbered `chosen` (documents,), none across two documents."""
    lengths = np.diff(offsets)[chosen]
    flat = np.concatenate([np.empty(0, np.uint64), *(tokens[offsets[d] : offsets[d + 1]] for d in chosen)])
    flat = flat.astype(np.uint64)
    hashes = np.zeros(max(0, flat.size - WIDTH + 1), np.uint64)
    for offset in range(WIDTH):
        hashes = hashes * np.uint64(0x100000001B3) + flat[offset : offset + hashes.size]
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
    document = np.repeat(np.arange(len(chosen)), lengths)
    inside = document[: hashes.size] == document[WIDTH - 1 :][: hashes.size]
    counts = np.maximum(lengths - WIDTH + 1, 0)
    return Shingles(hashes[inside], document[: hashes.size][inside], counts, counts.cumsum() - counts)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.intersect1d(a, b, assume_unique=True).size
    return shared / (a.size + b.size - shared)
