"""What can be chosen: a scored corpus as units, chunks or whole documents, that are taken or left whole.

Letters of array names: u unit, s stratum, k feature. A unit's x is the mean over its whole chunks.
"""

import dataclasses

import numpy as np
import pandas as pd

from cptlaw.errors import UserError
from cptlaw.selection import landscape

BY = ("document", "chunk")


class SubsetError(UserError):
    """A target out of reach, or a method that lacks what it needs."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """The units of a scored corpus: arrays of shape (units,).

    Attributes:
      spans: DataFrame of document, and of the tokens [begin, end) of it that the unit holds.
      count: whole chunks of each unit, by which it is weighed.
      first, second: mean of x and of x^2 over the unit's chunks.
      unit: what x is measured in.
      cap: the value at which x was clipped.
      clipped: share of the chunks that were clipped there.
      unused: share of the tokens that are in no unit.
    """

    spans: pd.DataFrame
    count: np.ndarray
    first: np.ndarray
    second: np.ndarray
    unit: str
    cap: float
    clipped: float
    unused: float

    @classmethod
    def of(
        cls,
        rows: pd.DataFrame,
        chunk: int,
        *,
        by: str = "document",
        unit: str = "log-perplexity",
        winsor: float = landscape.WINSOR,
        x: np.ndarray | None = None,
        cap: float | None = None,
    ) -> "Pool":
        """The pool of a scored corpus. Documents without a whole chunk are no part of it.

        Args:
          rows: as of `scores.read`.
          chunk: tokens of a whole chunk.
          by: one of `BY`: what is taken or left whole. A chunk comes with the token before its targets.
          unit: one of `units.PERPLEXITY`, or what `x` is measured in.
          winsor: quantile at which x is clipped.
          cap: the value at which it is clipped instead, where the rows are part of a corpus.
          x: (rows,) another score of every row (see `alternatives`), instead of one of those units.

        Raises SubsetError or LandscapeError for an argument that cannot be, or rows without a whole chunk.
        """
        if by not in BY:
            raise SubsetError(f"by {by!r}: one of {', '.join(BY)}")
        whole = landscape.whole(rows, chunk)
        is_whole = (rows["tokens"] == chunk).to_numpy()
        wanted = landscape.values(whole, unit) if x is None else np.asarray(x, float)[is_whole]
        if cap is None:
            values, cap, clipped = landscape.winsorise(wanted, winsor)
        else:
            values, clipped = np.minimum(wanted, cap), float(np.mean(wanted > cap))
        if by == "chunk":
            begin = whole["chunk"].to_numpy(np.int64) * chunk
            spans = pd.DataFrame({"document": whole["document"].to_numpy(), "begin": begin, "end": begin + chunk + 1})
            count, first, second = np.ones(len(values)), values, values**2
            used = float(whole["tokens"].sum())
        else:
            document, unit_of, chunks = np.unique(whole["document"], return_inverse=True, return_counts=True)
            count = chunks.astype(float)
            first, second = (np.bincount(unit_of, power) / count for power in (values, values**2))
            tokens = rows.groupby("document", sort=True)["tokens"].sum().loc[document].to_numpy()
            spans = pd.DataFrame({"document": document, "begin": 0, "end": tokens + 1})
            used = float(tokens.sum())
        unused = 1 - used / float(rows["tokens"].sum())
        return cls(spans, count, first, second, unit, cap, clipped, unused)

    def moments(self, which: np.ndarray | None = None) -> tuple[float, float]:
        """(mean, std) of x over the chunks of the units `which` (mask or indices); of all by default."""
        take = slice(None) if which is None else which
        total = self.count[take].sum()
        mean = float(self.count[take] @ self.first[take] / total)
        second = float(self.count[take] @ self.second[take] / total)
        return mean, float(np.sqrt(max(second - mean**2, 0.0)))

    def region(self, fraction: float) -> landscape.Region:
        """The means and spreads that subsets with this share of the chunks can have."""
        return landscape.reachable(self.count, self.first, self.second, fraction)


class Strata:
    """Groups of units, each with a quota of chunks, so that a subset keeps the groups' shares of the pool.

    Attributes:
      code_u: the stratum of each unit.
      members: the units of each stratum.
      quota_s: chunks that a subset takes of each stratum.
    """

    def __init__(self, count_u: np.ndarray, labels: np.ndarray | None, fraction: float):
        self._count_u = count_u
        if labels is None:
            self.code_u, order_u = np.zeros(count_u.size, np.int32), np.arange(count_u.size)
        else:
            self.code_u = np.unique(labels, return_inverse=True)[1].astype(np.int32)
            order_u = np.argsort(self.code_u, kind="stable")
        self.members = np.split(order_u, np.cumsum(np.bincount(self.code_u))[:-1])
        self.quota_s = fraction * np.bincount(self.code_u, count_u)

    def top(self, key_u: np.ndarray) -> np.ndarray:
        """Mask (units,) of the units with the largest keys of each stratum, up to its quota (to the nearest unit)."""
        mask = np.zeros(key_u.size, bool)
        for members, quota in zip(self.members, self.quota_s):
            order = members[np.argsort(-key_u[members], kind="stable")]
            count = self._count_u[order]
            mask[order[count.cumsum() - count / 2 <= quota]] = True
        return mask

    def ranks(self, x_u: np.ndarray) -> np.ndarray:
        """Each unit's quantile in its stratum, counted in chunks: (units,), in (0, 1)."""
        ranks = np.empty(x_u.size)
        for members in self.members:
            order = members[np.argsort(x_u[members], kind="stable")]
            total = self._count_u[order].cumsum()
            ranks[order] = (total - self._count_u[order] / 2) / total[-1]
        return ranks


def uniform(seed: int | tuple[int, ...], n: int) -> np.ndarray:
    """(n,) in (0, 1), from the bit generator itself: NumPy promises its stream across versions, not the shuffles'."""
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(n)
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
