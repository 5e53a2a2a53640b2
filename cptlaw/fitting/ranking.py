"""Rank laws, and the rivals that need none, on rows they were not fitted to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from cptlaw.progress import bar_of_fits


@dataclass(frozen=True)
class Comparison:
    """Best first. `table`: name, parameters, score columns, `behind` the best in mean log error with its interval.

    `folds` are what was held out, `refused` maps a law that could not be fitted to the reason, `errors` holds each
    candidate's absolute log error (rows,), NaN where no fold held the row out. Scores rest on `scored` rows of `runs`
    runs. Rivals that predict the same are one line; `alike` names them, as "a = b".
    """

    table: pd.DataFrame
    folds: list[str]
    refused: dict[str, str]
    errors: dict[str, np.ndarray]
    scored: int
    runs: int
    alike: list[str]

    def headline(self) -> str:
        """Whether the best law beats the best rule without a law."""
        ours, others = self.table[self.table["parameters"] > 0], self.table[self.table["parameters"] == 0]
        if ours.empty or others.empty:
            return "Nothing can be compared: no law, or no rule without a law, predicts every row."
        law, rival = ours.iloc[0], others.iloc[0]
        verdict = "beats" if law["mean_log"] < rival["mean_log"] else "loses to"
        return (
            f"{law['name']} errs by {law['mean_log']:.2%} and {verdict} the best rule without a law, {rival['name']}, "
            f"which errs by {rival['mean_log']:.2%}."
        )


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
    if seed < 0:
        raise FitError("--seed must be 0 or more")
    runs.check(table)
    corpora = evaluated(table, eval)
    predicted: dict[str, np.ndarray] = {}
    sizes: dict[str, int] = {}
    refused: dict[str, str] = {}
    held: list[folds.Fold] = []
    rows: Rows | None = None
    with bar_of_fits(progress, len(candidates), "laws") as tick:
        for candidate in candidates:
            name = candidate if isinstance(candidate, str) else candidate.name
            try:
                law = laws.for_table(candidate, table) if isinstance(candidate, str) else candidate
                chosen = laws.joint(law, corpora, shared) if len(corpora) > 1 else law
                own = collect(table, chosen, corpora)
                held = folds.make(fold, own)
                predicted[name] = _left_out(chosen, own, held, Objective(objective, delta), starts, seed)
                sizes[name], rows = len(chosen.params), own
            except UserError as error:
                refused[name] = str(error)
            if tick:
                tick(1)
    if rows is None:
        raise FitError("no law could be fitted: " + "; ".join(f"{k}: {v}" for k, v in refused.items()))
    others: dict[str, np.ndarray] = {}
    for _, mask in held:
        for name, one in rivals.predict(rows.frame[~mask], rows.frame[mask], trees=True).items():
            others.setdefault(name, np.full(len(rows.y), np.nan))[mask] = one
    scored = np.any([mask for _, mask in held], axis=0)
    kept, alike = rivals.distinct({name: value[scored] for name, value in others.items()})
    predicted |= {name: others[name] for name in kept}
    sizes |= dict.fromkeys(kept, 0)
    predicted = {name: value for name, value in predicted.items() if np.isfinite(value[scored]).all()}
    errors = {name: np.abs(np.log(value) - np.log(rows.y)) for name, value in predicted.items()}
    counts = run_counts(bootstrap, len(rows.runs), seed)[:, rows.run][:, scored]
    behind = _behind({name: error[scored] for name, error in errors.items()}, counts, level)
    lines = [
        {"name": name, "parameters": sizes[name], **score(rows.y[scored], predicted[name][scored]), **gap}
        for name, gap in behind.items()
    ]
    of_runs = len(np.unique(rows.run[scored]))
    made = [what for what, _ in held]
    return Comparison(pd.DataFrame(lines), made, refused, errors, int(scored.sum()), of_runs, alike)


def _left_out(law: Law, rows: Rows, held: list[folds.Fold], objective: Objective, starts: int, seed: int) -> np.ndarray:
    """The law's predictions (rows,) of every row that a fold leaves out, from a fit without that fold; else NaN."""
    values = np.full(len(rows.y), np.nan)
    for _, mask in held:
        left = replace(rows, held_out=mask)
        problem = estimate.pose(left, law, objective, {})
        left, _ = estimate.weighted(problem, left, seed)
        theta = estimate.optimise(problem, left.weights, starts, seed).theta
        values[mask] = np.asarray(law.predict(problem.reported(theta), rows.x), float)[mask]
    return values


def _behind(errors: dict[str, np.ndarray], counts: np.ndarray, level: float) -> dict[str, dict[str, float]]:
    """Candidate -> how far its mean error is behind the best's, with an interval over resampled runs; best first.

    Args:
      errors: candidate -> absolute log error (rows,).
      counts: how often each resample draws each row, (resamples, rows); the same draws for all, so gaps are paired.
    """
    order = sorted(errors, key=lambda name: errors[name].mean())
    out = {}
    for name in order:
        gap = errors[name] - errors[order[0]]
        with np.errstate(invalid="ignore"):  # a resample may draw no scored row
            drawn = counts @ gap / counts.sum(axis=1)
        low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        out[name] = {"behind": float(gap.mean()), "behind_low": float(low), "behind_high": float(high)}
    return out
