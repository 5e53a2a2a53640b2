"""`fit`: a runs table and a law become a `Fit`."""

import functools
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

import cptlaw
from cptlaw import laws, runs
from cptlaw.fitting import bootstrap as resampling
from cptlaw.fitting import diagnose, folds, lack_of_fit, precision, remedies, rivals, sensitivity
from cptlaw.fitting.condition import condition
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.process import Process
from cptlaw.fitting.result import AUTO, Fit, FitError
from cptlaw.fitting.rows import Rows, bases, collect, domains, evaluated, with_factor
from cptlaw.fitting.scores import score
from cptlaw.fitting.solver import CODES, Problem, Solution, draw_starts, objectives_at, solve
from cptlaw.fitting.verdicts import Tried
from cptlaw.laws import Law
from cptlaw.laws.factor import COLUMN
from cptlaw.progress import bar_of_fits
from cptlaw.words import count

STARTS = 64
FOLD_STARTS = 16
LEAST_CONDITIONED = 3  # rows, below which nothing can be said of how a law misses
SAME = 1e-4  # relative difference of objectives below which two optima are one
RESAMPLE_TOLERANCE = 1e-7  # moves quantiles by about 1% of an interval's width, against 1e-9
CHECKED, CHECK_TOLERANCE = 32, 1e-6  # resamples that also start cold, and how far that is followed
BASINS = 6  # other optima that a resample, or a table of many rows, may be better at
WITHIN = 0.02  # relative; a basin must start so near the best, to be followed
EVALUATED = 1 << 22  # rows times resamples evaluated at once
STARTED = 4096  # rows, drawn from a longer table, on which starts run before the best go on with all rows
SCORED, RIVALLED = 400, 20_000  # held-out rows, and rows in all, of whole runs, that law and rivals are scored with


@dataclass(frozen=True)
class Optimum:
    """The best of many starts.

    Attributes:
      theta: parameters (P,), as solved for.
      value, code: its objective, and how it ended (an index into `newton.CODES`).
      starts: how all starts ended.
      agree: share of the starts that reached this objective.
    """

    theta: np.ndarray
    value: float
    code: int
    starts: Solution
    agree: float


