"""Tests of lack of fit: does a table reject the law that was fitted to it?

Checkpoints of a run share its effect and drift with it, so no test counts rows as independent; the unit is the run.
With run effects, repeats of settings make a split-plot design (Cochran & Cox 1957, ch. 7), and its two strata are
tested apart:

- settings: means of runs. F of the settings' lack of fit over the spread of the runs that repeat a setting.
- curves: rows less their run's mean. F likewise, its degrees of freedom reduced for correlated checkpoints (Greenhouse
  & Geisser 1959, whose estimate errs to the safe side where repeats are few).

Without repeats, and beside them: residuals along a column that is constant within runs (a share) keep their sign in too
few stretches (Wald & Wolfowitz 1940, on means of runs); along tokens, runs bend away from the law together (the sum of
their curves against that with the signs of whole runs flipped, which any correlation within runs leaves exact).

The law is linear about its ordinary fit, moved to its least squares in each stratum: an absolute-error fit lets long
runs rule, and would leave all others off to one side. A parameter on a bound that the rows push against stays there.
Where the table names base models (`base`), each one's own effect is taken up first: a miss in size alone is not told
from it.

Shapes: n rows, G runs, S settings, P free parameters.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.fitting.rows import Rows
from cptlaw.fitting.sensitivity import loss_jacobian
from cptlaw.fitting.solver import Problem
from cptlaw.fitting.verdicts import Check, LackOfFit

RANK = 1e-7  # relative singular value below which a direction of the parameters is no direction
EXACT = 1e-9  # residuals (log loss) up to which a law fits exactly
FLIPS, AT_ONCE = 4095, 455  # sign flips, and how many of them are in memory at once
BINS, LEAST_CURVE = 8, 3  # levels of log tokens; checkpoints of a run that can bend
LARGE = 200  # runs, above which the normal approximation counts their stretches
LEAST_SIGNS = 6  # runs, below which no order of signs is unusual
COVARIATES = (
    "params", "tokens", "unique_tokens", "model", "pretrain_tokens", "lr", "lr_sum", "lr_anneal", "lr_sum_pretrain",
    "lr_anneal_pretrain", "ppl_mean", "ppl_std", "subset", "base", "ema",
)  # fmt: skip


@dataclass(frozen=True)
class _Design:
    """The fitted rows of one corpus, sorted by run and tokens.

    Attributes:
      frame: (n,) rows; `off` (n,) log observed less log predicted; `slopes` (n, P) of the log loss; `weight` (n,).
      run: (n,) which run; `setting` (G,) which setting each run is of.
      held: (2, P) whether a parameter is on its lower and upper bound.
    """

    frame: pd.DataFrame
    off: np.ndarray
    slopes: np.ndarray
    weight: np.ndarray
    run: np.ndarray
    setting: np.ndarray
    held: np.ndarray

    def of_run(self, values: np.ndarray) -> np.ndarray:
        """Weighted means of runs, (G, ...)."""
        return _means(self.run, self.weight, values)


def _means(group: np.ndarray, weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted means of `values` (n, ...) by `group` (n,)."""
    total = np.bincount(group, weight)
    sums = np.zeros((len(total), *values.shape[1:]))
    np.add.at(sums, group, (weight * values.T).T)
    return (sums.T / total).T


def examine(problem: Problem, rows: Rows, theta: np.ndarray) -> dict[str, LackOfFit]:
    """Corpus -> its tests, of the law at the optimum `theta` (P,)."""
    predicted = np.asarray(problem.law.predict(problem.reported(theta), rows.x), float)
    with np.errstate(all="ignore"):
        off = np.log(rows.y) - np.log(predicted)
        slopes = loss_jacobian(problem, theta) / predicted[:, None]
    low, high = problem.box
    held = np.stack([theta <= low, theta >= high])
    out = {}
    for corpus in dict.fromkeys(rows.frame["eval"]):
        mine = rows.fitted & (rows.frame["eval"] == corpus).to_numpy() & np.isfinite(off)
        if mine.any() and np.isfinite(slopes[mine]).all():
            design = _design(rows.frame[mine], off[mine], slopes[mine], rows.weights[mine], held, problem.law.columns)
            out[str(corpus)] = _examined(design, rows.y[mine])
    return out


