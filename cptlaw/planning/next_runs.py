"""Which experiment to run next: the one expected to make a decision surer, for its cost.

The candidate whose losses would explain most of the decision's variance per unit of cost, in the mean over the
bootstrap's basins (`posterior`), is taken; the posterior is conditioned on it, and the next is chosen. This is the
target-aware design of Li et al. 2026 (arXiv 2604.22753) with the bootstrap in the place of its basins.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.planning.decision import Decision, DecisionError, with_rejections
from cptlaw.planning.identified import check_identified
from cptlaw.planning.linear import columns
from cptlaw.planning.numbers import check_parameters, check_positive, check_share, expanded, interval, losses, paired
from cptlaw.planning.posterior import Posterior, posteriors
from cptlaw.words import count, percent

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

RANDOM = 100  # random choices the chosen ones are compared with
MIXES = 20  # most fitted mixes among the default candidates, which hold their pairs' middles too
UNLIKE = 4.0  # how many times two estimates of one width may differ before neither is to be believed


@with_rejections
def next_runs(
    target: Decision | Mapping[str, float],
    *fits: "Fit",
    candidates: pd.DataFrame | None = None,
    k: int = 1,
    level: float = 0.9,
) -> Decision:
    """The `k` runs expected to narrow the interval of a decision, or of a prediction, most per unit of cost.

    Args:
      target: a decision made from these fits, whose first coordinate (of a mixture, whose shares) is to be made surer;
        or params, tokens and w_<corpus> of a run, whose losses are.
      fits: one for each corpus a run is evaluated on.
      candidates: rows of params, tokens, w_<corpus> and, unless cost is 6 N D FLOPs, `cost`; None: the fitted sizes at
        their most tokens, over the fitted mixes and the middles between them. A candidate may be chosen again, with
        another seed.
      k: how many to choose.
      level: of the interval.

    Returns:
      a Decision whose rows are the chosen runs in order, each with the interval expected after it.

    Raises:
      DecisionError: bad candidates, a decision that no run makes surer, or a corpus of which there is no fit.
    """
    # What a run would tell is counted in parameters: of the laws, not of how they miss.
    fits = tuple(fit.alone() for fit in fits)
    wide = expanded(level, *fits)
    for fit in fits:
        check_parameters(fit)
    if k < 1:
        raise DecisionError(f"k {k}: choose at least one run")
    if not isinstance(target, Decision):
        check_candidates(pd.DataFrame([dict(target)]), "the run to predict")
        for fit in fits:
            check_identified(fit, (), _asked(fit, target), "what this run would give")
    kept, warnings = paired(*fits)
    table = check_candidates(default_candidates(fits) if candidates is None else candidates.reset_index(drop=True))
    known = posteriors(target, kept, table)
    cost = table["cost"].to_numpy(dtype=float)
    chosen, left = choose(known, cost, k)

    name, half = _width(target, kept, wide)
    linear = NormalDist().inv_cdf((1 + wide) / 2) * math.sqrt(float(np.median(_variance(known))))
    if not 1 / UNLIKE < linear / max(half, 1e-300) < UNLIKE:
        warnings += (
            f"the runs hardly settle the {name} yet: its resamples reach {half:.2g} to either side, the laws' "
            f"derivatives {linear:.2g}. Take the widths as a guide, and ask again after these runs",
        )
    shown = [c for c in map(str, table) if c in ("params", "tokens", "cost") or c.startswith("w_")]
    rows = [
        {c: float(table[c][index]) for c in shown}
        | {"interval shrinks to": float(shrink), f"{name} +/-": float(shrink * half)}
        for index, shrink in zip(chosen, np.sqrt(left))
    ]
    total = float(cost[chosen].sum())
    by_chance = _at_random(known, cost, total)
    kind = target.kind if isinstance(target, Decision) else "prediction"
    return Decision(
        kind="next",
        question=f"Which {'run' if k == 1 else f'{k} runs'} next would make the {name} of this {kind} surer?",
        answer=f"{_run_in_words(rows[0])}{f', then {k - 1} more' if k > 1 else ''}: the {level:.0%} "
        f"interval of the {name} is expected to shrink to {rows[-1]['interval shrinks to']:.0%} of its width (random "
        f"runs of this cost: {by_chance:.0%}).",
        inputs={"about": kind, "k": k, "cost": total, "candidates": len(table), "random": by_chance},
        point={},
        level=level,
        rows=tuple(rows),
        warnings=warnings,
    )


def _asked(fit: "Fit", run: Mapping[str, float]) -> dict[str, float]:
    """The columns of the fit's law that are given of a run."""
    own = {"ratio": run[f"w_{fit.eval}"]} if f"w_{fit.eval}" in run else {}
    return {name: value for name, value in {**own, **run}.items() if name in fit.law.columns}


