"""Rank laws, and the rivals that need none, on rows they were not fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import laws, runs
from cptlaw.errors import UserError
from cptlaw.fitting import estimate, folds, rivals
from cptlaw.fitting.bootstrap import run_counts
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.result import FitError
from cptlaw.fitting.rows import Rows, collect, evaluated
from cptlaw.fitting.scores import score
from cptlaw.laws import Law


@dataclass(frozen=True)
class Comparison:
    """Best first. `table`: name, parameters, score columns, `behind` the best in mean log error with its interval.

    `folds` are what was held out, `refused` maps a law that could not be fitted to the reason, `errors` holds each
    candidate's absolute log error (rows,), NaN where no fold held the row out.
    """

    table: pd.DataFrame
    folds: list[str]
    refused: dict[str, str]
    errors: dict[str, np.ndarray]


def compare(
    table: pd.DataFrame,
    candidates: Sequence[str | Law],
    eval: str | Sequence[str] | None = None,
    *,
    fold: str = "forward",
    shared: Sequence[str] = (),
    objective: str = "huber",
    delta: float = 1e-3,
    starts: int = estimate.FOLD_STARTS,
    bootstrap: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    progress: bool = False,
) -> Comparison:
    """Fits every law on every fold and scores it on the rows left out.

    Args:
      fold: one of `cptlaw.fitting.folds.NAMES`.
      bootstrap: resamples of runs for the paired differences to the best.

    Raises:
      UserError: bad table or folds, or no law that can be fitted.
    """
    runs.check(table)
    corpora = evaluated(table, eval)
    predicted: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    refused: dict[str, str] = {}
    held: list[folds.Fold] = []
    rows: Rows | None = None
    with estimate.bar(progress, len(candidates), "laws") as tick:
        for candidate in candidates:
            name = candidate if isinstance(candidate, str) else candidate.name
            try:
                law = laws.for_table(candidate, table) if isinstance(candidate, str) else candidate
                chosen = laws.joint(law, corpora, shared) if len(corpora) > 1 else law
                own = collect(table, chosen, corpora)
                held = folds.make(fold, own)
                values = np.full(len(own.y), np.nan)
                for _, mask in held:
                    left = replace(own, held_out=mask)
                    problem = estimate.pose(left, chosen, Objective(objective, delta), {})
                    theta = estimate.optimise(problem, left.fitted, starts, seed).theta
                    values[mask] = np.asarray(chosen.predict(problem.reported(theta), own.x), float)[mask]
                predicted[name], sizes[name], rows = values, len(chosen.params), own
            except UserError as error:
                refused[name] = str(error)
            if tick:
                tick(1)
    if rows is None:
        raise FitError("no law could be fitted: " + "; ".join(f"{k}: {v}" for k, v in refused.items()))
    for _, mask in held:
        for name, one in rivals.predict(rows.frame[~mask], rows.frame[mask]).items():
            predicted.setdefault(name, np.full(len(rows.y), np.nan))[mask] = one
            sizes.setdefault(name, 0)
    scored = np.any([mask for _, mask in held], axis=0)
    predicted = {name: value for name, value in predicted.items() if np.isfinite(value[scored]).all()}
    errors = {name: np.abs(np.log(value) - np.log(rows.y)) for name, value in predicted.items()}
    order = sorted(predicted, key=lambda name: np.nanmean(errors[name]))
    counts = run_counts(bootstrap, len(rows.runs), seed)[:, rows.run][:, scored]
    lines: list[dict[str, Any]] = []
    for name in order:
        gap = (errors[name] - errors[order[0]])[scored]
        with np.errstate(invalid="ignore"):
            drawn = counts @ gap / counts.sum(axis=1)
        low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        lines.append(
            {
                "name": name, "parameters": sizes[name], **score(rows.y[scored], predicted[name][scored]),
                "behind": float(gap.mean()), "behind_low": float(low), "behind_high": float(high),
            }
        )  # fmt: skip
    return Comparison(pd.DataFrame(lines), [what for what, _ in held], refused, errors)
