"""Which rows to leave out, by name. A fold is (what it is in words, mask of held-out rows)."""

import itertools
from collections.abc import Callable

import numpy as np

from cptlaw import runs
from cptlaw.fitting.result import FitError
from cptlaw.fitting.rows import Rows

Fold = tuple[str, np.ndarray]
ENOUGH_SIZES, ENOUGH_TOKENS, ENOUGH_RUNS, SEGMENTS = 3, 4, 5, 3


def forward(rows: Rows) -> list[Fold]:
    """The default score: the largest size when three or more were fitted, else the last third of the tokens."""
    for name, enough, words in (
        ("params", ENOUGH_SIZES, "the largest size"),
        ("tokens", ENOUGH_TOKENS, "the last third of the tokens"),
    ):
        if name in rows.frame:
            column = rows.frame[name].to_numpy(float)
            levels = np.unique(column[rows.fitted])
            if len(levels) >= enough:
                bar = levels[-1] if name == "params" else levels[-(len(levels) // 3)]
                return [(f"{words} ({name} >= {bar:.4g})", rows.fitted & (column >= bar))]
    ids = np.unique(rows.run[rows.fitted])
    if len(ids) >= ENOUGH_RUNS:
        return [("every fifth run", rows.fitted & np.isin(rows.run, ids[::5]))]
    raise FitError("fewer than three sizes, four token counts or five runs: nothing can be held out")


def size(rows: Rows) -> list[Fold]:
    """One size left out (the paper's three folds)."""
    return _each(rows, _column(rows, "params"), "params = {:.4g}")


def ratio(rows: Rows) -> list[Fold]:
    """One mix left out."""
    mixes = _mixes(rows)
    return _each(rows, mixes, "mix {:g}")


def ratio_pairs(rows: Rows) -> list[Fold]:
    """Two mixes left out, every pair (the paper fits 7 of 9: 36 folds)."""
    mixes = _mixes(rows)
    pairs = itertools.combinations(np.unique(mixes), 2)
    return [(f"mixes {a:g} and {b:g}", rows.fitted & np.isin(mixes, (a, b))) for a, b in pairs]


def tokens(rows: Rows) -> list[Fold]:
    """One of three token segments left out (the paper's three folds)."""
    column = _column(rows, "tokens")
    edges = np.quantile(np.unique(column), np.linspace(0, 1, SEGMENTS + 1)[1:-1])
    return _each(rows, np.searchsorted(edges, column, side="left").astype(float), "token segment {:g}")


def run(rows: Rows) -> list[Fold]:
    """One run left out."""
    return [(f"run {rows.runs[i]}", rows.fitted & (rows.run == i)) for i in np.unique(rows.run[rows.fitted])]


def subset(rows: Rows) -> list[Fold]:
    """One training subset (a cell of mean and spread of perplexity) left out, all its seeds and tokens together."""
    if "subset" not in rows.frame:
        raise FitError("these folds need the column 'subset'")
    names = rows.frame["subset"].astype(str).to_numpy()
    return [(f"subset {name}", rows.fitted & (names == name)) for name in np.unique(names[rows.fitted])]


def domain(rows: Rows) -> list[Fold]:
    """One evaluated corpus left out, of a law fitted over several."""
    return [(f"corpus {c}", rows.fitted & (rows.frame["eval"] == c).to_numpy()) for c in rows.frame["eval"].unique()]


def domain_pairs(rows: Rows) -> list[Fold]:
    """Two evaluated corpora left out, every pair (the paper fits 4 of 6: 15 folds)."""
    pairs = itertools.combinations(rows.frame["eval"].unique(), 2)
    return [(f"corpora {a} and {b}", rows.fitted & rows.frame["eval"].isin((a, b)).to_numpy()) for a, b in pairs]


NAMES: dict[str, Callable[[Rows], list[Fold]]] = {
    f.__name__: f for f in (forward, size, ratio, ratio_pairs, tokens, run, subset, domain, domain_pairs)
}


def make(name: str, rows: Rows) -> list[Fold]:
    """The folds called `name`; each leaves something to fit.

    Raises:
      FitError: no such folds, or the table has too few levels for them.
    """
    if name not in NAMES:
        raise FitError(f"no folds {name!r}; there are {', '.join(NAMES)}")
    found = [(what, mask) for what, mask in NAMES[name](rows) if mask.any() and (rows.fitted & ~mask).any()]
    if not found:
        raise FitError(f"folds {name!r} need at least two different values in the table")
    return found


def _column(rows: Rows, name: str) -> np.ndarray:
    if name not in rows.frame:
        raise FitError(f"these folds need the column {name!r}")
    return rows.frame[name].to_numpy(float)


def _each(rows: Rows, column: np.ndarray, words: str) -> list[Fold]:
    return [(words.format(v), rows.fitted & (column == v)) for v in np.unique(column[rows.fitted])]


def _mixes(rows: Rows) -> np.ndarray:
    """One number a mix: the share of the first corpus by name where there are two corpora, else the mix's rank."""
    names = [f"w_{c}" for c in sorted(runs.corpora(rows.frame))]
    if not names:
        raise FitError("these folds need the shares w_<corpus>")
    if len(names) <= 2:
        return rows.frame[names[0]].to_numpy(float)
    return rows.frame.groupby(names, sort=True).ngroup().to_numpy(float)
