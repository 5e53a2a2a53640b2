"""Which runs an answer depends on most: the same decision with each run taken out.

A fit keeps how far every run moves its parameters: exactly for small tables, by implicit differentiation for large
ones. So one decision over "resamples" that are the fit without each run answers for all runs at once. `leave_one_out`
fits again without each run instead, from many starts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from cptlaw.planning.decision import Decision, DecisionError

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

MOST = 5
Question = ParamSpec("Question")


def with_influence(decide: Callable[Question, Decision]) -> Callable[Question, Decision]:
    """Adds to a question's decisions the runs whose removal moves the first coordinate most. Fits are positional."""

    @functools.wraps(decide)
    def decided(*fits: Question.args, **question: Question.kwargs) -> Decision:
        decision = decide(*fits, **question)
        runs = _runs(fits)
        if len(runs) < 2 or not decision.samples:
            return decision
        moved: list[Any] = [None if fit is None else without(fit, runs) for fit in fits]  # type: ignore[arg-type]
        try:
            return _told(decision, decide(*moved, **question), runs)
        except DecisionError:  # the law alone may not meet what the corrected one does
            return decision

    return decided


def without(fit: "Fit", runs: list[str]) -> "Fit":
    """The law alone with one draw a run: its parameters without that run, kept within their bounds."""
    bounds = {p.name: (p.low, p.high) for p in fit.law.params}
    samples = {}
    for name in fit.samples:
        moved = [fit.params[name] - fit.influence.get(run, {}).get(name, 0.0) for run in runs]
        samples[name] = np.clip(np.array(moved, dtype=float), *bounds.get(name, (-np.inf, np.inf)))
    return dataclasses.replace(fit.alone(), samples=samples)


def leave_one_out(decide: Callable[..., Decision], *fits: "Fit", progress: bool = False, **question: Any) -> Decision:
    """`decide(*fits, **question)` with its influential runs found by fitting again, once for each run and corpus."""
    from tqdm import tqdm

    runs, decision = _runs(fits), decide(*fits, **question)
    name = next(iter(decision.point))
    without = []
    with tqdm(total=len(runs), desc="leave one run out", unit="run", disable=None if progress else True) as bar:
        for run in runs:
            try:
                without.append(decide(*(_refitted(fit, run) for fit in fits), **question).point[name])
            except DecisionError:  # without it nothing meets what was asked
                without.append(np.nan)
            bar.update()
    return _listed(decision, name, np.array(without, float), runs)


def _refitted(fit: "Fit", run: str) -> "Fit":
    from cptlaw import fitting

    # Rows held out keep their place with no weight, so every refit has one shape and compiles once.
    out = fit.residuals["held_out"].to_numpy(dtype=bool) | (fit.residuals["run"] == run).to_numpy()
    settings = {name: fit.settings[name] for name in ("fixed", "objective", "delta", "seed")}
    table = fit.residuals.drop(columns=["observed", "predicted", "held_out"])
    found = fitting.fit(table, fit.law, fit.eval, bootstrap=0, hold_out=out, **settings)
    if fit.process:
        return found
    # Of the law alone a decision wants draws; two that are the point itself do.
    samples = {name: np.full(2, found.params[name]) for name in fit.samples}
    return dataclasses.replace(found.alone(), samples=samples)


def _runs(fits: Any) -> list[str]:
    return list(dict.fromkeys(run for fit in fits if fit is not None for run in fit.influence))


def _told(decision: Decision, moved: Decision, runs: list[str]) -> Decision:
    """The decision with the runs that move its first coordinate most; draw i of `moved` is that without run i.

    A run moves the decision by as much as it moves that of the law alone.
    """
    name, found = next(iter(moved.samples.items()))
    return _listed(decision, name, decision.point[name] + found - moved.point[name], runs)


def _listed(decision: Decision, name: str, without: np.ndarray, runs: list[str]) -> Decision:
    shift = without - decision.point[name]
    order = [i for i in np.argsort(-np.abs(np.nan_to_num(shift)))[:MOST] if np.nan_to_num(shift[i])]
    rows = tuple({"run": runs[i], f"{name} without it": float(without[i]), "change": float(shift[i])} for i in order)
    return dataclasses.replace(decision, influence=rows)