def _examined(design: _Design, loss: np.ndarray) -> LackOfFit:
    of_setting = np.bincount(design.setting)
    repeated = of_setting > 1
    notes, tests = [], []
    if not repeated.any():
        notes.append(
            "no F test can be had: no two runs repeat a setting (the same size, tokens, shares and other columns)"
        )
    if np.abs(design.off).max() > EXACT:
        curves, noise = _curves(design)
        settings, left_G = _settings(design, noise)
        tests = [t for t in (settings, curves) if t is not None]
        tests += [*_order(design, left_G), *_bend(design)]
    count, of_runs = int(repeated.sum()), int(of_setting[repeated].sum())
    return LackOfFit(tuple(tests), count, of_runs, float(loss.mean()), tuple(notes))


def _design(
    frame: pd.DataFrame, off: np.ndarray, slopes: np.ndarray, weight: np.ndarray, held: np.ndarray, law: Sequence[str]
) -> _Design:
    """The rows sorted, and settings: runs whose rows are the same but for their losses.

    A repeat whose losses are all the same too is no repeat but a copy, which would make the noise look like nothing: it
    is left out.
    """
    shares = [f"w_{c}" for c in runs.corpora(frame)]
    names = [n for n in dict.fromkeys((*COVARIATES, *shares, *law)) if n in frame]
    keys = pd.DataFrame({n: _same(frame[n]) for n in names}, index=frame.index)
    cell = keys.groupby(names, dropna=False).ngroup().to_numpy() if names else np.zeros(len(frame), int)
    tokens = frame["tokens"].to_numpy(float) if "tokens" in frame else np.zeros(len(frame))
    run = pd.factorize(frame["run"].astype(str), sort=True)[0]
    order = np.lexsort((cell, tokens, run))
    groups = np.split(order, np.flatnonzero(np.diff(run[order])) + 1)
    settings: dict[tuple[int, ...], int] = {}
    seen: set[Any] = set()
    kept: list[np.ndarray] = []
    which: list[np.ndarray] = []
    of_run: list[int] = []
    for group in groups:
        places = tuple(cell[group].tolist())
        copy = (places, tuple(frame["loss"].to_numpy()[group].tolist()))
        if copy in seen:
            continue
        seen.add(copy)
        kept.append(group)
        which.append(np.full(len(group), len(of_run)))
        of_run.append(settings.setdefault(places, len(settings)))
    rows = np.concatenate(kept)
    return _Design(
        frame.iloc[rows], off[rows], slopes[rows], weight[rows], np.concatenate(which), np.array(of_run), held
    )


