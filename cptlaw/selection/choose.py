"""Choosing part of a pool so that its chunks have a wanted mean and spread of a score, reproducibly by seed.

A pool's units, chunks or whole documents, are taken or left whole. Selection by the distance to an optimum (DOS; Liu et
al. 2026, arXiv 2512.21515) minimises J(S) = (mean(S) - mu)^2 / s^2 + (var(S) - sigma^2)^2 / s^4, s the pool's std.
Moments leave the shape open, and the builders differ in it:

  tilt        keep-probability proportional to exp(l1 x + l2 x^2), top-k with Gumbel noise: the pool's own shape, bent
  swaps       a random subset, then random exchanges that lower J until it is about zero
  dos_greedy  the paper's greedy: always add what lowers J most; tends to two shells of x with nothing between them
  low, mid, high, band, random            the controls
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import special

from cptlaw import atomic
from cptlaw.errors import UserError
from cptlaw.selection import landscape

METHODS = ("tilt", "swaps", "dos_greedy", "band", "low", "mid", "high", "random")
AIMED = METHODS[:3]
CLOSE = 1e-4  # of the pool's std: how near the moments must come
BINS, STEPS = 4096, 20_000  # of the greedy, which takes more than one unit at a time only beyond them
PROPOSALS = 1 << 18


class SubsetError(UserError):
    """A target out of reach, or a method that lacks what it needs."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """What can be chosen: (units,) arrays.

    Attributes:
      spans: DataFrame of document and the tokens [begin, end) of it.
      count: whole chunks of each unit, which weigh it.
      first, second: mean of x and of x^2 over them.
      unit: of x.
      cap: where x was winsorised.
      clipped, unused: shares, of the chunks clipped there and of the tokens that are in no unit.
    """

    spans: pd.DataFrame
    count: np.ndarray
    first: np.ndarray
    second: np.ndarray
    unit: str
    cap: float
    clipped: float
    unused: float

    def moments(self, which: np.ndarray | None = None) -> tuple[float, float]:
        """(mean, std) of x over the chunks of the units `which` (mask or indices); of all by default."""
        take = slice(None) if which is None else which
        total = self.count[take].sum()
        mean = float(self.count[take] @ self.first[take] / total)
        second = float(self.count[take] @ self.second[take] / total)
        return mean, float(np.sqrt(max(second - mean**2, 0.0)))

    def region(self, fraction: float) -> landscape.Region:
        """What subsets of that share of the chunks can reach."""
        return landscape.reachable(self.count, self.first, self.second, fraction)


def pool(
    rows: pd.DataFrame,
    chunk: int,
    *,
    by: str = "document",
    unit: str = "log-perplexity",
    winsor: float = landscape.WINSOR,
    x: np.ndarray | None = None,
) -> Pool:
    """The pool of a scored corpus; documents without a whole chunk are no part of it.

    Args:
      rows: as of `score.read`.
      by: "document" or "chunk": what is taken or left whole. A chunk comes with the token before its targets.
      unit: one of `landscape.UNITS`, or what `x` is.
      x: another score of every row (see `alternatives`), instead of one of those units.
    """
    if by not in ("document", "chunk"):
        raise SubsetError(f"by {by!r}: document or chunk")
    whole = landscape.whole(rows, chunk)
    wanted = landscape.values(whole, unit) if x is None else np.asarray(x, float)[(rows["tokens"] == chunk).to_numpy()]
    values, cap, clipped = landscape.winsorise(wanted, winsor)
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
    return Pool(spans, count, first, second, unit, cap, clipped, unused)


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
        raise SubsetError(f"method {method!r}: one of {', '.join(METHODS)}")
    if not 0 < fraction < 1:
        raise SubsetError(f"fraction {fraction}: a share of the pool, above 0 and below 1")
    if (target is None) == (method in AIMED):
        raise SubsetError(f"{method}: give a target mean and std for {', '.join(AIMED)}, and for them alone")
    if (band is None) == (method == "band"):
        raise SubsetError(f"{method}: give quantiles for band, and for it alone")
    groups = _Strata(pool.count, strata, fraction)
    if target is not None:
        return np.flatnonzero(_aimed(pool, method, groups, target, fraction, seed))
    windows = {
        "random": (0.0, 1.0),
        "low": (0.0, fraction),
        "mid": ((1 - fraction) / 2, (1 + fraction) / 2),
        "high": (1 - fraction, 1.0),
    }
    low, high = windows[method] if band is None else band
    if not 0 <= low < high <= 1 or high - low < fraction - 1e-9:
        raise SubsetError(f"band {low:g} to {high:g}: quantiles at least {fraction:g} apart, the share that is taken")
    # At random within the window; should its last unit not fit, what is nearest to it.
    beyond = np.abs(groups.ranks(pool.first) - (low + high) / 2) - (high - low) / 2
    return np.flatnonzero(groups.top(np.where(beyond > 0, -beyond, _uniform(seed, len(pool.count)))))


def write_list(path: str | os.PathLike[str], pool: Pool, chosen: np.ndarray, about: dict[str, Any]) -> None:
    """Writes the list of a subset (Parquet: document, begin, end, x), with `about` as the file's metadata; atomic."""
    table = pa.Table.from_pandas(pool.spans.iloc[chosen].assign(x=pool.first[chosen]), preserve_index=False)
    table = table.replace_schema_metadata({"cptlaw": json.dumps(about)})
    with atomic.replacing(Path(path)) as temporary:
        pq.write_table(table, temporary)


