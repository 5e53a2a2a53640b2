"""How an answer to a question is scored: cover and width of its 90% interval, Winkler's score, error of the point.

Losses are scored relative (nats over nats), so tables of all units weigh alike. A question's rows are averaged first,
then the questions of a family, then families: no big table rules.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.forward.asked import Asked
from cptlaw.fitting.condition import condition
from cptlaw.fitting.prior import Prior
from cptlaw.fitting.process import Predictive, Process

LEVEL = 0.9
STEPS = ((1.0, 1.7), (1.7, 2.7), (2.7, 4.7))
MEASURES = ("cover", "width", "winkler", "error", "log_score")


def conditioned(asked: Asked, prior: Prior | None) -> Process:
    """The process on a question's rows, with the shipped prior or another."""
    loss, run = asked.train["loss"].to_numpy(float), asked.train["run"].tolist()
    return condition(asked.law, asked.theta, asked.columns(asked.train), loss, run, given=prior)


def answered(asked: Asked, prior: Prior | None = None) -> Predictive:
    """The predictive at the rows asked: one new run, or more of a run that the table has."""
    return conditioned(asked, prior).predict(asked.columns(asked.test), "run", asked.test["run"].to_numpy())


def interval_scores(observed: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, np.ndarray]:
    """(rows,) each: whether it covers, its width and Winkler's score, relative to the loss. NaN covers nothing."""
    outside = np.maximum(low - observed, 0) + np.maximum(observed - high, 0)
    return {
        "cover": (observed >= low) & (observed <= high),
        "width": (high - low) / observed,
        "winkler": (high - low + 2 / (1 - LEVEL) * outside) / observed,
    }


def lines(asked: Asked, method: str, point: np.ndarray, low: np.ndarray, high: np.ndarray) -> pd.DataFrame:
    """A line a row asked."""
    observed = asked.test["loss"].to_numpy(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.abs(np.log(point) - np.log(observed))
    return pd.DataFrame(
        {
            "family": asked.family, "series": asked.series, "kind": asked.question.kind, "what": asked.question.what,
            "rows": len(asked.train), "step": asked.step, "method": method, "error": error,
            **interval_scores(observed, low, high),
        }
    )  # fmt: skip


def of_predictive(asked: Asked, method: str, found: Predictive) -> pd.DataFrame:
    """Lines of a predictive, with its log score too."""
    low, high = found.interval(LEVEL)
    z = (np.log(asked.test["loss"].to_numpy(float)) - found.mean) / found.sd
    scored = stats.t.logpdf(z, found.df) - np.log(found.sd)
    return lines(asked, method, np.exp(found.mean), low, high).assign(log_score=scored)


def balanced(rows: pd.DataFrame, by: Sequence[str] = ("method", "kind")) -> pd.DataFrame:
    """Means over rows of a question, then questions of a family, then families; widths are medians over questions.

    Returns a line for each of `by`, with how many rows, questions and families it rests on.
    """
    by, measures = list(by), [m for m in MEASURES if m in rows]
    keys = list(dict.fromkeys([*by, "family", "series", "kind", "what"]))
    question = rows.groupby(keys, sort=False)[measures].mean().reset_index()
    families = list(dict.fromkeys([*by, "family"]))
    family = question.groupby(families, sort=False)[measures].mean()
    family["width"] = question.groupby(families, sort=False)["width"].median()
    out = family.reset_index().groupby(by, sort=False)[measures].mean()
    out["rows"] = rows.groupby(by, sort=False).size()
    out["questions"] = question.groupby(by, sort=False).size()
    out["families"] = family.reset_index().groupby(by, sort=False)["family"].nunique()
    return out.reset_index()