def fit(
    table: pd.DataFrame,
    law: str | Law = "dcpt",
    eval: str | Sequence[str] | None = None,
    *,
    shared: Sequence[str] = (),
    factor: str | None = None,
    fixed: Mapping[str, float] | None = None,
    objective: str = "huber",
    delta: float = 1e-3,
    bootstrap: int = 1000,
    resample: str | None = None,
    hold_out: str | ArrayLike | None = None,
    starts: int | np.ndarray = STARTS,
    seed: int = 0,
    try_remedies: bool = False,
    progress: bool = False,
) -> Fit:
    """Fits a law to the losses of one evaluated corpus, or jointly to several.

    Args:
      table: a runs table (`cptlaw.runs`).
      law: a `Law`, a built-in's name (with options, `dcpt:constrained=false`), `FILE.py:NAME`, or "auto": the one that,
        under the process, best predicted the table's own later rows (`cptlaw.fitting.choose`).
      eval: corpus, or several: `shared` parameters (or "all") are then common and the others per corpus, `E[code]`.
      factor: a column of the table whose levels get an offset each (`cptlaw.laws.factor`).
      fixed: parameters held at a value (reported units), not fitted.
      objective, delta: see `cptlaw.fitting.objective.NAMES`.
      bootstrap: number of resamples; 0 for none.
      resample: one of `bootstrap.KINDS`. None: over domains where the law reads their learnability and the table has
        several (`runs.by_domain`), else over runs.
      hold_out: rows kept for scoring: a condition or a boolean per row. None: the forward fold (the largest size, or
        the last tokens) is scored by a second fit without it, and the law is fitted on all rows.
      starts: how many, or an array (starts, fitted parameters).
      try_remedies: where the table rejects the law, try what may help (`cptlaw.fitting.trials`), up to a minute.

    Raises:
      UserError: bad table, law, corpus or rows; the message says what to do.
    """
    if bootstrap < 0 or seed < 0 or (isinstance(starts, int) and starts < 1):
        raise FitError("--bootstrap and --seed must be 0 or more, and --starts 1 or more")
    reading = table.attrs.get("reading")  # how `runs.read` was asked to read it, so that others can read it again
    table, left_out = runs.plain(table)
    warnings = runs.check(table) + left_out + runs.undertrained(table)
    digest = runs.digest(table)
    corpora = evaluated(table, eval)
    rebased = _rebased(table, corpora)
    warnings += [
        f"{name}: the losses are as if every run had started from a base model whose loss is {loss:.4f}; ask of runs "
        "from that one alone"
        for name, loss in rebased.items()
    ]
    if sizes := _sizes(table):
        told = ", ".join(f"{count(float(actual))} as {count(worth)}" for actual, worth in sizes.items())
        warnings.append(
            f"sizes are those at which the ladder of base models has a base's own loss: {told}; intervals do not "
            "count how far such a size is off"
        )
    auto: dict[str, Any] = {}
    if law == AUTO:
        law, auto = _automatic(table, corpora, hold_out, factor, seed, progress)
    made = with_factor(laws.for_table(law, table) if isinstance(law, str) else law, table, factor, corpora)
    chosen = laws.joint(made, corpora, shared) if len(corpora) > 1 else made
    rows = collect(table, chosen, corpora, hold_out)
    problem = pose(rows, chosen, Objective(objective, delta), dict(fixed or {}))
    rows, loss_se = weighted(problem, rows, seed)
    best = optimise(problem, rows.weights, starts, seed, progress)
    predicted = np.asarray(chosen.predict(problem.reported(best.theta), rows.x), float)
    refuted = remedies.lifted_constraint(problem, rows, best.theta, made, shared, seed)
    warnings += refuted or [*remedies.moved_by_rows(problem, rows, best.theta), *_warn_of_starts(best)]

    bootstrap = bootstrap if problem.free else 0
    resample = resample or _unit(rows, chosen)
    samples = {name: np.empty(0) for name in chosen.names}
    codes = {"starts": _count(best.starts.code)} if problem.free else {}
    if bootstrap:
        drawn, code = _resample(problem, rows, best, predicted, bootstrap, resample, seed, progress)
        samples, codes["resamples"] = {name: drawn[name] for name in chosen.names}, _count(code)
        if failed := int(np.isnan(drawn[chosen.names[0]]).sum()):
            warnings.append(f"{failed} of {bootstrap} resamples failed and are left out of the intervals")

    scores: dict[str, Any] = {"fit": {**score(rows.y[rows.fitted], predicted[rows.fitted]), "objective": best.value}}
    condition_on = Conditioning(made, corpora)
    scores["held_out"], note = _held_out(problem, rows, predicted, best, hold_out, seed, condition_on)
    warnings += note
    tested = lack_of_fit.examine(problem, rows, best.theta)
    tried: tuple[Tried, ...] = ()
    if try_remedies and (against := [corpus for corpus, one in tested.items() if one.rejected]):
        from cptlaw.fitting import trials

        tried = trials.tried(rows.frame[rows.fitted], made, against, fixed=fixed, seed=seed, progress=progress)
    rests = diagnose.rests(problem, rows)
    warnings += diagnose.warnings(problem, rows, best.theta, rests, bool(refuted))
    return Fit(
        law=chosen,
        eval=corpora[0] if len(corpora) == 1 else corpora,
        params={name: float(value) for name, value in problem.reported(best.theta).items()},
        samples=samples,
        codes=codes,
        influence=sensitivity.run_influence(problem, rows, best.theta) if bootstrap else {},
        scores=scores,
        residuals=rows.frame.reset_index(drop=True).assign(
            observed=rows.y, predicted=predicted, held_out=rows.held_out,
            **({COLUMN: rows.x[COLUMN]} if chosen.factor else {}),
        ),
        ranges={k: (float(v[rows.fitted].min()), float(v[rows.fitted].max())) for k, v in rows.x.items()},
        rests=rests,
        n_rows=int(rows.fitted.sum()),
        digest=digest,
        settings={
            "shared": list(shared), "fixed": dict(fixed or {}), "objective": objective, "delta": delta,
            "bootstrap": bootstrap, "resample": resample, "seed": seed, "loss_se": loss_se,
            "hold_out": hold_out if isinstance(hold_out, str) else None,
            **({"rebased_to": rebased} if rebased else {}), **({"sizes": sizes} if sizes else {}),
            **({"reading": reading} if reading else {}),
            **({"factor": {"column": factor, "levels": list(made.factor.levels)}} if made.factor else {}),
            "starts": starts if isinstance(starts, int) else len(starts), **({AUTO: auto} if auto else {}),
        },
        warnings=warnings,
        versions={
            "cptlaw": cptlaw.__version__, "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "numpy", "pandas")},
        },
        command=" ".join(sys.argv),
        process=condition_on.fitted(rows, problem, best.theta),
        lack_of_fit=tested,
        remedies=tried,
    )  # fmt: skip


