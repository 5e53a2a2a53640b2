"""Resamples as row weights or as new losses; the fitted rows never move, so one compiled program serves all."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cptlaw.errors import UserError
from cptlaw.fitting.rows import Rows

KINDS = {
    "runs": "draw runs with replacement, all their rows together",
    "domains": "draw domains with replacement, all their runs together: what a domain not yet seen may be like",
    "rows": "draw rows with replacement (understates: checkpoints of a run are correlated)",
    "residuals": "keep every row, add log residuals drawn from the fit's own",
    "parametric": "keep every row, add normal log residuals of the fit's spread",
}
OfLanes = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Resamples:
    """Weights and losses of each resample, as functions from resample indices to (indices, rows); None: unchanged."""

    weights: OfLanes
    y: OfLanes | None = None


def run_counts(count: int, runs: int, seed: int) -> np.ndarray:
    """How often each run is drawn, (count, runs). Depends on nothing else, so fits on one table are paired."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(runs, np.full(runs, 1 / runs), size=count).astype(float)


def draw(kind: str, count: int, rows: Rows, predicted: np.ndarray, seed: int) -> Resamples:
    """`count` resamples of one of `KINDS`; `predicted` are the fit's losses (rows,). Held-out rows weigh nothing."""
    rng = np.random.default_rng(seed)
    base = rows.weights
    fitted = np.flatnonzero(rows.fitted)
    if kind == "runs":
        counts = run_counts(count, len(rows.runs), seed)
        return Resamples(lambda i: counts[i][:, rows.run] * base)
    if kind == "domains":
        if "mixed_in" not in rows.frame or rows.frame["mixed_in"].nunique() < 2:
            raise UserError("no two domains to draw from: make the table with cptlaw.runs.by_domain (--by-domain)")
        code, names = pd.factorize(rows.frame["mixed_in"], sort=True)
        counts = run_counts(count, len(names), seed)
        return Resamples(lambda i: counts[i][:, code] * base)
    if kind == "rows":
        drawn = np.zeros((count, len(base)))
        drawn[:, fitted] = rng.multinomial(len(fitted), np.full(len(fitted), 1 / len(fitted)), size=count)
        return Resamples(lambda i: drawn[i] * base)
    residual = np.log(rows.y[fitted]) - np.log(predicted[fitted])
    if kind == "residuals":
        noise = rng.choice(residual - residual.mean(), (count, len(base)))
    elif kind == "parametric":
        noise = rng.normal(0, residual.std(), (count, len(base)))
    else:
        raise UserError(f"no bootstrap {kind!r}; there are {', '.join(KINDS)}")
    return Resamples(lambda i: np.broadcast_to(base, (len(i), len(base))), lambda i: predicted * np.exp(noise[i]))
