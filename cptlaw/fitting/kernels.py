"""Covariances of how a law misses: smooth along size, tokens and mix and their products, shared by a run or a base.

Each term has its own scale (log loss, so .01 is 1%), which `condition` learns; the functions here give correlations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Term -> the axes along which it varies smoothly. Without products a law that misses in one corner is corrected in all.
SMOOTH: dict[str, tuple[str, ...]] = {
    "size": ("size",),
    "tokens": ("tokens",),
    "size x tokens": ("size", "tokens"),
    "mix": ("mix",),
    "mix x size": ("mix", "size"),
    "mix x tokens": ("mix", "tokens"),
}
GROUPED = ("base", "run", "drift")  # alike for rows of one base model, of one run, and along one run
# Of several domains in one table: what one of them has of its own, at any run of it, and along an axis.
DOMAINS: dict[str, tuple[str, ...]] = {
    "domain": (),
    "domain x size": ("size",),
    "domain x tokens": ("tokens",),
    "domain x mix": ("mix",),
}
NOISE = "checkpoint"
TERMS = (NOISE, *GROUPED, *SMOOTH, *DOMAINS)


@dataclass(frozen=True)
class Points:
    """Where losses are: axis -> (rows, dimensions), logarithms; ids of `run`, `base`, `domain` (rows,).

    The id -1 is a run, base or domain of its own.
    """

    axes: dict[str, np.ndarray]
    run: np.ndarray
    base: np.ndarray
    domain: np.ndarray

    def __len__(self) -> int:
        return len(self.run)


def points(
    x: Mapping[str, np.ndarray],
    run: np.ndarray,
    base: np.ndarray,
    offset: float,
    axes: tuple[str, ...] | None = None,
    domain: np.ndarray | None = None,
) -> Points:
    """Coordinates of law columns `x`, each (rows,): log N, log D, and log(share + offset) of every share.

    A law of one share ("ratio") has the mix of that share and the rest.

    Args:
      axes: the only ones to keep.
      domain: (rows,) ids; None: all rows are of one domain.
    """
    found = {name: np.log(x[c])[:, None] for name, c in (("size", "params"), ("tokens", "tokens")) if c in x}
    shares = [x[c] for c in sorted(x) if c.startswith("w_")]
    if not shares and "ratio" in x:
        shares = [x["ratio"], 1 - x["ratio"]]
    if shares:
        found["mix"] = np.log(np.stack(shares, axis=1) + offset)
    domain = np.zeros(len(run), int) if domain is None else domain
    return Points({k: v for k, v in found.items() if axes is None or k in axes}, run, base, domain)


def varying(at: Points) -> tuple[str, ...]:
    """Axes along which the points differ."""
    return tuple(name for name, value in at.axes.items() if (np.ptp(value, axis=0) > 1e-9).any())


def correlation(term: str, a: Points, b: Points, lengths: Mapping[str, float]) -> np.ndarray:
    """Correlation (A, B) of a term between two sets of points. `NOISE` has none: no two rows share its noise."""
    if term == "base":
        return _same(a.base, b.base)
    if term in ("run", "drift"):
        same = _same(a.run, b.run)
        if term == "run" or "tokens" not in a.axes:
            return same
        return same * matern32(distance(a.axes["tokens"], b.axes["tokens"]) / lengths["drift"])
    out = np.ones((len(a), len(b))) if term in SMOOTH else _same(a.domain, b.domain)
    for axis in axes_of(term):
        out *= matern52(distance(a.axes[axis], b.axes[axis]) / lengths[axis])
    return out


def axes_of(term: str) -> tuple[str, ...]:
    """The axes along which a term of `SMOOTH` or `DOMAINS` varies smoothly."""
    return SMOOTH[term] if term in SMOOTH else DOMAINS[term]


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean (A, B) of rows (A, k) and (B, k)."""
    if a.shape[1] == 1:
        return np.abs(a - b.T)
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(square, 0))


def matern52(distance: np.ndarray) -> np.ndarray:
    """Matern correlation, nu = 5/2, at distances in units of its length."""
    scaled = np.sqrt(5) * distance
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)


def matern32(distance: np.ndarray) -> np.ndarray:
    """Matern correlation, nu = 3/2: rougher."""
    scaled = np.sqrt(3) * distance
    return (1 + scaled) * np.exp(-scaled)


def _same(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a[:, None] == b[None]) & (a[:, None] >= 0)).astype(float)
