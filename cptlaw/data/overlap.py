"""Overlap of validation with training, as a number: what part of a validation split is in the training text.

A loss that falls because the text was trained on is no fault of a law, and no law predicts it. The number is the
containment (Broder 1997) of the validation documents' shingles, runs of 8 tokens, in those of a training split. Of
large corpora the shingles whose hash falls into a fixed part of all hashes stand for the rest (Broder's modulo sketch;
FracMinHash of Irber et al. 2022), so that all text is read and little is held. Splits are compared across corpora too,
where one vocabulary made them.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from cptlaw.data.near_duplicates import WIDTH, shingles
from cptlaw.data.store import TokenStore

KEPT = 4_000_000  # shingles of a training split, about; more are thinned by powers of two
PIECE = 4_000_000  # tokens that are hashed at once
MOSTLY = 0.5  # part of a document's shingles from which it counts as held by the training text
LEAST = 8  # shingles kept of a document, below which that is not told of it


class Overlap(NamedTuple):
    """What part of a validation split a training split holds.

    Attributes:
      share: of the shingles, counted as often as they occur, so longer documents count more.
      se: its standard error over documents.
      documents: part of the documents (of those with `LEAST` kept shingles) of which half or more is held; NaN of none.
      shingles: of the validation split, how many were looked for.
    """

    share: float
    se: float
    documents: float
    shingles: int


def powers(tokens: int) -> int:
    """By how many powers of two the shingles of so many tokens are thinned."""
    return max(0, math.ceil(math.log2(max(tokens, 1) / KEPT)))


def sketch(store: TokenStore, thinned: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (n,) of the shingles kept, and the document (n,) of each.

    Args:
      thinned: one in 2^thinned is kept, the same ones of every store.
    """
    cuts = np.searchsorted(store.offsets, np.arange(PIECE, len(store.tokens), PIECE))
    ends = np.unique([0, *cuts.tolist(), len(store.doc_bytes)])
    hashes, documents = [], []
    for first, last in itertools.pairwise(ends):
        found = shingles(store.tokens, store.offsets, np.arange(first, last))
        # The high bits, since a product's low bits depend on low bits alone.
        kept = found.hashes >> np.uint64(64 - thinned) == 0 if thinned else np.ones(len(found.hashes), bool)
        hashes.append(found.hashes[kept])
        documents.append(found.document[kept] + first)
    if not hashes:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    return np.concatenate(hashes), np.concatenate(documents)


def compare(validation: tuple[np.ndarray, np.ndarray], train: np.ndarray) -> Overlap:
    """The overlap of a validation split's sketch with the sorted, distinct hashes of a training split."""
    hashes, documents = validation
    if not len(hashes):
        return Overlap(math.nan, math.nan, math.nan, 0)
    place = np.minimum(np.searchsorted(train, hashes), max(len(train) - 1, 0))
    held = train[place] == hashes if len(train) else np.zeros(len(hashes), bool)
    _, which = np.unique(documents, return_inverse=True)
    count = np.bincount(which).astype(float)
    inside = np.bincount(which, weights=held)
    share, n = float(held.mean()), len(count)
    se = math.sqrt(((inside - share * count) ** 2).sum() * n / max(n - 1, 1)) / count.sum()
    enough = count >= LEAST
    mostly = float((inside[enough] >= MOSTLY * count[enough]).mean()) if enough.any() else math.nan
    return Overlap(share, se, mostly, len(hashes))


def of_stores(train: dict[str, TokenStore], validation: dict[str, TokenStore]) -> dict[tuple[str, str], Overlap]:
    """(validation corpus, training corpus) -> overlap, of every pair of one vocabulary."""
    thinned = powers(max((len(store.tokens) for store in train.values()), default=0))
    sketches = {name: sketch(store, thinned) for name, store in validation.items()}
    found = {}
    for name, store in train.items():
        known = np.unique(sketch(store, thinned)[0])
        for other, own in sketches.items():
            if store.ledger["vocabulary"] == validation[other].ledger["vocabulary"]:
                found[other, name] = compare(own, known)
    return found


def in_words(found: dict[tuple[str, str], Overlap]) -> list[str]:
    """A line for each validation corpus: what its own training split holds of it, and the other that holds most."""
    lines = []
    for corpus in dict.fromkeys(name for name, _ in found):
        own = found.get((corpus, corpus))
        others = {train: one for (name, train), one in found.items() if name == corpus and train != corpus}
        parts = []
        if own is not None and own.shingles:
            part = f"{own.share:.1%} (standard error {own.se:.1%}) of its runs of {WIDTH} tokens are in its train"
            if own.documents == own.documents:
                part += f", half or more of {own.documents:.1%} of its documents"
            parts.append(part)
        if others:
            most = max(others, key=lambda name: others[name].share)
            parts.append(f"{others[most].share:.1%} in {most}'s, of the others the most")
        if parts:
            lines.append(f"{corpus}: {'; '.join(parts)}")
    return lines
