"""What a law answers to a forward question, alone and corrected by how it missed, beside the rules without a law."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cptlaw.fitting import estimate, rivals
from cptlaw.fitting.condition import condition
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


def of_law(law: Law, rows: Rows, question: Question, seed: int = 0, fixed: Mapping[str, float] | None = None) -> Answer:
    """The law, fitted to the question's rows and conditioned on them; parameters of it that are `fixed` are held.

    Raises:
      UserError: there are too few rows for the law.
    """
    left = replace(rows, held_out=~question.train)
    problem = estimate.pose(left, law, Objective(), dict(fixed or {}))
    best = estimate.optimise(problem, left.weights, STARTS, seed)
    theta = {name: float(value) for name, value in problem.reported(best.theta).items()}
    run = rows.frame["run"].astype(str).to_numpy()
    process = condition(
        law,
        theta,
        {name: values[question.train] for name, values in rows.x.items()},
        rows.y[question.train],
        run[question.train].tolist(),
        domain=domains(rows.frame[question.train]),
        held=list(fixed or {}),
    )
    x = {name: values[question.test] for name, values in rows.x.items()}
    with np.errstate(all="ignore"):
        alone = np.log(np.broadcast_to(np.asarray(law.predict(theta, x), float), int(question.test.sum())))
    corrected = process.predict(x, "run", run[question.test], domain=domains(rows.frame[question.test]))
    return Answer(alone, corrected)


def of_rivals(frame: pd.DataFrame, question: Question, **which: Any) -> dict[str, np.ndarray]:
    """Rival -> predicted loss (K,)."""
    return rivals.predict(frame[question.train], frame[question.test], **which)
