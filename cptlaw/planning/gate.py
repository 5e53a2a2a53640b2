"""A gate between two recipes: which is better at the target size, how surely, and how much compute it saves.

Where both ladders hold the same sizes and tokens, their losses are compared rung by rung (`cptlaw.fitting.ladders`):
the ratio of the two losses changes far less with size than the losses do, and what both laws miss alike cancels.
Ladders that share too few rungs are compared by the two predictive distributions, as if their misses had nothing in
common.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cptlaw.fitting import ladders
from cptlaw.planning.decision import Decision, DecisionError, Option, with_rejections
from cptlaw.planning.numbers import (
    banded,
    cautions,
    check_level,
    check_run,
    corpus,
    expanded,
    interval,
    losses,
    notes_of_reach,
    resamples,
)
from cptlaw.words import count, percent

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

LEAST_RUNGS = 4  # that both ladders hold, for their ratio
MOST_COMPUTE = 50.0  # times more or less, beyond which a saving is not told
GRID = 241  # amounts of compute that are looked at
STEP = ("params", "tokens")


@with_rejections
def gate(baseline: "Fit", candidate: "Fit", *, params: float, tokens: float, level: float = 0.9) -> Decision:
    """Whether the candidate's loss will be below the baseline's at the target, and the compute that it saves there.

    The compute saved is the part of the target's that the candidate can do without and still reach the baseline's
    loss: fewer tokens at the target's parameters, or, where the ladder's tokens go with its parameters, less of both
    along the ladder. Negative: more compute.

    Args:
      baseline, candidate: fits of one evaluated corpus, each to its own recipe's ladder.
      params, tokens: of the target, counts.
      level: of the intervals.

    Raises:
      DecisionError: fits of two corpora, without resamples, or of laws that read what the question does not give.
    """
    check_level(level)
    if corpus(baseline) != corpus(candidate):
        raise DecisionError(
            f"the baseline's losses are of {corpus(baseline)} and the candidate's of {corpus(candidate)}: a gate "
            "compares recipes by the loss of one corpus"
        )
    x = check_run(params, tokens)
    for fit in (baseline, candidate):
        if missing := [name for name in fit.law.columns if name not in STEP]:
            raise DecisionError(f"the law {fit.law.name} reads {', '.join(missing)}: fit a law of size and tokens")
        if resamples(fit) < 2:
            raise DecisionError("a gate needs resamples: fit again with bootstrap=1000")
    rungs = shared_rungs(baseline, candidate)
    names = {"baseline": baseline, "candidate": candidate}
    wide = expanded(level, baseline, candidate)
    own = {name: losses(fit, x)[:, 0] for name, fit in names.items()}
    warnings: tuple[str, ...] = ()
    supported = True
    for fit in names.values():
        notes, silent = cautions(fit, x)
        warnings, supported = warnings + notes, supported and not silent
    if len(rungs) >= LEAST_RUNGS:
        log_ratio = ladders.draws(*ladders.ratio(rungs, **x), len(own["baseline"]) - 1)
        wide = level
        shown = {"baseline": own["baseline"], "candidate": own["baseline"] * np.exp(log_ratio)}
    else:
        warnings += (
            f"the ladders share {len(rungs)} rungs (sizes and tokens), fewer than {LEAST_RUNGS}: their misses are "
            "taken as independent, which makes the interval wide; train both at the same sizes and tokens",
        )
        log_ratio, shown = np.log(own["candidate"]) - np.log(own["baseline"]), own
    wins = float((log_ratio[1:] < 0).mean())
    saved = _saved(baseline, x, log_ratio)
    span = interval(saved[1:], wide)
    if min(1 - saved[0], 1 - span[1]) <= 1 / MOST_COMPUTE or max(1 - saved[0], 1 - span[0]) >= MOST_COMPUTE:
        warnings += (
            f"savings beyond {MOST_COMPUTE:g} times are not told: the baseline's loss hardly falls with compute",
        )
    largest = _largest(rungs, x)
    return Decision(
        kind="gate",
        question=f"Will the candidate's {corpus(baseline)} loss be below the baseline's at {count(params)} parameters "
        f"and {count(tokens)} tokens, and what compute does it save?",
        answer=_answer(wins, saved[0], span, level, supported),
        inputs={**x, "eval": corpus(baseline), "rungs": len(rungs)},
        point={"compute saved": float(saved[0]), "loss ratio": float(np.exp(log_ratio[0]))},
        interval={"compute saved": span, "loss ratio": interval(np.exp(log_ratio[1:]), wide)},
        samples={"compute saved": saved[1:], "loss ratio": np.exp(log_ratio[1:])},
        level=level,
        agreement=max(wins, 1 - wins),
        agreement_means="the same recipe wins",
        regret=_regret(own["baseline"], log_ratio),
        losses={name: banded(values, wide) for name, values in shown.items()},
        supported=supported,
        options=()
        if largest is None
        else (
            Option(
                "as at the largest rung",
                {"loss ratio": largest},
                {"baseline": banded(own["baseline"], wide), "candidate": banded(own["baseline"] * largest, wide)},
            ),
        ),
        extrapolation=notes_of_reach((baseline, x), (candidate, x)),
        rows=tuple(
            {"params": row["params"], "tokens": row["tokens"], "baseline": row["baseline"],
             "candidate": row["candidate"], "difference": row["candidate"] - row["baseline"]}
            for row in rungs.to_dict("records")
        ),
        warnings=warnings,
    )  # fmt: skip


def shared_rungs(baseline: "Fit", candidate: "Fit") -> pd.DataFrame:
    """Sizes and tokens that both ladders hold, with the mean loss of each: params, tokens, baseline, candidate."""
    frames = []
    for name, fit in (("baseline", baseline), ("candidate", candidate)):
        rows = fit.residuals[~fit.residuals["held_out"].astype(bool)]
        at = {column: rows[column].to_numpy(float).round(-2) for column in STEP if column in rows}
        if len(at) < len(STEP):
            raise DecisionError(f"the {name}'s rows lack params or tokens, along which a ladder goes")
        frames.append(pd.DataFrame({**at, name: rows["observed"].to_numpy(float)}).groupby(list(STEP)).mean())
    return frames[0].join(frames[1], how="inner").reset_index().sort_values(list(STEP))


def _saved(baseline: "Fit", x: dict[str, float], log_ratio: np.ndarray) -> np.ndarray:
    """(S + 1,) part of the compute that the candidate can do without; between 1 - `MOST_COMPUTE` and 1 - 1 / that."""
    rows = baseline.residuals
    along = np.geomspace(1 / MOST_COMPUTE, MOST_COMPUTE, GRID)  # times the target's compute
    if rows.groupby("params")["tokens"].nunique().max() > 1:
        path = {"params": np.full(GRID, x["params"]), "tokens": x["tokens"] * along}
    else:
        path = {"params": x["params"] * np.sqrt(along), "tokens": x["tokens"] * np.sqrt(along)}
    curve = np.log(losses(baseline, path))  # (S + 1, G)
    here = np.log(losses(baseline, x))
    found = np.empty(len(curve))
    for i, own in enumerate(curve):
        # The candidate's loss at a part of the compute is at or under the baseline's at all of it.
        reached = own + log_ratio[i] <= here[i, 0]
        first = int(np.argmax(reached))
        if not reached.any():
            found[i] = along[-1]
        elif first == 0:
            found[i] = along[0]
        else:
            above, below = own[first - 1] + log_ratio[i] - here[i, 0], own[first] + log_ratio[i] - here[i, 0]
            part = above / (above - below)
            found[i] = along[first - 1] * (along[first] / along[first - 1]) ** part
    return 1 - found


def _largest(rungs: pd.DataFrame, x: dict[str, float]) -> float | None:
    """The ratio of the losses at the largest shared rung; of the largest size, the one nearest in tokens."""
    if rungs.empty:
        return None
    top = rungs[rungs["params"] == rungs["params"].max()]
    row = top.iloc[int(np.abs(np.log(top["tokens"] / x["tokens"])).argmin())]
    return float(row["candidate"] / row["baseline"])


def _regret(baseline: np.ndarray, log_ratio: np.ndarray) -> dict[str, float]:
    """Of the recipe that is expected to win, nats."""
    change = baseline[1:] * np.expm1(log_ratio[1:])
    lost = np.maximum(change if log_ratio[0] < 0 else -change, 0)
    return {"mean": float(lost.mean()), "p90": float(np.quantile(lost, 0.9))}


def _answer(wins: float, saved: float, span: tuple[float, float], level: float, supported: bool) -> str:
    told = f"{percent(abs(saved))} {'less' if saved >= 0 else 'more'} compute"
    low, high = (f"{percent(abs(v))} {'less' if v >= 0 else 'more'}" for v in span)
    sure = "The" if supported else "These runs cannot say it with confidence: the"
    return (
        f"{sure} candidate wins with a probability of {wins:.0%}; it reaches the baseline's loss with {told} "
        f"({level:.0%} interval {low} to {high})."
    )
