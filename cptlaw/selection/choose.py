"""Choosing part of a pool so that its chunks have a wanted mean and spread of a score, reproducibly by seed.

tilt        keep-probability proportional to exp(l1 x + l2 x^2), top-k with Gumbel noise: the pool's own shape, bent
swaps       a random subset, then random exchanges that lower J (see `aimed`) until it is about zero
dos_greedy  the paper's greedy: always add what lowers J most; tends to two shells of x with nothing between them
low, mid, high, band, random            the controls, which aim at no moments
"""

import json
import os
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cptlaw import atomic
from cptlaw.errors import did_you_mean
from cptlaw.selection import aimed
from cptlaw.selection.pool import Pool, Strata, SubsetError, uniform

METHODS = ("tilt", "swaps", "dos_greedy", "band", "low", "mid", "high", "random")
AIMED = METHODS[:3]
BINS = 20  # of x, in what is told of a subset


def select(
    pool: Pool,
    method: str = "tilt",
    *,
    fraction: float,
    target: tuple[float, float] | None = None,
    strata: np.ndarray | None = None,
    band: tuple[float, float] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Chooses about `fraction` of the pool's chunks: the sorted indices of the chosen units.

    Args:
      method: one of `METHODS`.
      target: (mean, std) of x, for tilt, swaps and dos_greedy.
      strata: (units,) labels (source, length class); each keeps its share of the pool.
      band: quantiles of x, for "band": a random choice between them.
      seed: the same seed, the same subset.

    Raises:
      SubsetError: a target out of reach (it shows the nearest point), or arguments that do not go together.
    """
    if method not in METHODS:
        near = did_you_mean(method, METHODS)
        raise SubsetError(f"method {method!r}: one of {', '.join(METHODS)}" + (f"; {near}" if near else ""))
    if not 0 < fraction < 1:
        raise SubsetError(f"fraction {fraction}: a share of the pool, above 0 and below 1")
    if (target is None) == (method in AIMED):
        raise SubsetError(f"{method}: give a target mean and std for {', '.join(AIMED)}, and for them alone")
    if (band is None) == (method == "band"):
        raise SubsetError(f"{method}: give quantiles for band, and for it alone")
    groups = Strata(pool.count, strata, fraction)
    if target is not None:
        return np.flatnonzero(aimed.choose(pool, method, groups, target, fraction, seed))
    ranks, noise = groups.ranks(pool.first), uniform(seed, len(pool.count))
    return np.flatnonzero(groups.top(keys(ranks, noise, window(method, fraction, band))))


def window(method: str, fraction: float, band: tuple[float, float] | None) -> tuple[float, float]:
    """The quantiles of x between which a control takes its units. Raises SubsetError for a band too narrow."""
    windows = {
        "random": (0.0, 1.0),
        "low": (0.0, fraction),
        "mid": ((1 - fraction) / 2, (1 + fraction) / 2),
        "high": (1 - fraction, 1.0),
    }
    low, high = windows[method] if band is None else band
    if not 0 <= low < high <= 1 or high - low < fraction - 1e-9:
        raise SubsetError(f"band {low:g} to {high:g}: quantiles at least {fraction:g} apart, the share that is taken")
    return low, high


def keys(ranks: np.ndarray, noise: np.ndarray, between: tuple[float, float]) -> np.ndarray:
    """Keys whose largest a control takes, of units by quantile of x and a random number in (0, 1).

    Units in the window have random keys above 0, those beyond it negative ones: they are taken only if the window has
    too few, the nearest first.
    """
    low, high = between
    beyond = np.abs(ranks - (low + high) / 2) - (high - low) / 2
    return np.where(beyond > 0, -beyond, noise)


class Chosen(NamedTuple):
    """A subset in numbers.

    Attributes:
      units, tokens: how many it has.
      pool, subset: (mean, std) of x over the chunks of each.
      edges: of bins of x, equally wide.
      counts: (2, bins) units of the pool and of the subset in them.
    """

    units: int
    tokens: int
    pool: tuple[float, float]
    subset: tuple[float, float]
    edges: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, pool: Pool, chosen: np.ndarray) -> "Chosen":
        """Of the units `chosen` of a pool."""
        spans = pool.spans.iloc[chosen]
        edges = np.linspace(pool.first.min(), pool.first.max(), BINS + 1)
        counts = np.array([np.histogram(x, edges)[0] for x in (pool.first, pool.first[chosen])])
        tokens = int((spans["end"] - spans["begin"]).sum())
        return cls(len(chosen), tokens, pool.moments(), pool.moments(chosen), edges, counts)


def write_list(path: str | os.PathLike[str], pool: Pool, chosen: np.ndarray, about: dict[str, Any]) -> None:
    """Writes the list of a subset (Parquet: document, begin, end, x), with `about` as the file's metadata; atomic."""
    table = pa.Table.from_pandas(pool.spans.iloc[chosen].assign(x=pool.first[chosen]), preserve_index=False)
    table = table.replace_schema_metadata({"cptlaw": json.dumps(about)})
    with atomic.replacing(path) as temporary:
        pq.write_table(table, temporary)