def default_candidates(fits: Sequence["Fit"]) -> pd.DataFrame:
    """The fitted sizes at their most tokens, over the fitted mixes and the middles of their pairs."""
    rows = pd.concat([fit.residuals for fit in fits], ignore_index=True)
    names = [f"w_{name}" for name in runs.corpora(rows)]
    if not names or not np.allclose(rows[names].sum(axis=1, skipna=False), 1, atol=runs.SHARE_TOLERANCE):
        raise DecisionError("the fitted rows lack shares; give candidates: params, tokens, w_<corpus>")
    fitted = np.unique(rows[names].to_numpy().round(6), axis=0)
    fitted = np.random.default_rng(0).permutation(fitted)[:MIXES]
    first, second = np.triu_indices(len(fitted))  # a mix with itself is that mix
    mixes = np.unique(((fitted[first] + fitted[second]) / 2).round(6), axis=0)
    table = pd.DataFrame(mixes / mixes.sum(axis=1, keepdims=True), columns=names)
    if {"params", "tokens"} <= set(rows):
        sizes = pd.DataFrame({"params": np.unique(rows["params"]), "tokens": rows["tokens"].max()})
        table = sizes.merge(table, how="cross")
    return check_candidates(table)


def check_candidates(table: pd.DataFrame, what: str = "candidates") -> pd.DataFrame:
    """The candidates with their cost; refuses bad ones."""
    names = [f"w_{name}" for name in runs.corpora(table)]
    if len(table) == 0:
        raise DecisionError(f"{what}: there are none; give rows of params, tokens and w_<corpus>")
    if "cost" not in table:
        sized = {"params", "tokens"} <= set(table)
        table = table.assign(cost=6 * table["params"] * table["tokens"] if sized else 1.0)
    if not (np.isfinite(table["cost"]) & (table["cost"] > 0)).all():
        raise DecisionError(f"{what}: every cost must be positive")
    for name in names:
        for share in table[name]:
            check_share(f"{what}: {name}", share)
    for name, unit in (("params", "parameters"), ("tokens", "tokens")):
        for value in table.get(name, ()):
            check_positive(f"{what}: {name}", value, unit)
    total = table[names].sum(axis=1)
    if len(bad := table.index[(total - 1).abs() > runs.SHARE_TOLERANCE]) and names:
        raise DecisionError(f"{what}: row {bad[0]}: shares sum to {total[bad[0]]:g}, not 1")
    return table


def choose(known: Sequence[Posterior], cost: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """Greedy choice of `k` candidates by the part of the variance explained per cost, in the mean over basins.

    Returns:
      indices of the candidates, and the part of the variance left after each.
    """
    chosen, left = [], []
    start = _variance(known)
    for _ in range(k):
        explained = np.sum([one.explained() for one in known], axis=0) / start[:, None]
        chosen.append(int(np.argmax(explained.mean(axis=0) / cost)))
        known = [one.after(chosen[-1]) for one in known]
        left.append(float(np.mean(_variance(known) / start)))
    return chosen, left


def _variance(known: Sequence[Posterior]) -> np.ndarray:
    """(B,) of the target, over all fits."""
    return np.sum([one.variance() for one in known], axis=0)


def _at_random(known: Sequence[Posterior], cost: np.ndarray, total: float) -> float:
    """Mean shrinkage of the interval by random candidates of the same total cost, the last one counted by its part."""
    rng = np.random.default_rng(0)
    start, found = _variance(known), []
    for _ in range(RANDOM):
        left, now, share = total, known, 1.0
        while left > 0:
            index = int(rng.integers(len(cost)))
            now = [one.after(index) for one in now]
            after = float(np.mean(_variance(now) / start))
            share += min(1.0, left / cost[index]) * (after - share)
            left -= cost[index]
        found.append(math.sqrt(max(share, 0.0)))
    return float(np.mean(found))


def _width(target: Decision | Mapping[str, float], fits: Sequence["Fit"], level: float) -> tuple[str, float]:
    """What is to be made surer, and half its interval now (of several coordinates, the widest)."""
    if not isinstance(target, Decision):
        at = pd.DataFrame([dict(target)])
        spans = [interval(losses(fit, columns(fit, at))[1:, 0], level) for fit in fits]
        return "loss", max((high - low) / 2 for low, high in spans)
    if not target.samples:
        raise DecisionError(f"a {target.kind} has no coordinate to make surer")
    names = list(target.samples) if target.kind == "mixture" else list(target.samples)[:1]
    widths = [np.ptp(interval(target.samples[name], level)) / 2 for name in names]
    return names[0] if len(names) == 1 else "shares", float(max(widths))


def _run_in_words(row: Mapping[str, Any]) -> str:
    """Size, tokens and shares of a candidate, as far as it has them."""
    sizes = [f"{count(row[c])} {word}" for c, word in (("params", "parameters"), ("tokens", "tokens")) if c in row]
    shares = " ".join(f"{c.removeprefix('w_')} {percent(row[c])}" for c in row if c.startswith("w_"))
    return ", ".join([*sizes, shares])