class _Strata:
    """Groups of units, each with its quota of chunks."""

    def __init__(self, count: np.ndarray, strata: np.ndarray | None, fraction: float):
        self.count = count
        codes = np.zeros(count.size, np.int32) if strata is None else np.unique(strata, return_inverse=True)[1]
        self.codes = codes.astype(np.int32)
        order = np.argsort(self.codes, kind="stable") if strata is not None else np.arange(count.size)
        self.members = np.split(order, np.cumsum(np.bincount(self.codes))[:-1])
        self.quota = fraction * np.bincount(self.codes, count)

    def top(self, keys: np.ndarray) -> np.ndarray:
        """Mask of the units with the largest keys of each group, up to its quota (to the nearest unit)."""
        mask = np.zeros(keys.size, bool)
        for members, quota in zip(self.members, self.quota):
            order = members[np.argsort(-keys[members], kind="stable")]
            count = self.count[order]
            mask[order[count.cumsum() - count / 2 <= quota]] = True
        return mask

    def ranks(self, x: np.ndarray) -> np.ndarray:
        """Each unit's quantile (of chunks) in its group, in (0, 1)."""
        ranks = np.empty(x.size)
        for members in self.members:
            order = members[np.argsort(x[members], kind="stable")]
            total = self.count[order].cumsum()
            ranks[order] = (total - self.count[order] / 2) / total[-1]
        return ranks


@dataclasses.dataclass(frozen=True)
class _Features:
    """x and x^2 in the pool's own mean and std, and the target there: z (units, 2), t (2,)."""

    z: np.ndarray
    t: np.ndarray

    @classmethod
    def of(cls, pool: Pool, target: tuple[float, float]) -> "_Features":
        centre, width = pool.moments()
        z = (pool.first - centre) / width
        z2 = (pool.second - 2 * centre * pool.first + centre**2) / width**2
        mean = (target[0] - centre) / width
        return cls(np.stack([z, z2], -1), np.array([mean, (target[1] / width) ** 2 + mean**2]))

    def miss(self, sums: np.ndarray) -> np.ndarray:
        """(mean, variance) less the target's, in the pool's std: (..., 2), of sums (..., 3) of chunks, z and z2."""
        mean, second = sums[..., 1] / sums[..., 0], sums[..., 2] / sums[..., 0]
        return np.stack([mean - self.t[0], second - mean**2 - (self.t[1] - self.t[0] ** 2)], -1)

    def sums(self, count: np.ndarray, which: np.ndarray) -> np.ndarray:
        return np.array([count[which].sum(), *(count[which] @ self.z[which])])


