"""Which experiment to run next: the one expected to make a decision surer, for its cost.

The resamples are draws of (decision, every candidate's losses) together. Seeing a candidate's losses would shrink the
decision's variance by what they explain of it, noise allowed for; the best candidate per unit of cost is taken, the
draws' covariance is conditioned on it, and the next is chosen. No single optimum is trusted: other basins count too.
This is the target-aware design of Li et al. 2026 (arXiv 2604.22753) with the bootstrap in the place of its basins.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.planning import decision as d
from cptlaw.planning import noise
from cptlaw.planning.decision import Decision, DecisionError

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

CHECKPOINTS = (0.25, 0.5, 1.0)  # of a candidate's tokens: where its losses would be read
RANDOM = 200  # random choices the chosen ones are compared with


def next_runs(
    decision: Decision,
    *fits: "Fit",
    candidates: pd.DataFrame | None = None,
    k: int = 1,
    level: float = 0.9,
) -> Decision:
    """The `k` runs expected to narrow the decision's interval most per unit of cost.

    Args:
      decision: made from these fits; the first of its coordinates is the one to make surer.
      fits: one for each corpus a run is evaluated on.
      candidates: rows of params, tokens, w_<corpus> and, unless cost is 6 N D FLOPs, `cost`; None: the fitted sizes and
        most tokens, at the fitted shares and between them. A candidate may be chosen again, with another seed.
      k: how many to choose.
      level: of the interval.

    Returns:
      a Decision whose rows are the chosen runs in order, each with the interval expected after it.
    """
    d.check_level(level)
    if k < 1:
        raise DecisionError(f"k {k}: choose at least one run")
    if not decision.samples:
        raise DecisionError(f"a {decision.kind} has no coordinate to make surer")
    table = default_candidates(fits) if candidates is None else candidates.reset_index(drop=True)
    _check(table)
    name, target = next(iter(decision.samples.items()))
    keep = np.all([np.isfinite(values) for fit in fits for values in fit.samples.values()], axis=0)
    if len(target) == len(keep):
        target = target[keep]
    paired, warnings = d.paired(*fits)
    if len(target) != d.draws(paired[0]):
        raise DecisionError("the decision was not made from these fits: their resamples differ in number")
    good = np.isfinite(target)
    draws = np.concatenate([_losses(paired, table)[good], target[good, None]], axis=1)
    covariance = np.cov(draws, rowvar=False)
    if not covariance[-1, -1] > 0:
        raise DecisionError(f"every resample gives the same {name}: no run can make it surer")
    error = _noise_covariance(paired)
    cost = table["cost"].to_numpy(dtype=float)
    chosen, variances = choose(covariance, error, cost, k)

    low, high = d.interval(target, level)
    sd = math.sqrt(covariance[-1, -1])
    rows: list[dict[str, Any]] = []
    for index, variance in zip(chosen, variances):
        shrink = math.sqrt(variance) / sd
        shown = {
            c: float(table[c][index]) for c in table if c in ("params", "tokens", "cost") or str(c).startswith("w_")
        }
        rows.append({**shown, "interval shrinks to": shrink, f"{name} +/-": shrink * (high - low) / 2})
    total = float(cost[chosen].sum())
    by_chance = _at_random(covariance, error, cost, total)
    shares = " ".join(f"{c[2:]} {d.percent(rows[0][c])}" for c in rows[0] if c.startswith("w_"))
    what = f"{d.count(rows[0]['params'])} parameters, {d.count(rows[0]['tokens'])} tokens, {shares}"
    return Decision(
        kind="next",
        question=f"Which {'run' if k == 1 else f'{k} runs'} next would make the {name} of this {decision.kind} surer?",
        answer=f"{what}{f', then {k - 1} more' if k > 1 else ''}: the {level:.0%} interval of the {name} is expected "
        f"to shrink to {rows[-1]['interval shrinks to']:.0%} of its width (random runs of this cost: {by_chance:.0%}).",
        inputs={"about": decision.kind, "k": k, "cost": total, "candidates": len(table), "random": by_chance},
        point={},
        level=level,
        rows=tuple(rows),
        warnings=warnings,
    )


def default_candidates(fits: Sequence["Fit"]) -> pd.DataFrame:
    """The fitted sizes at their most tokens, over the fitted shares and the middles between them."""
    rows = pd.concat([fit.residuals for fit in fits], ignore_index=True)
    names = [f"w_{name}" for name in runs.corpora(rows)]
    if len(names) != 2 or rows[names].isna().any(axis=None):
        raise DecisionError("candidates are made for mixes of two corpora; give your own: params, tokens, w_<corpus>")
    seen = np.unique(rows[names[0]].round(6))
    shares = np.union1d(seen, (seen[1:] + seen[:-1]) / 2)
    most = rows["tokens"].max()
    grid = [(n, most, s, 1 - s) for n in np.unique(rows["params"]) for s in shares]
    table = pd.DataFrame(grid, columns=["params", "tokens", *names])
    return table.assign(cost=6 * table["params"] * table["tokens"])


def choose(covariance: np.ndarray, error: np.ndarray, cost: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """Greedy choice of `k` candidates by variance explained per cost; (indices, variance left after each).

    Args:
      covariance: (C m + 1, C m + 1) of C candidates' m losses each, and the decision last.
      error: (m, m) noise covariance of one candidate's losses.
      cost: (C,).
    """
    chosen, left = [], []
    for _ in range(k):
        explained = _explained(covariance, error)
        best = int(np.argmax(explained / cost))
        covariance = _condition(covariance, error, best)
        chosen.append(best)
        left.append(max(float(covariance[-1, -1]), 0.0))
    return chosen, left


def _explained(covariance: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(C,) variance of the decision that each candidate's losses would explain."""
    m = len(error)
    count = (len(covariance) - 1) // m
    blocks = np.stack([covariance[i * m : (i + 1) * m, i * m : (i + 1) * m] for i in range(count)]) + error
    cross = covariance[-1, :-1].reshape(count, m)
    return np.einsum("cm,cm->c", cross, np.linalg.solve(blocks, cross[..., None])[..., 0])