@dataclass(frozen=True)
class Conditioning:
    """How a fit's rows become a `Process` for each corpus: `law` is the one law, not the joint one."""

    law: Law
    corpora: tuple[str, ...]

    def fitted(self, rows: Rows, problem: Problem, theta: np.ndarray) -> dict[str, Process]:
        """Each corpus's law conditioned on its fitted rows; one of too few rows, or with nothing to move, has none."""
        found = {}
        reported = {name: float(value) for name, value in problem.reported(theta).items()}
        for corpus in self.corpora:
            own = rows.fitted & (rows.frame["eval"] == corpus).to_numpy()
            names = (*self.law.names, *self.law.fixed)
            start = {n: reported.get(f"{n}[{corpus}]", reported.get(n, math.nan)) for n in names}
            held = [n for n in self.law.names if n in problem.fixed or f"{n}[{corpus}]" in problem.fixed]
            frame = rows.frame[own]
            if own.sum() >= LEAST_CONDITIONED and len(held) < len(self.law.names):
                run, base = frame["run"].astype(str).tolist(), bases(frame)
                found[corpus] = condition(
                    self.law, start, self._columns(rows, own), rows.y[own], run, base,
                    domain=domains(frame), weights=rows.weights[own], held=held,
                )  # fmt: skip
        return found

    def predict(self, rows: Rows, problem: Problem, theta: np.ndarray) -> np.ndarray:
        """Losses of the held-out rows (rows,), NaN elsewhere and where a corpus has no process."""
        out = np.full(len(rows.y), np.nan)
        for corpus, process in self.fitted(rows, problem, theta).items():
            asked = rows.held_out & (rows.frame["eval"] == corpus).to_numpy()
            if asked.any():
                frame = rows.frame[asked]
                run = frame["run"].astype(str).to_numpy()
                found = process.predict(self._columns(rows, asked), "run", run, domain=domains(frame))
                out[asked] = np.exp(found.mean)
        return out

    def _columns(self, rows: Rows, which: np.ndarray) -> dict[str, np.ndarray]:
        return {name: rows.x[name][which] for name in self.law.columns}


def _rebased(table: pd.DataFrame, corpora: tuple[str, ...]) -> dict[str, float]:
    """Corpus -> the base's loss that its losses are relative to (`runs.rebased`)."""
    if "rebased_to" not in table:
        return {}
    found = {name: table.loc[table["eval"] == name, "rebased_to"].dropna().unique() for name in corpora}
    if several := [name for name, losses in found.items() if len(losses) > 1]:
        raise FitError(f"column rebased_to: the losses of {several[0]} are rebased to several base models; make it one")
    return {name: float(losses[0]) for name, losses in found.items() if len(losses)}


def _sizes(table: pd.DataFrame) -> dict[str, float]:
    """Parameters of a model -> its equivalent size (`runs.sized_by_base`)."""
    if runs.ACTUAL not in table:
        return {}
    pairs = table[[runs.ACTUAL, "params"]].dropna().drop_duplicates()
    return {f"{actual:.12g}": float(worth) for actual, worth in pairs.itertuples(index=False)}


def _unit(rows: Rows, law: Law) -> str:
    """What is resampled by default: the largest unit that a new question may come from."""
    learnable = any(name in law.columns for name in runs.COEFFICIENTS)
    return "domains" if learnable and len(set(domains(rows.frame) or ())) > 1 else "runs"


def _automatic(
    table: pd.DataFrame, corpora: tuple[str, ...], hold_out: Any, factor: str | None, seed: int, progress: bool
) -> tuple[str, dict[str, Any]]:
    """The name of the law chosen from the rows that are to be fitted, and why."""
    from cptlaw.fitting.choose import choose

    if len(corpora) > 1:
        raise FitError(
            f"law auto is chosen for one corpus at a time, not for {', '.join(corpora)}: fit them one by one"
        )
    if isinstance(hold_out, str):
        table = table.drop(index=runs.select(table, hold_out, "hold-out").index)
    elif hold_out is not None:
        table = table[~np.asarray(hold_out, bool)]
    found = choose(table.reset_index(drop=True), corpora[0], factor=factor, seed=seed, progress=progress)
    shown = [{k: v for k, v in row.items() if v == v} for row in found.table.to_dict("records")]
    return found.law, {"law": found.law, "weights": found.weights, "lost": found.lost, "table": shown}