def _aimed(
    pool: Pool, method: str, groups: _Strata, target: tuple[float, float], fraction: float, seed: int
) -> np.ndarray:
    """Mask of a subset with the target's moments."""
    region = pool.region(fraction)
    if not (target[1] > 0 and region.holds(*target)):
        raise _out_of_reach(pool, region, target, fraction)
    features = _Features.of(pool, target)
    if method == "dos_greedy":
        return _greedy(pool, features, groups)
    if method == "tilt":
        mask = _tilt(pool, features, groups, fraction, seed)
    else:
        mask = groups.top(_uniform(seed, len(pool.count)))
    mask = _swap(mask, pool, features, groups, seed)
    miss = np.abs(features.miss(features.sums(pool.count, mask))).max()
    if miss > 0.05:  # far more than the last unit: with these strata or so few units there is no such subset
        raise _out_of_reach(pool, region, target, fraction, pool.moments(mask))
    return mask


def _out_of_reach(
    pool: Pool,
    region: landscape.Region,
    target: tuple[float, float],
    fraction: float,
    found: tuple[float, float] | None = None,
) -> SubsetError:
    mean, std = found or region.nearest(*target)
    whole = pool.moments()
    return SubsetError(
        f"target mean {target[0]:.4g}, std {target[1]:.4g} ({pool.unit}): no subset of {fraction:.1%} of this pool "
        f"(mean {whole[0]:.4g}, std {whole[1]:.4g}) has these; the nearest that has: mean {mean:.4g}, std {std:.4g}. "
        "Aim there, or take a smaller share"
    )


def _tilt(pool: Pool, features: _Features, groups: _Strata, fraction: float, seed: int) -> np.ndarray:
    """Top-k by tilt z + Gumbel noise, the tilt such that the realised subset has the target's moments.

    It first solves the expected moments (`_solve`), then is corrected by the realised ones, the noise staying the same.
    """
    tilt, jacobian = _solve(pool.count, features, groups, fraction)
    noise = -np.log(-np.log(_uniform(seed, len(pool.count))))
    best, mask = np.inf, np.zeros(0, bool)
    for _ in range(10):
        tried = groups.top(features.z @ tilt + noise)
        sums = features.sums(pool.count, tried)
        miss = np.abs(features.miss(sums)).max()
        if miss < best:
            best, mask = miss, tried
        if best < CLOSE:
            break
        tilt = tilt + np.linalg.solve(jacobian, features.t - sums[1:] / sums[0])
    return mask


