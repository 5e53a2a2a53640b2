"""What a law answers to a forward question, alone and corrected by how it missed, beside the rules without a law."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cptlaw.fitting import estimate, rivals
from cptlaw.fitting.condition import MOST_ROWS, condition, thin
from cptlaw.fitting.forward import Question
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.process import Predictive
from cptlaw.fitting.rows import Rows, domains
from cptlaw.laws import Law

STARTS = 16


@dataclass(frozen=True)
class Answer:
    """Log losses of a question's K rows: of the law `alone` (K,), NaN where it has none, and `corrected`."""

    alone: np.ndarray
    corrected: Predictive


def of_law(
    law: Law,
    rows: Rows,
    question: Question,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    most: int | None = None,
) -> Answer:
    """The law, fitted to the question's rows and conditioned on them; parameters of it that are `fixed` are held.

    Args:
      most: rows of a longer table that the answer goes by (`condition.thin`); None: all that the question gives.

    Raises:
      UserError: there are too few rows for the law.
    """
    run, train = rows.frame["run"].astype(str).to_numpy(), np.flatnonzero(question.train)
    left = replace(rows, held_out=~question.train)
    if most is not None and len(rows.y) > most:
        train = train[thin({k: v[train] for k, v in rows.x.items()}, run[train], most=most)]
        # Every question has the same number of rows, the last of them held out: another shape is compiled again.
        left = rows.take(np.resize(train, most))
        left = replace(left, held_out=np.arange(most) >= len(train))
    problem = estimate.pose(left, law, Objective(), dict(fixed or {}))
    best = estimate.optimise(problem, left.weights, STARTS, seed)
    theta = {name: float(value) for name, value in problem.reported(best.theta).items()}
    process = condition(
        law,
        theta,
        {name: values[train] for name, values in rows.x.items()},
        rows.y[train],
        run[train].tolist(),
        domain=domains(rows.frame.iloc[train]),
        held=list(fixed or {}),
        most=most or MOST_ROWS,
    )
    x = {name: values[question.test] for name, values in rows.x.items()}
    with np.errstate(all="ignore"):
        alone = np.log(np.broadcast_to(np.asarray(law.predict(theta, x), float), int(question.test.sum())))
    corrected = process.predict(x, "run", run[question.test], domain=domains(rows.frame[question.test]))
    return Answer(alone, corrected)


def of_rivals(frame: pd.DataFrame, question: Question, **which: Any) -> dict[str, np.ndarray]:
    """Rival -> predicted loss (K,)."""
    return rivals.predict(frame[question.train], frame[question.test], **which)