def weighted(problem: Problem, rows: Rows, seed: int) -> tuple[Rows, str]:
    """The rows with the precision that their `loss_se` gives them, and in words what became of it ("" if none)."""
    error, said = precision.relative(rows)
    if error is None or not problem.free:
        return rows, said
    theta = optimise(problem, rows.weights, FOLD_STARTS, seed).theta
    residual = np.log(rows.y) - np.log(np.asarray(problem.law.predict(problem.reported(theta), rows.x), float))
    return precision.weigh(rows, error, residual)


def pose(rows: Rows, law: Law, objective: Objective, fixed: dict[str, float]) -> Problem:
    """The problem of fitting `law` to the fitted rows. Held-out rows stay in its arrays; the caller weighs them 0.

    Args:
      fixed: reported parameters held at a value. One that the law's constraint derives is held as given, and the
        constraint is not imposed.

    Raises:
      FitError: a fixed parameter is unknown or out of its range, or there are too few rows for the free ones.
    """
    if unknown := [name for name in fixed if name not in law.names]:
        raise FitError(f"law {law.name} has no {', '.join(unknown)} to fix; it has {', '.join(law.names)}")
    for name, value in fixed.items():
        if not law[name].low <= value <= law[name].high:
            raise FitError(f"{name} = {value:g} cannot be fixed: {law.name} has it from {law[name].low:g} to "
                           f"{law[name].high:g}")  # fmt: skip
    train = {k: v[rows.fitted] for k, v in rows.x.items()}
    held = {name: find(train) for name, find in law.fixed.items()}
    if any(name in fixed for name in law.derived):
        law = _unconstrained(law)
    problem = Problem(law, objective, rows.x, rows.y, fixed | held)
    n, p = int(rows.fitted.sum()), len(problem.free)
    if n <= p > 0:
        raise FitError(
            f"{n} rows are too few for the {p} parameters of {law.name}; "
            "give more rows, fix some, or choose a smaller law"
        )
    return problem


@functools.lru_cache(maxsize=64)
def _unconstrained(law: Law) -> Law:
    """The law with its parameters reported as they are solved for. The same law gives the same object."""
    return replace(law, expand=None, derived=())


def optimise(
    problem: Problem,
    weights: np.ndarray,
    starts: int | np.ndarray = STARTS,
    seed: int = 0,
    progress: bool = False,
    near: np.ndarray | None = None,
) -> Optimum:
    """The best of many starts on rows weighted by `weights` (rows,), or the one point if nothing is free.

    Args:
      near: one more start (P,), which lies near the optimum of similar rows.
    """
    weights = np.asarray(weights, float)
    if not problem.free:
        theta = np.empty(0)
        alone = float(objectives_at(problem, theta, weights[None], problem.y)[0])
        if not np.isfinite(alone):
            raise FitError(f"law {problem.law.name}: the fixed parameters give no finite loss on these rows")
        converged = CODES.index("converged")
        whole = Solution(theta[None], np.array([alone]), np.array([converged]), np.zeros(1, int))
        return Optimum(theta, alone, converged, whole, 1.0)
    given = not isinstance(starts, int)
    begin = draw_starts(problem, starts, seed) if isinstance(starts, int) else np.asarray(starts, float)
    if begin.ndim != 2 or begin.shape[1] != len(problem.free):
        raise FitError(f"starts must be (starts, {len(problem.free)}) in the order {', '.join(problem.free)}")
    cold = np.full(len(begin), not given)
    if near is not None:
        begin, cold = np.concatenate([begin, near[None]]), np.append(cold, False)
    with bar_of_fits(progress, len(begin), "starts") as tick:
        found = _from_part(problem, weights, begin, cold, seed, tick)
    value = np.where(np.isfinite(found.value), found.value, np.inf)
    if not np.isfinite(value).any():
        raise FitError(
            f"law {problem.law.name}: no start gives a finite loss on these rows; check its columns and starts"
        )
    best = int(np.argmin(value))
    agree = float(np.mean(value <= value[best] + SAME * abs(value[best]) + 1e-15))
    return Optimum(found.theta[best], float(value[best]), int(found.code[best]), found, agree)