def _condition(covariance: np.ndarray, error: np.ndarray, index: int) -> np.ndarray:
    """Covariance after seeing one candidate's losses (a repeat of it has noise of its own)."""
    m = len(error)
    seen = slice(index * m, (index + 1) * m)
    gain = np.linalg.solve(covariance[seen, seen] + error, covariance[seen])
    return covariance - covariance[:, seen] @ gain


def _at_random(covariance: np.ndarray, error: np.ndarray, cost: np.ndarray, total: float) -> float:
    """Mean shrinkage of the interval by random candidates of the same total cost, the last one counted by its part."""
    rng = np.random.default_rng(0)
    start, found = covariance[-1, -1], []
    for _ in range(RANDOM):
        left, now = total, covariance
        while left > 0:
            index = int(rng.integers(len(cost)))
            part = min(1.0, left / cost[index])
            after = _condition(now, error, index)
            variance = now[-1, -1] + part * (after[-1, -1] - now[-1, -1])
            now, left = after, left - cost[index]
        found.append(math.sqrt(max(variance, 0.0) / start))
    return float(np.mean(found))


def _losses(fits: Sequence["Fit"], table: pd.DataFrame) -> np.ndarray:
    """(S, C m) losses of every candidate at its checkpoints, all fits."""
    parts = []
    for fit in fits:
        for part in CHECKPOINTS:
            x = {str(c): table[c].to_numpy(dtype=float) for c in table}
            x |= {"tokens": x["tokens"] * part, "ratio": runs.ratio(table, d.corpus(fit)).to_numpy(dtype=float)}
            parts.append(d.losses(fit, {c: x[c] for c in fit.law.columns if c in x})[1:])
    stacked = np.stack(parts, axis=2)
    return stacked.reshape(len(stacked), -1)


def _noise_covariance(fits: Sequence["Fit"]) -> np.ndarray:
    """(m, m) noise of one run's losses: its checkpoints share the run's part, corpora do not."""
    n = len(CHECKPOINTS)
    out = np.zeros((n * len(fits), n * len(fits)))
    for i, fit in enumerate(fits):
        run, checkpoint = noise.of_fit(fit)
        out[i * n : (i + 1) * n, i * n : (i + 1) * n] = run**2 + np.eye(n) * max(checkpoint, 1e-5) ** 2
    return out


def _check(table: pd.DataFrame) -> None:
    for name in ("params", "tokens"):
        if name not in table:
            raise DecisionError(f"candidates have no column {name!r}: give params, tokens and w_<corpus>")
    if "cost" not in table:
        table["cost"] = 6 * table["params"] * table["tokens"]
    if not (np.isfinite(table["cost"]) & (table["cost"] > 0)).all():
        raise DecisionError("candidates: every cost must be positive")
    total = table[[f"w_{name}" for name in runs.corpora(table)]].sum(axis=1)
    if len(bad := table.index[(total - 1).abs() > runs.SHARE_TOLERANCE]):
        raise DecisionError(f"candidates: row {bad[0]}: shares sum to {total[bad[0]]:g}, not 1")