def _solve(count: np.ndarray, features: _Features, groups: _Strata, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """The tilt (2,) for the expected moments, and their Jacobian by it.

    A unit is kept if its Gumbel noise exceeds -eta, eta = a_stratum + tilt z: with p = 1 - exp(-exp(eta)). The
    conditions sum p = quota and sum p (z - t) = 0 are the gradient of the convex sum of A(eta), A' = p, less linear
    terms; so Newton with step halving finds the one solution.
    """
    z, codes, weight = features.z, groups.codes, count
    if count.size > landscape.SAMPLE:
        keep = np.argsort(z[:, 0], kind="stable")[:: count.size // landscape.SAMPLE]
        z, codes, weight = z[keep], codes[keep], count[keep] * (float(count.sum()) / float(count[keep].sum()))
    strata, total = len(groups.quota), groups.quota.sum()
    z = z - features.t  # then the target's moments are zero, and the linear terms fall away

    def value(eta: np.ndarray, a: np.ndarray) -> float:
        return float(weight @ (eta + np.euler_gamma + special.exp1(np.exp(np.minimum(eta, 50))))) - groups.quota @ a

    a, tilt = np.full(strata, np.log(-np.log1p(-fraction))), np.zeros(2)
    eta = a[codes] + z @ tilt
    now = value(eta, a)
    for _ in range(100):
        e = np.exp(np.minimum(eta, 50))
        p, slope = -np.expm1(-e) * weight, e * np.exp(-e) * weight
        ga, gl = np.bincount(codes, p, strata) - groups.quota, p @ z
        d = np.bincount(codes, slope, strata) + 1e-12 * total
        b = np.stack([np.bincount(codes, slope * z[:, i], strata) for i in (0, 1)], -1)
        schur = (z * slope[:, None]).T @ z - (b / d[:, None]).T @ b
        if max(np.abs(ga).max(), np.abs(gl).max()) < 1e-7 * total:
            break
        step_tilt = -np.linalg.solve(schur + 1e-12 * total * np.eye(2), gl - b.T @ (ga / d))
        step_a = -(ga + b @ step_tilt) / d
        for halving in range(30):
            size = 0.5**halving
            new_a, new_tilt = a + size * step_a, tilt + size * step_tilt
            new_eta = new_a[codes] + z @ new_tilt
            if (then := value(new_eta, new_a)) < now:
                break
        else:
            break
        a, tilt, eta, now = new_a, new_tilt, new_eta, then
    return tilt, schur / total


def _swap(mask: np.ndarray, pool: Pool, features: _Features, groups: _Strata, seed: int) -> np.ndarray:
    """Exchanges chosen and other units of a stratum, in random pairs, while that lowers J (and keeps the size)."""
    mask = mask.copy()
    sums = features.sums(pool.count, mask)
    idle, size = 0, sums[0]

    def cost(sums: np.ndarray) -> np.ndarray:
        return (features.miss(sums) ** 2).sum(axis=-1) + (sums[..., 0] / size - 1) ** 2

    for round_ in range(200):
        if np.abs(features.miss(sums)).max() < CLOSE or idle == 3:
            break
        out, new = _pairs(mask, groups, (seed, round_))
        rows = pool.count[new, None] * np.column_stack([np.ones(new.size), features.z[new]])
        rows -= pool.count[out, None] * np.column_stack([np.ones(out.size), features.z[out]])
        alone = cost(sums + rows)
        helps = np.flatnonzero(alone < cost(sums))
        if not helps.size:
            idle += 1
            continue
        together = cost(sums + rows[helps].cumsum(axis=0))
        best = int(np.argmin(together))
        took = helps[: best + 1] if together[best] <= alone[helps].min() else [helps[np.argmin(alone[helps])]]
        mask[out[took]], mask[new[took]] = False, True
        sums, idle = sums + rows[took].sum(axis=0), 0
    return mask


def _pairs(mask: np.ndarray, groups: _Strata, seed: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(chosen, other) units in random disjoint pairs of one stratum, out of at most PROPOSALS units of each."""
    out, new = [], []
    for number, members in enumerate(groups.members):
        noise = _uniform((*seed, number), min(members.size, PROPOSALS))
        # A large stratum is sampled (with the few repeats dropped), a small one shuffled.
        large = members.size > PROPOSALS
        drawn = members[np.unique((noise * members.size).astype(np.int64))] if large else members
        shuffled = drawn[np.argsort(noise[: drawn.size], kind="stable")]
        inside, outside = shuffled[mask[shuffled]], shuffled[~mask[shuffled]]
        n = min(inside.size, outside.size)
        out.append(inside[:n])
        new.append(outside[:n])
    return np.concatenate(out), np.concatenate(new)


def _greedy(pool: Pool, features: _Features, groups: _Strata) -> np.ndarray:
    """Adds, step by step, the unit after which J is smallest.

    Units are sorted by x into at most BINS runs that count as equal; beyond STEPS steps a step takes several.
    """
    order = np.lexsort((pool.first, groups.codes))
    runs = np.array_split(order, min(BINS, order.size))
    rows = np.array([features.sums(pool.count, run) / run.size for run in runs])
    stratum = np.array([groups.codes[run[0]] for run in runs])
    left, room = np.array([run.size for run in runs]), groups.quota.copy()
    block = max(1, int(pool.count.size * groups.quota.sum() / pool.count.sum() / STEPS))
    sums = np.zeros(3)
    while True:
        open_ = (left > 0) & (room[stratum] >= rows[:, 0] / 2)
        if not open_.any():
            break
        j = (features.miss(sums + rows) ** 2).sum(axis=1)
        best = int(np.argmin(np.where(open_, j, np.inf)))
        fits = int(room[stratum[best]] / rows[best, 0] + 0.5)
        took = max(1, min(block, left[best], fits))
        left[best] -= took
        sums += took * rows[best]
        room[stratum[best]] -= took * rows[best, 0]
    mask = np.zeros(pool.count.size, bool)
    for run, rest in zip(runs, left):
        mask[run[: run.size - rest]] = True
    return mask


def _uniform(seed: Any, n: int) -> np.ndarray:
    """(n,) in (0, 1), from the bit generator itself: NumPy promises its stream across versions, not the shuffles'."""
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(n)
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