def _from_part(
    problem: Problem, weights: np.ndarray, begin: np.ndarray, cold: np.ndarray, seed: int, tick: Any
) -> Solution:
    """Solves from every start. Of a long table, they run on a part of its rows, and the best of their optima on all."""

    usable = np.flatnonzero(weights > 0)
    if len(usable) <= STARTED:
        return solve(problem, begin, _each(weights), project=cold, alike=True, progress=tick)
    some = np.sort(np.random.default_rng(seed).choice(usable, STARTED, replace=False))
    part = replace(problem, x={k: v[some] for k, v in problem.x.items()}, y=problem.y[some])
    found = solve(part, begin, _each(weights[some]), project=cold, alike=True, progress=tick)
    if not np.isfinite(found.value).any():
        return found
    value = np.where(np.isfinite(found.value), found.value, np.inf)
    levels = [np.nanmin(value)]
    for v in np.sort(value[np.isfinite(value)]):
        if v > levels[-1] + SAME * abs(levels[-1]):
            levels.append(v)
    basin = np.searchsorted(levels, value, side="right") - 1
    first = [int(np.flatnonzero(basin == b)[0]) for b in range(min(len(levels), BASINS))]
    whole = solve(problem, found.theta[first], _each(weights), stages=problem.objective.stages()[-1:])
    followed = (basin < len(first)) & np.isfinite(value)
    of = np.minimum(basin, len(first) - 1)
    return Solution(
        np.where(followed[:, None], whole.theta[of], found.theta),
        np.where(followed, whole.value[of], np.inf),
        np.where(followed, whole.code[of], found.code),
        found.steps + followed * whole.steps[of],
    )


def _each(weights: np.ndarray) -> Any:
    """The same row weights for every lane."""
    return lambda i: np.broadcast_to(weights, (len(i), len(weights)))


