"""What would make a fit better, tried once and told with its numbers: rows left out, a constraint lifted.

Two kinds of checkpoint are not what a law of final losses is about, and move it without a word: the first ones of a
run, taken during or soon after its warm-up, and those at a high learning rate beside decayed ends. Both are found by
refitting without them: the law then misses them all to one side, and fits the others much better.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cptlaw import laws
from cptlaw.fitting.rows import Rows
from cptlaw.fitting.solver import Problem, draw_starts, solve
from cptlaw.laws import Law

FEWEST_KEPT = 4  # rows more than parameters that must remain
DECAYED = 0.25  # share of its run's highest learning rate below which a checkpoint counts as decayed
BETTER = 1.5  # by this factor the other rows must be fitted better without the suspects
APART = 3.0  # robust standard deviations of the others by which the suspects' median must be off
LEAST = 2e-3  # and in log loss
ONE_SIDED = 0.8  # share of the suspects that must be off to the same side
ENOUGH = 1.15  # leaving more out must better the rest by this factor to be worth it
TOLERANCE = 1e-9
NEAR_C, NEAR_ETA = 1e-6, 1e-2  # how near its bound a parameter of the constraint must be for it to be doubted
CURED = 0.7  # share of the mean error that must remain at most without the constraint for it to be blamed
CURE_STARTS = 32


@dataclass(frozen=True)
class Suspects:
    """Rows that may move the law: what they are, the condition that leaves them out ("" if none can say it), a mask."""

    what: str
    where: str
    rows: np.ndarray


def moved_by_rows(problem: Problem, rows: Rows, theta: np.ndarray) -> list[str]:
    """Warnings about early and undecayed checkpoints that move the optimum `theta` (P,)."""
    if not problem.free:
        return []
    for candidates in (list(_undecayed(rows)), list(_early(rows))):
        if found := _worst(problem, rows, theta, candidates):
            return [found]
    return []


def lifted_constraint(
    problem: Problem, rows: Rows, theta: np.ndarray, law: Law, shared: Sequence[str], seed: int = 0
) -> list[str]:
    """A warning that the data break the law's constraint, where the law fits them much better without it.

    Args:
      law: the law as it was asked for (of one corpus, if the fit is joint), with its options.
      shared: as in `estimate.fit`.
    """
    low, _ = problem.box
    near = {**dict.fromkeys(problem.law.derived, NEAR_C), **{n: NEAR_ETA for n in problem.free if n.startswith("eta")}}
    if not problem.law.derived or not any(
        value <= least + near.get(name, -np.inf) for name, value, least in zip(problem.free, theta, low, strict=True)
    ):
        return []
    options = {k: v for k, v in law.options.items() if k not in ("constrained", "d_min")}
    free = laws.get(law.name, **options, constrained=False)
    corpora = tuple(dict.fromkeys(rows.frame["eval"])) if problem.law.base else ()
    other = Problem(laws.joint(free, corpora, shared) if corpora else free, problem.objective, rows.x, rows.y,
                    {name: value for name, value in problem.fixed.items() if name in problem.law.names})  # fmt: skip
    starts = draw_starts(other, CURE_STARTS, seed)
    found = solve(other, starts, np.broadcast_to(rows.weights, (len(starts), len(rows.y))), project=True)
    best = found.theta[np.nanargmin(np.where(np.isfinite(found.value), found.value, np.inf))]
    old, new = (float(np.abs(_errors(p, rows, t)[rows.fitted]).mean()) for p, t in ((problem, theta), (other, best)))
    if not new < CURED * old:
        return []
    named = ":".join([law.name, *(f"{k}={v}" for k, v in options.items()), "constrained=false"])
    return [
        f"the data break the law's constraint that the loss falls with the ratio everywhere: without it the mean error "
        f"is {new:.2%} instead of {old:.2%}; fit with --law {named}"
    ]


def _worst(problem: Problem, rows: Rows, theta: np.ndarray, candidates: list[Suspects]) -> str | None:
    """The warning about the smallest group of suspects that explains what leaving rows out gains; None if none does."""
    least = len(problem.free) + FEWEST_KEPT
    candidates = [c for c in candidates if (rows.fitted & ~c.rows).sum() >= least]
    if not candidates:
        return None
    kept_LR = np.array([rows.fitted & ~c.rows for c in candidates])
    found = solve(
        problem,
        np.tile(theta, (len(candidates), 1)),
        kept_LR * rows.weights,
        stages=problem.objective.stages()[-1:],
        tolerance=TOLERANCE,
    )
    before_R = _errors(problem, rows, theta)
    gains, notes = [], []
    for suspects, kept_R, without in zip(candidates, kept_LR, found.theta):
        if not np.isfinite(without).all():
            continue
        after_R = _errors(problem, rows, without)
        off_R = after_R[suspects.rows & rows.fitted]
        middle = float(np.median(off_R))
        spread = 1.4826 * float(np.median(np.abs(after_R[kept_R])))
        one_sided = np.mean(np.sign(off_R) == np.sign(middle)) >= ONE_SIDED
        old, new = (float(np.abs(error[kept_R]).mean()) for error in (before_R, after_R))
        if old > BETTER * new and abs(middle) > max(APART * spread, LEAST) and one_sided:
            gains.append(old / max(new, 1e-12))
            notes.append(_told(problem, rows, (theta, without), suspects, middle, (old, new)))
    if not gains:
        return None
    return next(note for gain, note in zip(gains, notes) if gain * ENOUGH >= max(gains))


def _told(
    problem: Problem,
    rows: Rows,
    thetas: tuple[np.ndarray, np.ndarray],
    suspects: Suspects,
    middle: float,
    errors: tuple[float, float],
) -> str:
    corner = {name: np.asarray(values[rows.fitted].max()) for name, values in rows.x.items()}
    far = [float(problem.law.predict(problem.reported(theta), corner)) for theta in thetas]
    count = int((suspects.rows & rows.fitted).sum())
    cure = f"leave them out with --where {suspects.where!r}" if suspects.where else "leave them out of the table"
    return (
        f"{count} rows move the law: {suspects.what}. They lie {middle:+.1%} off what the other rows say. Without "
        f"them the law's mean error on the others falls from {errors[0]:.2%} to {errors[1]:.2%}, and its loss at the "
        f"largest fitted values changes from {far[0]:.4g} to {far[1]:.4g}; {cure}"
    )


def _errors(problem: Problem, rows: Rows, theta: np.ndarray) -> np.ndarray:
    """Log observed less log predicted, (R,)."""
    predicted = problem.law.predict(problem.reported(theta), rows.x)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(rows.y) - np.log(predicted)


def _undecayed(rows: Rows) -> Iterator[Suspects]:
    """Checkpoints at a high learning rate, in tables that also have decayed ones."""
    if "lr" not in rows.frame or not np.isfinite(lr := rows.frame["lr"].to_numpy(float)).all():
        return
    highest = np.zeros(len(rows.runs))
    np.maximum.at(highest, rows.run, lr)
    decayed = lr <= DECAYED * highest[rows.run]
    if not (decayed & rows.fitted).any() or decayed[rows.fitted].all():
        return
    low, high = lr[decayed].max(), lr[~decayed].min()
    where = f"lr < {_between(low, high)}" if low < high else ""
    what = f"checkpoints before the learning rate decayed (at lr {high:.3g} or more; the decayed ones are at {low:.3g})"
    yield Suspects(what, where, ~decayed)


def _early(rows: Rows) -> Iterator[Suspects]:
    """The first 1, 2, ... checkpoints of each run, up to half of the longest run's."""
    if "tokens" not in rows.frame:
        return
    tokens = rows.frame["tokens"].to_numpy(float)
    index = np.zeros(len(tokens), int)  # of the checkpoint within its run
    for run in np.unique(rows.run):
        mine = rows.run == run
        index[mine] = np.unique(tokens[mine], return_inverse=True)[1]
    for count in range(1, (index.max() + 1) // 2 + 1):
        early = index < count
        what = "the first checkpoint of each run" if count == 1 else f"the first {count} checkpoints of each run"
        yield Suspects(what, condition(rows, early), early)


def condition(rows: Rows, early: np.ndarray) -> str:
    """A condition on one quantity that holds for just the rows that are not early; "" if there is none."""
    frame = rows.frame
    quantities = {name: frame[name].to_numpy(float) for name in ("tokens", "step") if name in frame}
    if {"tokens", "params"} <= set(frame):
        quantities["tokens / params"] = quantities["tokens"] / frame["params"].to_numpy(float)
    for name, values in quantities.items():
        low, high = values[early].max(), values[~early].min()
        if low < high:
            return f"{name} >= {_between(low, high)}"
    return ""


def _between(low: float, high: float) -> str:
    """A short number above `low` and up to `high`."""
    for digits in range(1, 17):
        text = f"{high:.{digits - 1}e}"
        if low < float(text) <= high:
            return (f"{float(text):g}" if digits <= 6 else text).replace("e+0", "e").replace("e+", "e")
    return repr(high)
