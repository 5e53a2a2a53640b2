"""Forward questions: predict rows beyond the rows fitted, in size, in tokens, in both, or of mixes never trained on.

A fold of `cptlaw.fitting.folds` leaves rows out and fits all others. A forward question fits only what came before its
origin: rows beyond both are used for nothing. Origins roll from small to large, so that one table asks several times.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cptlaw import runs

NEAR, FAR = 1.35, 4.7  # how many times beyond the origin a question asks: nearer says little, farther nothing checks
LEAST_ROWS, LEAST_LEVELS = 8, 2  # an origin has at least so many rows, and sizes (or token counts)
LEAST_ASKED = 2  # rows beyond it
SAME = 1.05  # sizes nearer than this are one level, of which only the last is an origin
LEAST_MIXES, MIX_PARTS = 6, 3  # new mixes: one part of three, of at least six


@dataclass(frozen=True)
class Question:
    """Rows to fit and rows to predict, two masks over the rows of the table that it was made from.

    Attributes:
      kind: "size", "tokens", "both" or "mix".
      what: the question in words.
      train, test: (rows,) bool.
      step: (rows,) how many times beyond the origin a row lies, the larger of size and tokens; 1 for a new mix.
    """

    kind: str
    what: str
    train: np.ndarray
    test: np.ndarray
    step: np.ndarray


def size(table: pd.DataFrame, most: int = 3) -> list[Question]:
    """Larger models than any fitted, at tokens that were fitted."""
    return _thinned([_beyond("size", table, {"params": cut}) for cut in _origins(table, "params")], most)


def tokens(table: pd.DataFrame, most: int = 3) -> list[Question]:
    """More tokens than any row fitted, at sizes that were fitted."""
    return _thinned([_beyond("tokens", table, {"tokens": cut}) for cut in _origins(table, "tokens")], most)


def both(table: pd.DataFrame, most: int = 3) -> list[Question]:
    """Larger models and more tokens at once; the origins of the two roll together."""
    cuts, later = _origins(table, "params"), _origins(table, "tokens")
    found = []
    for i, cut in enumerate(cuts):
        # The token origin stands in the middle, or as far along the tokens as the size origin along the sizes.
        along = round(i / max(len(cuts) - 1, 1) * (len(later) - 1))
        for j in sorted({along, len(later) // 2}) if later else ():
            found.append(_beyond("both", table, {"params": cut, "tokens": later[j]}))
    return _thinned(found, most)


def mix(table: pd.DataFrame, most: int = 2, seed: int = 0) -> list[Question]:
    """Mixes never trained on: a part of the mixes, drawn by `seed`, with all their rows."""
    names = [f"w_{c}" for c in runs.corpora(table)]
    if not names:
        return []
    which = table[names].round(6).groupby(names, sort=True).ngroup().to_numpy()
    count = which.max() + 1
    if count < LEAST_MIXES:
        return []
    order = np.random.default_rng(seed).permutation(count)
    found = []
    for part in range(min(most, MIX_PARTS)):
        out = np.isin(which, order[part::MIX_PARTS])
        what = f"{len(order[part::MIX_PARTS])} of {count} mixes (part {part + 1} of {MIX_PARTS}, seed {seed})"
        found.append(Question("mix", what, ~out, out, np.ones(len(table))))
    return [q for q in found if q.train.sum() >= LEAST_ROWS]


KINDS: dict[str, Callable[..., list[Question]]] = {f.__name__: f for f in (size, tokens, both, mix)}


def questions(table: pd.DataFrame, kinds: tuple[str, ...] = tuple(KINDS), most: int = 3) -> list[Question]:
    """Every kind of question that the rows of one evaluated corpus can be asked, at most `most` of each."""
    return [question for kind in kinds for question in KINDS[kind](table, most)]


def _origins(table: pd.DataFrame, name: str) -> list[float]:
    """Where an origin can stand: levels with enough rows and levels up to them and a row beyond within reach."""
    if name not in table:
        return []
    values = table[name].to_numpy(float)
    levels = np.unique(values)
    found = []
    for i, cut in enumerate(levels[:-1], start=1):
        beyond = (values >= NEAR * cut) & (values <= FAR * cut)
        last = levels[i] >= SAME * cut
        if last and i >= LEAST_LEVELS and (values <= cut).sum() >= LEAST_ROWS and beyond.any():
            found.append(float(cut))
    return found


def _beyond(kind: str, table: pd.DataFrame, cuts: Mapping[str, float]) -> Question:
    """The question from the origin `cuts`; on an axis that it does not cut, rows stay within what is fitted."""
    train, test, step = np.ones(len(table), bool), np.ones(len(table), bool), np.ones(len(table))
    for name, cut in cuts.items():
        values = table[name].to_numpy(float)
        train &= values <= cut
        test &= (values >= NEAR * cut) & (values <= FAR * cut)
        step = np.maximum(step, values / cut)
    for name in {"params", "tokens"} & set(table) - set(cuts):
        values = table[name].to_numpy(float)
        test &= values <= NEAR * values[train].max(initial=0)
    return Question(kind, "from " + " and ".join(f"{n} up to {cut:.3g}" for n, cut in cuts.items()), train, test, step)


def _thinned(found: list[Question], most: int) -> list[Question]:
    """Those with enough rows, at most `most`, evenly spaced, the last among them."""
    found = [q for q in found if q.train.sum() >= LEAST_ROWS and q.test.sum() >= LEAST_ASKED]
    if len(found) <= most:
        return found
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, most).round().astype(int))]