def _resample(
    problem: Problem, rows: Rows, best: Optimum, predicted: np.ndarray, total: int, kind: str, seed: int, progress: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Refits every resample; reported parameters (total,) and codes.

    All start from the best optimum, and `CHECKED` of them cold as well. If a cold start finds a better optimum for any
    of these, every resample also starts from the most promising other optimum: of those that the cold starts found
    and of those that the fit's own starts ended in. On identified tables there is none, and a cold start costs five
    times as much as a warm one.
    """
    made = resampling.draw(kind, total, rows, predicted, seed)
    of_y = made.y

    def refit(which: np.ndarray, begin: np.ndarray, cold: bool) -> Solution:
        found = solve(
            problem,
            begin,
            lambda i: made.weights(which[i]),
            None if of_y is None else lambda i: of_y(which[i]),
            project=cold,
            stages=None if cold else problem.objective.stages()[-1:],
            tolerance=CHECK_TOLERANCE if cold else RESAMPLE_TOLERANCE,
            progress=tick,
        )
        return found._replace(value=np.where(np.isfinite(found.value), found.value, np.inf))

    def keep(which: np.ndarray, again: Solution) -> np.ndarray:
        better = again.value < found.value[which] * (1 - np.sign(found.value[which]) * SAME)
        for old, new in zip(found, again, strict=True):
            old[which[better]] = new[better]
        return better

    everyone = np.arange(total)
    checked = everyone[:CHECKED]
    with bar_of_fits(progress, total + len(checked), "resamples") as tick:
        found = refit(everyone, np.tile(best.theta, (total, 1)), cold=False)
        again = refit(checked, draw_starts(problem, len(checked), seed + 1), cold=True)
        if (better := keep(checked, again)).any():
            others = np.concatenate([again.theta[better], *(t[None] for t in _basins(best))])[:BASINS]
            which, begin = _promising(problem, made, best.theta, others, total)
            if len(which):
                keep(which, refit(which, begin, cold=False))
    theta = np.where(np.isfinite(found.value)[:, None], found.theta, np.nan)
    return problem.reported(theta), found.code


def _basins(best: Optimum) -> list[np.ndarray]:
    """The other optima (P,) that the starts ended in, the lowest first."""
    out, last = [], best.value
    for i in np.argsort(best.starts.value):
        if np.isfinite(value := best.starts.value[i]) and value > last + SAME * abs(last):
            out.append(best.starts.theta[i])
            last = value
    return out


def _promising(
    problem: Problem, made: resampling.Resamples, theta: np.ndarray, others: np.ndarray, total: int
) -> tuple[np.ndarray, np.ndarray]:
    """Resamples for which another optimum is about as good a start as `theta` (P,), and the best such (which, P)."""
    block = max(1, EVALUATED // (len(problem.y) * (len(others) + 1)))
    which, begin = [], []
    for first in range(0, total, block):
        some = np.arange(first, min(first + block, total))
        weights = made.weights(some)
        y = problem.y if made.y is None else made.y(some)
        value = np.array([objectives_at(problem, t, weights, y) for t in (theta, *others)])
        least = value[1:].argmin(axis=0)
        near = value[1:].min(axis=0) <= value[0] + WITHIN * np.abs(value[0])
        which.append(some[near])
        begin.append(others[least[near]])
    return np.concatenate(which), np.concatenate(begin)


def _held_out(
    problem: Problem,
    rows: Rows,
    predicted: np.ndarray,
    best: Optimum,
    hold_out: Any,
    seed: int,
    condition_on: Conditioning,
) -> tuple[dict[str, Any], list[str]]:
    """Scores of law, process and rivals on held-out rows; without a hold-out, on the forward fold, by a second fit."""
    fold, theta = problem, best.theta
    if hold_out is None:
        try:
            what, held = folds.make("forward", rows)[0]
        except FitError as error:
            return {"what": str(error), "n": 0}, [f"no held-out score: {error}"]
        rows = replace(rows, held_out=held)
        try:
            fold = pose(
                rows, problem.law, problem.objective, {k: v for k, v in problem.fixed.items() if k in problem.law.names}
            )
        except FitError as error:
            return {"what": what, "n": 0}, [f"no held-out score on {what}: {error}"]
        near = best.theta if len(fold.free) == len(problem.free) else None
        theta = optimise(fold, rows.weights, FOLD_STARTS, seed, near=near).theta
        predicted = np.asarray(fold.law.predict(fold.reported(theta), rows.x), float)
    else:
        what = hold_out if isinstance(hold_out, str) else "the rows held out"
    if not rows.held_out.any():
        return {"what": what, "n": 0}, [f"no held-out score: no usable row is held out by {what!r}"]
    rows, which, what = _scored(rows, what)
    return judge(rows, predicted[which], condition_on.predict(rows, fold, theta), what)


def _scored(rows: Rows, what: str) -> tuple[Rows, np.ndarray, str]:
    """The rows to score with, their indices, and what is held out: of a long table, a part of its runs and rows."""
    which, asked = np.arange(len(rows.y)), int(rows.held_out.sum())
    if len(which) > RIVALLED:
        kept = np.unique(rows.run[rows.held_out])[:: -(-len(which) // RIVALLED)]
        others = np.setdiff1d(np.unique(rows.run), kept)[:: -(-len(which) // RIVALLED)]
        which = which[np.isin(rows.run, np.concatenate([kept, others]))]
    held = which[rows.held_out[which]]
    if len(held) > SCORED:
        left_out = np.delete(held, np.linspace(0, len(held) - 1, SCORED).round().astype(int))
        which = np.setdiff1d(which, left_out)
    scored = int(rows.held_out[which].sum())
    return rows.take(which), which, f"{what}, {scored} of its {asked} rows" if scored < asked else what


def judge(rows: Rows, predicted: np.ndarray, corrected: np.ndarray, what: str) -> tuple[dict[str, Any], list[str]]:
    """Law, process (`corrected`) and rivals on the held-out rows, and a warning when the law does not win."""
    held = rows.held_out
    observed = rows.y[held]
    others, alike = rivals.distinct(rivals.predict(rows.frame[rows.fitted], rows.frame[held]))
    scored = {name: score(observed, value) for name, value in others.items()}
    own = score(observed, predicted[held])
    beaten = [name for name, s in scored.items() if not own["mean_log"] < s["mean_log"]]
    warnings = [f"on {what} the law does not beat {' and '.join(beaten)}: do not rely on it there"] * bool(beaten)
    process = {"process": score(observed, corrected[held])} if np.isfinite(corrected[held]).all() else {}
    about = {"what": what, "n": int(held.sum()), "runs": len(np.unique(rows.run[held]))}
    return {**about, "law": own, **process, **scored, "beaten_by": beaten, "alike": alike}, warnings


def _count(code: np.ndarray) -> dict[str, int]:
    return {name: int((code == i).sum()) for i, name in enumerate(CODES) if (code == i).any()}


def _warn_of_starts(best: Optimum) -> list[str]:
    out = []
    if best.agree < 0.1:
        out.append(
            f"only {best.agree:.0%} of the starts agree on the optimum: there may be a better one; raise --starts"
        )
    if CODES[best.code] == "stalled":
        out.append("the best start stalled before converging; parameters may still drift along a flat direction")
    return out
