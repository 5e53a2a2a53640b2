"""The perplexity landscape of a corpus: how its chunks are spread, and which means and spreads a part of it can have.

Only whole chunks count, because perplexities of texts of different lengths do not compare. Units of a chunk's value x:
perplexity exp(nats / tokens), log-perplexity nats / tokens, bits-per-byte nats / ln 2 / bytes.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cptlaw import units
from cptlaw.errors import UserError

WINSOR = 0.995
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DIRECTIONS = 64
SAMPLE = 1 << 17  # units that stand for all of a larger pool where the exact boundary is not needed


class LandscapeError(UserError):
    """Scores without a whole chunk, or a unit that does not exist."""


def values(rows: pd.DataFrame, unit: str) -> np.ndarray:
    """x of every chunk, in `unit`: (rows,) float64."""
    if unit == "bits-per-byte":
        return rows["nats"].to_numpy() / (np.log(2) * np.maximum(rows["bytes"].to_numpy(), 1))
    if unit not in units.PERPLEXITY:
        raise LandscapeError(f"unit {unit!r}: one of {', '.join(units.PERPLEXITY)}")
    mean = rows["nats"].to_numpy() / rows["tokens"].to_numpy()
    return np.exp(mean) if unit == "perplexity" else mean


def whole(rows: pd.DataFrame, chunk: int) -> pd.DataFrame:
    """The rows of whole chunks.

    Raises:
      LandscapeError: there are none.
    """
    found = rows[rows["tokens"] == chunk]
    if found.empty:
        raise no_whole_chunk(chunk, rows["tokens"].max())
    return found


def no_whole_chunk(chunk: int, longest: int) -> LandscapeError:
    """The error for scores without a whole chunk, of which the longest has `longest` tokens."""
    return LandscapeError(
        f"no document holds a whole chunk of {chunk} tokens (the longest has {longest}); score with a shorter chunk"
    )


def winsorise(x: np.ndarray, quantile: float = WINSOR) -> tuple[np.ndarray, float, float]:
    """x with its upper tail set to its `quantile`: (values, that cap, share of x clipped).

    Without it a few chunks of noise would make most of the variance.
    """
    if not 0 < quantile <= 1:
        raise LandscapeError(f"winsorising quantile {quantile}: above 0 and at most 1 (1 clips nothing)")
    cap = float(np.quantile(x, quantile))
    return np.minimum(x, cap), cap, float(np.mean(x > cap))


def summary(x: np.ndarray, groups: np.ndarray | None = None) -> pd.DataFrame:
    """Chunks, share, mean, std and quantiles of x: one line for all, then one for each value of `groups`."""
    lines = {"all": x}
    if groups is not None:
        lines |= {str(name): x[groups == name] for name in pd.unique(np.sort(groups))}
    return pd.DataFrame(
        {
            "group": name,
            "chunks": part.size,
            "share": part.size / x.size,
            "mean": part.mean(),
            "std": part.std(),
            **{f"p{100 * q:g}": np.quantile(part, q) for q in QUANTILES},
        }
        for name, part in lines.items()
    )


def length_classes(tokens: np.ndarray) -> np.ndarray:
    """The class of each document's length, by powers of four: int array of its lower bound in tokens."""
    return (4 ** np.floor(np.log(np.maximum(tokens, 1)) / np.log(4) + 1e-9)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Region:
    """Which (mean, std) of x the subsets of a given share of a pool can have.

    In the plane of E[x] and E[x^2] the reachable set is convex: a subset that goes furthest in a direction takes the
    chunks furthest in it. So `corners` (K, 2), the moments of those extreme subsets, bound it, counter-clockwise.
    """

    corners: np.ndarray

    def holds(self, mean: ArrayLike, std: ArrayLike, slack: float = 0.0) -> np.ndarray:
        """Whether subsets with these moments exist; `slack` shrinks the region, as a share of its size."""
        centre = self.corners.mean(axis=0)
        corners = centre + (1 - slack) * (self.corners - centre)
        edges = np.roll(corners, -1, axis=0) - corners
        mean = np.asarray(mean, float)
        points = np.stack([mean, mean**2 + np.asarray(std, float) ** 2], -1)[..., None, :] - corners
        cross = edges[:, 0] * points[..., 1] - edges[:, 1] * points[..., 0]
        return (cross >= -1e-12 * np.abs(cross).max(initial=1e-300)).all(axis=-1)

    def grid(self, points: int = 61, slack: float = 0.02) -> np.ndarray:
        """(n, 2) reachable (mean, std) pairs, on a regular grid."""
        means = np.linspace(self.corners[:, 0].min(), self.corners[:, 0].max(), points)
        variance = self.corners[:, 1] - self.corners[:, 0] ** 2
        stds = np.sqrt(np.linspace(max(variance.min(), 0.0), variance.max(), points))
        pairs = np.stack(np.meshgrid(means, stds, indexing="ij"), -1).reshape(-1, 2)
        return pairs[self.holds(pairs[:, 0], pairs[:, 1], slack)]

    def nearest(self, mean: float, std: float) -> tuple[float, float]:
        """The reachable pair that is nearest, each coordinate measured by the region's own width."""
        pairs = self.grid(201)
        gap = (pairs - [mean, std]) / np.ptp(pairs, axis=0)
        best = pairs[np.argmin((gap**2).sum(axis=1))]
        return float(best[0]), float(best[1])


def reachable(count: np.ndarray, first: np.ndarray, second: np.ndarray, fraction: float) -> Region:
    """The region of subsets with `fraction` of the chunks.

    Args:
      count: (units,) chunks of each unit that is taken or left whole.
      first, second: (units,) mean of x and of x^2 over its chunks.
    """
    if not 0 < fraction < 1:
        raise UserError(f"fraction {fraction:g}: a share of the pool, above 0 and below 1")
    if count.size > SAMPLE:  # a systematic sample by the mean moves the boundary by far less than it is wide
        keep = np.argsort(first, kind="stable")[:: count.size // SAMPLE]
        count, first, second = count[keep], first[keep], second[keep]
    count, first, second = (np.asarray(a, np.float64) for a in (count, first, second))
    centre, width = first.mean(), max(first.std(), 1e-12)
    z, z2 = (first - centre) / width, (second - 2 * centre * first + centre**2) / width**2
    # The parabola's directions are steep: equal angles in a plane where both coordinates have one spread.
    steep = max(z2.std(), 1e-12)
    corners = []
    for angle in np.linspace(0, 2 * np.pi, DIRECTIONS, endpoint=False):
        order = np.argsort(-(np.cos(angle) * z + np.sin(angle) * z2 / steep), kind="stable")
        total = count[order].cumsum()
        last = int(np.searchsorted(total, fraction * total[-1]))
        weight = count[order[: last + 1]].copy()
        weight[-1] -= total[last] - fraction * total[-1]
        corners.append([np.average(values[order[: last + 1]], weights=weight) for values in (first, second)])
    return Region(np.array(corners))


def examples(
    rows: pd.DataFrame, x: np.ndarray, tokens_of: Callable[[int, int], np.ndarray], each: int = 5, among: int = 400
) -> pd.DataFrame:
    """Chunks at both ends: document, chunk, x, end ("low" or "high"), and `duplicate`, the largest share of 5-grams
    that the chunk has in common with one of the `among` chunks next to it in x.

    The low end is where near-duplicates and boilerplate lie, the high end is noise: `duplicate` tells the two kinds of
    predictable text apart.

    Args:
      rows: whole chunks; `x` their values.
      tokens_of: (document, chunk) -> its token ids.
    """
    order = np.argsort(x, kind="stable")
    lines = []
    for end, near in (("low", order[:among]), ("high", order[::-1][:among])):
        grams = [_grams(tokens_of(*place)) for place in _places(rows, near)]
        for i, (document, chunk) in enumerate(_places(rows, near[:each])):
            others = (len(grams[i] & grams[j]) for j in range(len(near)) if j != i)
            shared = max(others, default=0) / max(1, len(grams[i]))
            lines.append((end, document, chunk, float(x[near[i]]), shared))
    return pd.DataFrame(lines, columns=["end", "document", "chunk", "x", "duplicate"])


def _places(rows: pd.DataFrame, which: np.ndarray) -> Sequence[tuple[int, int]]:
    picked = rows.iloc[which]
    return list(zip(picked["document"].tolist(), picked["chunk"].tolist()))


def _grams(tokens: np.ndarray, n: int = 5) -> set[tuple[int, ...]]:
    ids = tokens.tolist()
    return {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