def _same(column: pd.Series) -> np.ndarray:
    """Values that are equal where six digits of them are."""
    if column.dtype.kind not in "fiu":
        return column.astype(str).to_numpy()
    values = column.to_numpy(float)
    with np.errstate(all="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.abs(values))) - 5)
        return np.where(np.isfinite(unit) & (unit > 0), np.round(values / unit) * unit, values)


def _settings(design: _Design, noise: float) -> tuple[Check | None, np.ndarray]:
    """F between settings, and what least squares leave of each run's mean (G,).

    Args:
      noise: variance of a checkpoint about its run.
    """
    off, slopes = design.of_run(design.off), design.of_run(design.slopes)
    size, setting = np.bincount(design.run, design.weight), design.setting
    count = setting.max() + 1
    if "base" in design.frame:  # a base model's own effect is not a miss of the law
        first = np.unique(design.run, return_index=True)[1]
        slopes = np.hstack([slopes, _bases(design.frame.iloc[first])])
    held = np.pad(design.held, ((0, 0), (0, slopes.shape[1] - design.held.shape[1])))
    several = np.bincount(setting)
    freedom = int((several - 1).sum())
    # Runs with few checkpoints scatter more; how much more, the repeats say.
    apart = off - (np.bincount(setting, off) / several)[setting]
    excess = (apart**2).sum() - noise * ((several - 1) / np.bincount(setting, size) * several).sum()
    variance = max(excess / max(freedom, 1), 0.0) + noise / size
    weight = 1 / variance if noise > 0 and (variance > 0).all() else np.ones(len(off))
    total = np.bincount(setting, weight)
    mean, slope = _means(setting, weight, off), _means(setting, weight, slopes)
    left, rank, move = _least_squares(slope, mean, total, held)
    pure = float((weight * (off - mean[setting]) ** 2).sum())
    found = _f("settings", float((total * left**2).sum()), count - rank, pure, freedom, float(total.sum()), len(off))
    return found, off - slopes @ move


def _curves(design: _Design) -> tuple[Check | None, float]:
    """F within runs, and the variance of a checkpoint about its run (0 where no repeat tells)."""
    off, slopes = _within(design)
    length = np.bincount(design.run)
    place = np.arange(len(design.run)) - np.repeat(np.cumsum(length) - length, length)
    setting = design.setting[design.run]
    cell = np.unique(setting * (length.max() + 1) + place, return_inverse=True)[1]
    total = np.bincount(cell, design.weight)
    mean, slope = _means(cell, design.weight, off), _means(cell, design.weight, slopes)
    several = np.bincount(design.setting)
    of_setting = np.zeros(len(several), int)
    of_setting[design.setting] = length
    freedom = int(((several - 1) * (of_setting - 1)).sum())
    apart = np.sqrt(design.weight) * (off - mean[cell])
    pure = float((apart**2).sum())
    if not freedom:
        return None, 0.0
    left, rank, _ = _least_squares(slope, mean, total, design.held)
    cells = int((of_setting - 1).sum()) - rank
    part = _sphericity(design, apart, length)
    found = _f("curves", float((total * left**2).sum()), cells, pure, freedom, float(total.sum()), len(off), part)
    return found, pure / freedom


def _sphericity(design: _Design, apart: np.ndarray, length: np.ndarray) -> float:
    """Greenhouse and Geisser's epsilon of what repeats differ by: 1 if checkpoints are independent, less if not."""
    several = np.bincount(design.setting)[design.setting]
    tokens = _same(design.frame["tokens"]) if "tokens" in design.frame else np.zeros(len(apart))
    ends = np.cumsum(length)
    grids: dict[tuple[float, ...], list[int]] = {}
    for run in np.flatnonzero((several > 1) & (length > 1)).tolist():
        grids.setdefault(tuple(tokens[ends[run] - length[run] : ends[run]]), []).append(run)
    found, weights = [], []
    for grid, members in grids.items():
        vectors = np.stack([apart[ends[run] - length[run] : ends[run]] for run in members])
        gram = vectors @ vectors.T
        freedom = len(members) - len(np.unique(design.setting[members]))
        effective = np.trace(gram) ** 2 / max((gram**2).sum(), 1e-300)
        found.append(min(1.0, max(effective, 1.0) / (len(grid) - 1)))
        weights.append(freedom * (len(grid) - 1))
    return float(np.average(found, weights=weights))


def _f(
    what: str, lack: float, cells: int, pure: float, freedom: int, weight: float, count: int, part: float = 1.0
) -> Check | None:
    """F of `lack` on `cells` over `pure` on `freedom` degrees of freedom, both counted by `part`.

    `weight` is the total weight of the `count` values that the sums of squares are of.
    """
    from scipy import special

    if cells < 1 or freedom < 1 or pure <= 0:
        return None
    statistic = (lack / cells) / (pure / freedom)
    df = (float(part * cells), float(part * freedom))
    miss = max(lack - cells * pure / freedom, 0.0) / weight
    noise = pure / freedom * count / weight
    return Check(what, float(special.fdtrc(*df, statistic)), float(statistic), df, math.sqrt(noise), math.sqrt(miss))


def _least_squares(
    slopes: np.ndarray, off: np.ndarray, weight: np.ndarray, held: np.ndarray
) -> tuple[np.ndarray, int, np.ndarray]:
    """What the parameters cannot take up of `off`, the rank of those that move, and how far they move (P,).

    Args:
      held: (2, P) whether a parameter is on its lower and upper bound, where it moves inwards only.
    """
    if not slopes.shape[1]:
        return off, 0, np.empty(0)
    root = np.sqrt(weight)
    scale = np.linalg.norm(root[:, None] * slopes, axis=0) + 1e-300
    matrix = root[:, None] * slopes / scale
    moving = np.ones(len(scale), bool)
    while True:
        left, size, right = np.linalg.svd(matrix[:, moving], full_matrices=False)
        kept = size > RANK * size.max(initial=0.0)
        move = np.zeros(len(scale))
        move[moving] = right[kept].T @ ((left[:, kept].T @ (root * off)) / size[kept])
        outwards = moving & ((held[0] & (move < 0)) | (held[1] & (move > 0)))
        if not outwards.any():
            return off - slopes @ (move / scale), int(kept.sum()), move / scale
        moving &= ~outwards


def _within(design: _Design) -> tuple[np.ndarray, np.ndarray]:
    """Rows less their run's mean: residuals (n,) and slopes (n, P)."""
    return (
        design.off - design.of_run(design.off)[design.run],
        design.slopes - design.of_run(design.slopes)[design.run],
    )


def _bases(frame: pd.DataFrame) -> np.ndarray:
    """(G, bases) which base model each run is from; one of another size is another one."""
    sizes = frame["params"] if "params" in frame else pd.Series(0.0, frame.index)
    which = pd.factorize(sizes.map("{:.6g} ".format) + frame["base"].astype(str))[0]
    return np.eye(which.max() + 1)[which]


def _order(design: _Design, left_G: np.ndarray) -> Iterator[Check]:
    """Whether the means of runs keep their sign along each column that is constant within runs."""
    first = design.frame.iloc[np.unique(design.run, return_index=True)[1]]
    alone = len(first) == len(design.frame)
    shares = [n for n in (f"w_{c}" for c in runs.corpora(first)) if first[n].nunique() > 1]
    if len(shares) == 2:  # one is what the other is not
        shares = shares[:1]
    signed = np.abs(left_G) > EXACT
    if signed.sum() < LEAST_SIGNS:
        return
    for name in [*shares, *(["tokens"] if alone and "tokens" in first and first["tokens"].nunique() > 1 else [])]:
        rest = [first[c].to_numpy(float) for c in (*shares, "params", "tokens") if c in first and c != name]
        order = np.lexsort((*rest[::-1], first[name].to_numpy(float)))
        signs = left_G[order][signed[order]] > 0
        stretches = 1 + int(np.count_nonzero(np.diff(signs)))
        yield Check(f"along {name}", few_stretches(stretches, int(signs.sum()), int((~signs).sum())), float(stretches))


def few_stretches(stretches: int, plus: int, minus: int) -> float:
    """Probability of at most so many stretches of equal sign in a random order (Wald & Wolfowitz 1940)."""
    if not plus or not minus:
        return 1.0
    n = plus + minus
    if n > LARGE:
        mean = 1 + 2 * plus * minus / n
        sd = math.sqrt((mean - 1) * (mean - 2) / (n - 1))
        return NormalDist().cdf((stretches + 0.5 - mean) / sd)
    total = 0
    for r in range(2, stretches + 1):
        k = r // 2
        if r % 2:
            total += math.comb(plus - 1, k) * math.comb(minus - 1, k - 1)
            total += math.comb(plus - 1, k - 1) * math.comb(minus - 1, k)
        else:
            total += 2 * math.comb(plus - 1, k - 1) * math.comb(minus - 1, k - 1)
    return total / math.comb(n, plus)


def _bend(design: _Design) -> Iterator[Check]:
    """Whether runs bend away from the law together along tokens.

    The sum of the runs' curves, against what it is when the signs of whole runs are flipped. All runs weigh the same,
    in the fit as in the sum, so that no long run bends the law for all others.
    """
    length = np.bincount(design.run)
    if "tokens" not in design.frame or (length >= LEAST_CURVE).sum() < 2:
        return
    off, slopes = _within(design)
    left, _, _ = _least_squares(slopes, off, design.weight / length[design.run], design.held)
    curved = length[design.run] >= LEAST_CURVE
    where = np.log(np.maximum(design.frame["tokens"].to_numpy(float), 1.0))[curved]
    levels = np.unique(where.round(9))
    edges = (levels[1:] + levels[:-1]) / 2 if len(levels) <= BINS else np.quantile(where, np.arange(1, BINS) / BINS)
    cell, run = np.searchsorted(edges, where), design.run[curved]
    curves = np.zeros((len(length), BINS))
    np.add.at(curves, (run, cell), left[curved] / length[run])
    curves = curves[length >= LEAST_CURVE]
    found, beyond, rng = float((curves.sum(axis=0) ** 2).sum()), 0, np.random.default_rng(0)
    for _ in range(0, FLIPS, AT_ONCE):
        flips = rng.choice((-1.0, 1.0), (AT_ONCE, len(curves)))
        beyond += int((((flips @ curves) ** 2).sum(axis=1) >= found * (1 - 1e-9)).sum())
    count = len(range(0, FLIPS, AT_ONCE)) * AT_ONCE
    rows = np.bincount(cell, minlength=BINS)
    mean = np.bincount(cell, left[curved], minlength=BINS) / np.maximum(rows, 1)
    bend = math.sqrt(float((rows * mean**2).sum() / rows.sum()))
    yield Check("along tokens", (beyond + 1) / (count + 1), bend, miss=bend)
