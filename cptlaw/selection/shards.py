"""Choosing from a corpus whose scores do not fit into memory: shard by shard, in a handful of passes over them.

What `choose.select` works out from all units is worked out here from a random sample of SAMPLE units: the cap at which
x is clipped, quantiles, the first tilt. Then sums over all units correct it. In each pass the units' keys are counted
in bins, finely where the cut is expected; the bins above the cut are the subset, so that its size and its moments are
known before it is written. Memory is that of the sample, of one shard, and of the bins.

    pass 1      the cap
    pass 2      moments of the pool, chunks of each stratum, the sample
    pass 3 on   the cut, for the tilt again until the moments are met: once or twice
    last        the list

Random numbers are drawn by shard, so that the subset is another than `choose.select` draws with the same seed.

Letters of array names: u unit, s stratum, k feature, b bin.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import special

from cptlaw import atomic
from cptlaw.selection import aimed, choose, landscape, scores
from cptlaw.selection.aimed import Features
from cptlaw.selection.pool import Pool, Strata, SubsetError, uniform

METHODS = ("tilt", *choose.METHODS[3:])  # the others exchange or add units one by one, each with all others in view
IN_MEMORY = 1 << 25  # chunks up to which `choose.select` takes all of a corpus into memory, about 200 bytes each
SAMPLE = 1 << 20
BINS = 1 << 14
PASSES = 6  # at most, for the tilt

# (rows of a shard, its pool) -> the label of each unit's stratum
Labels = Callable[[pd.DataFrame, Pool], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Shards:
    """A scored corpus on disk; iterating reads it once, as (number, pool, labels) of each shard that has units.

    Attributes:
      directory: what `launch.score` wrote.
      by, unit, winsor: as of `Pool.of`.
      labels: None: one stratum.
      cap: the value at which x is clipped.
    """

    directory: str | os.PathLike[str]
    by: str = "document"
    unit: str = "log-perplexity"
    winsor: float = landscape.WINSOR
    labels: Labels | None = None
    cap: float = np.inf

    def capped(self) -> "Shards":
        """With the cap that `winsor` asks for, to the precision of a sample of chunks."""
        if self.winsor == 1:
            return self
        chunk = scores.meta(self.directory)["chunk"]
        sample = _Sample()
        for number, rows in enumerate(scores.shards(self.directory)):
            whole = rows[rows["tokens"] == chunk]
            sample.add(uniform((0, number), len(whole)), landscape.values(whole, self.unit)[:, None])
        cap = landscape.winsorise(sample.rows[:, 0], self.winsor)[1] if sample.rows.size else np.inf
        return dataclasses.replace(self, cap=cap)

    def __iter__(self) -> Iterator[tuple[int, Pool, np.ndarray]]:
        chunk = scores.meta(self.directory)["chunk"]
        for number, rows in enumerate(scores.shards(self.directory)):
            if (rows["tokens"] == chunk).any():
                pool = Pool.of(rows, chunk, by=self.by, unit=self.unit, cap=self.cap)
                labels = np.zeros(len(pool.count), int) if self.labels is None else self.labels(rows, pool)
                yield number, pool, labels


def select(
    source: Shards,
    out: str | os.PathLike[str],
    about: dict[str, Any],
    method: str = "tilt",
    *,
    fraction: float,
    target: tuple[float, float] | None = None,
    band: tuple[float, float] | None = None,
    seed: int = 0,
) -> choose.Chosen:
    """Chooses about `fraction` of the corpus's chunks and writes the list of them, as `choose.write_list` does.

    Args:
      about: the list's metadata.
      method: one of `METHODS`.
      target, band, seed: as of `choose.select`.

    Raises:
      SubsetError: a target out of reach, or a method that needs all units in memory.
    """
    if method not in METHODS:
        raise SubsetError(f"method {method!r}: needs all chunks in memory; for so many, one of {', '.join(METHODS)}")
    source = source.capped()
    survey = _Survey.of(source, fraction)
    if target is None:
        cut = _Cut.of(source, survey, _control(survey, choose.window(method, fraction, band)), survey.moments, seed)
    else:
        cut = _aimed(source, survey, target, fraction, seed)
    return _write(source, cut, out, about)


class _Sample:
    """A random sample of at most SAMPLE rows, the ones with the smallest keys: (n, columns)."""

    def __init__(self) -> None:
        self._keys: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        self._keys.append(keys)
        self._rows.append(rows)
        if sum(map(len, self._keys)) > 2 * SAMPLE:
            self._shrink()

    def _shrink(self) -> None:
        keys, rows = np.concatenate(self._keys), np.concatenate(self._rows)
        if len(keys) > SAMPLE:
            kept = np.sort(np.argpartition(keys, SAMPLE)[:SAMPLE])
            keys, rows = keys[kept], rows[kept]
        self._keys, self._rows = [keys], [rows]

    @property
    def rows(self) -> np.ndarray:
        self._shrink()
        return self._rows[0]


@dataclasses.dataclass(frozen=True)
class _Survey:
    """What one pass over all units tells.

    Attributes:
      moments: (mean, std) of x over all chunks.
      low, high: the smallest and the largest x of a unit.
      names: the strata's labels, sorted.
      quota_s: chunks that are wanted of each.
      sample: units at random, as a pool without spans, and their strata.
    """

    moments: tuple[float, float]
    low: float
    high: float
    names: np.ndarray
    quota_s: np.ndarray
    sample: Pool
    strata: Strata

    @classmethod
    def of(cls, source: Shards, fraction: float) -> "_Survey":
        """Raises LandscapeError where no document holds a whole chunk."""
        total = np.zeros(3)
        low, high = np.inf, -np.inf
        chunks: dict[Any, float] = {}
        codes: dict[Any, int] = {}
        units = _Sample()
        for number, pool, labels in source:
            total += [pool.count.sum(), pool.count @ pool.first, pool.count @ pool.second]
            low, high = min(low, pool.first.min()), max(high, pool.first.max())
            names, code_u = np.unique(labels, return_inverse=True)
            for name, count in zip(names.tolist(), np.bincount(code_u, pool.count)):
                chunks[name] = chunks.get(name, 0.0) + count
            code_u = np.array([codes.setdefault(name, len(codes)) for name in names.tolist()])[code_u]
            units.add(uniform((1, number), len(code_u)), np.column_stack([pool.count, pool.first, pool.second, code_u]))
        if not chunks:
            longest = max(rows["tokens"].max() for rows in scores.shards(source.directory))
            raise landscape.no_whole_chunk(scores.meta(source.directory)["chunk"], longest)
        mean = float(total[1] / total[0])
        std = float(np.sqrt(max(total[2] / total[0] - mean**2, 0.0)))
        count_u, first_u, second_u, code_u = units.rows.T
        sample = Pool(pd.DataFrame(), count_u, first_u, second_u, source.unit, source.cap, 0.0, 0.0)
        names = np.sort(np.array(list(codes)))
        strata = Strata(count_u, np.array(list(codes))[code_u.astype(int)], fraction)
        return cls(
            (mean, std), low, high, names, fraction * np.array([chunks[n] for n in names.tolist()]), sample, strata
        )


# (features (u, k), x (u,), stratum (u,), a uniform number (u,)) of units -> their keys (u,), whose largest are taken
Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _tilt(tilt_k: np.ndarray) -> Rule:
    return lambda z_uk, x_u, code_u, noise_u: z_uk @ tilt_k - np.log(-np.log(noise_u))


def _control(survey: _Survey, between: tuple[float, float]) -> Rule:
    """Quantiles of x in a stratum are taken to be those of the sample."""
    x_u, ranks_u = survey.sample.first, survey.strata.ranks(survey.sample.first)
    known = [members[np.argsort(x_u[members], kind="stable")] for members in survey.strata.members]

    def keys(z_uk: np.ndarray, x: np.ndarray, code: np.ndarray, noise: np.ndarray) -> np.ndarray:
        ranks = np.empty(len(x))
        for number in np.unique(code):
            mine, order = code == number, known[number]
            ranks[mine] = np.interp(x[mine], x_u[order], ranks_u[order])
        return choose.keys(ranks, noise, between)

    return keys


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Which units are taken: those whose key lies in bin `first_s` of their stratum, or above.

    Bins are equal in a logistic function of the key whose middle and scale make them fine where the cut is expected.

    Attributes:
      survey, rule, seed: what gives a unit its key.
      target: the (mean, std) that features are of.
      middle_s, scale_s: of the logistic function.
      bins: how many bins a stratum has.
      first_s: the lowest bin that is taken.
      sums: (3,) chunks of the subset, and over them the sums of both features.
    """

    survey: _Survey
    rule: Rule
    target: tuple[float, float]
    seed: int
    middle_s: np.ndarray
    scale_s: np.ndarray
    bins: int
    first_s: np.ndarray
    sums: np.ndarray

    @classmethod
    def of(cls, source: Shards, survey: _Survey, rule: Rule, target: tuple[float, float], seed: int) -> "_Cut":
        """By a pass over all units."""
        strata = survey.strata
        made = cls(survey, rule, target, seed, *_middles(survey, rule, target), BINS, np.zeros(0, int), np.zeros(3))
        made = dataclasses.replace(made, bins=max(BINS // len(strata.members), 1 << 8))
        sums_sbk = np.zeros((len(strata.members), made.bins, 3))
        for number, pool, labels in source:
            features = made.features(pool)
            code_u, bin_u = made.places(number, pool, labels)
            for k, weight_u in enumerate((pool.count, *(pool.count * features.z_uk.T))):
                flat = np.bincount(code_u * made.bins + bin_u, weight_u, sums_sbk[..., 0].size)
                sums_sbk[..., k] += flat.reshape(sums_sbk.shape[:2])
        above_sbk = sums_sbk[:, ::-1].cumsum(axis=1)[:, ::-1]
        first_s = np.abs(above_sbk[..., 0] - survey.quota_s[:, None]).argmin(axis=1)
        return dataclasses.replace(made, first_s=first_s, sums=above_sbk[np.arange(len(first_s)), first_s].sum(axis=0))

    def features(self, pool: Pool) -> Features:
        return Features.of(pool, self.target, self.survey.moments)

    def places(self, number: int, pool: Pool, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(stratum, bin) of each unit of shard `number`."""
        code_u = np.searchsorted(self.survey.names, labels)
        noise_u = uniform((self.seed, number), len(code_u))
        key_u = self.rule(self.features(pool).z_uk, pool.first, code_u, noise_u)
        share_u = special.expit((key_u - self.middle_s[code_u]) / self.scale_s[code_u])
        return code_u, np.minimum((share_u * self.bins).astype(int), self.bins - 1)

    def takes(self, number: int, pool: Pool, labels: np.ndarray) -> np.ndarray:
        """Mask of the units of shard `number` that are taken."""
        code_u, bin_u = self.places(number, pool, labels)
        return bin_u >= self.first_s[code_u]


def _middles(survey: _Survey, rule: Rule, target: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """(s,), (s,): where the sample's cut lies among its keys, and a tenth of their deviation."""
    sample, strata = survey.sample, survey.strata
    z_uk = Features.of(sample, target, survey.moments).z_uk
    key_u = rule(z_uk, sample.first, strata.code_u, uniform((2,), len(sample.count)))
    taken_u = strata.top(key_u)
    middles = [key_u[own[taken_u[own]]].min(initial=key_u[own].max()) for own in strata.members]
    return np.array(middles), np.array([0.1 * key_u[own].std() + 1e-9 for own in strata.members])


def _aimed(source: Shards, survey: _Survey, target: tuple[float, float], fraction: float, seed: int) -> _Cut:
    """The cut of a tilt whose subset has the target's moments; see `aimed._tilt`."""
    sample = survey.sample
    region = sample.region(fraction)
    if not (target[1] > 0 and region.holds(*target)):
        raise aimed.out_of_reach(sample, target, fraction, region.nearest(*target))
    features = Features.of(sample, target, survey.moments)
    tilt_k, jacobian_kk = aimed.expected_tilt(sample.count, features, survey.strata, fraction)
    best: tuple[float, _Cut] | None = None
    for _ in range(PASSES):
        cut = _Cut.of(source, survey, _tilt(tilt_k), target, seed)
        miss = float(np.abs(features.miss(cut.sums)).max())
        if best is None or miss < best[0]:
            best = miss, cut
        if miss < aimed.CLOSE:
            break
        tilt_k = tilt_k + np.linalg.solve(jacobian_kk, features.target_k - cut.sums[1:] / cut.sums[0])
    assert best is not None
    if best[0] > aimed.FAR:
        mean, second = best[1].sums[1:] / best[1].sums[0]
        centre, width = survey.moments
        nearest = centre + width * mean, width * np.sqrt(max(second - mean**2, 0.0))
        raise aimed.out_of_reach(sample, target, fraction, nearest)
    return best[1]


def _write(source: Shards, cut: _Cut, out: str | os.PathLike[str], about: dict[str, Any]) -> choose.Chosen:
    """The last pass: the list, atomically, and what it holds."""
    survey = cut.survey
    edges = np.linspace(survey.low, survey.high, choose.BINS + 1)
    counts, sums = np.zeros((2, choose.BINS), int), np.zeros(3)
    units = tokens = 0
    schema = pa.schema(
        [("document", pa.int64()), ("begin", pa.int64()), ("end", pa.int64()), ("x", pa.float64())],
        {"cptlaw": json.dumps(about)},
    )
    with atomic.replacing(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for number, pool, labels in source:
            taken = np.flatnonzero(cut.takes(number, pool, labels))
            spans = pool.spans.iloc[taken]
            writer.write_table(pa.Table.from_pandas(spans.assign(x=pool.first[taken]), schema, preserve_index=False))
            units, tokens = units + len(taken), tokens + int((spans["end"] - spans["begin"]).sum())
            count = pool.count[taken]
            sums += [count.sum(), count @ pool.first[taken], count @ pool.second[taken]]
            counts += [np.histogram(x, edges)[0] for x in (pool.first, pool.first[taken])]
    mean = float(sums[1] / sums[0])
    subset = mean, float(np.sqrt(max(sums[2] / sums[0] - mean**2, 0.0)))
    return choose.Chosen(units, tokens, survey.moments, subset, edges, counts)
