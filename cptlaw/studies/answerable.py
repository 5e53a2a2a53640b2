"""Whether a study's grid and law can answer its question at all: asked before anything is read or trained.

The planned runs make a table without losses, and it is asked what the fits and the decision would ask of the real one.
"""

import numpy as np
import pandas as pd

from cptlaw import laws
from cptlaw.errors import UserError
from cptlaw.fields import ConfigError
from cptlaw.fitting import choose, estimate
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.result import AUTO
from cptlaw.fitting.rows import collect
from cptlaw.planning.decision import DecisionError
from cptlaw.planning.mixture import blends
from cptlaw.studies import grid
from cptlaw.studies.questions import AtOneSize, Mixture, Part
from cptlaw.studies.settings import Study
from cptlaw.words import count


def check(study: Study) -> None:
    """Raises ConfigError for a question that the study's grid, or its law with this grid, cannot answer."""
    table = grid.outline(study)
    for part in study.question.parts(study):
        rows = part.rows(table)
        fitted = rows[~study.held_out.rows(rows) & (rows["tokens"] > 0)]
        _check_mixes(study, part, fitted)
        _check_columns(study, part, fitted)
        for size in study.question.measured_bases(study):
            if size not in set(rows["model"]):
                raise ConfigError(
                    "config.question",
                    f"its ceiling is relative to the base model's loss at size {size!r}, and the grid has no run of "
                    f"that size {_of(part)}",
                )
        for corpus in part.evals:
            _check_law(study, rows, corpus)


def _check_mixes(study: Study, part: Part, fitted: pd.DataFrame) -> None:
    moved = [name for name in part.mixed if fitted[f"w_{name}"].nunique() > 1]
    if len(moved) < 2:
        have = len(np.unique(_mixes(part, fitted), axis=0))
        raise ConfigError(
            "config.grid",
            f"a {study.question.kind} question compares mixes, and the fitted runs have {have} {_of(part)}: ask for "
            "more in domain_shares, mixes or simplex",
        )
    if isinstance(study.question, Mixture):
        try:
            low, high = study.question.limits(study)
            blends(_mixes(part, fitted), low, high, study.question.beyond)
        except DecisionError as error:
            raise ConfigError("config.question", str(error)) from error


def _mixes(part: Part, rows: pd.DataFrame) -> np.ndarray:
    return rows[[f"w_{name}" for name in part.mixed]].to_numpy(float)


def _check_columns(study: Study, part: Part, fitted: pd.DataFrame) -> None:
    """Sizes and tokens: varied where the question compares them, and asked about where they were not varied."""
    question = study.question
    for name in question.compares:
        if fitted[name].nunique() < 2:
            raise ConfigError(
                "config.grid",
                f"every fitted run {_of(part)} has the same {name}, and a {question.kind} question compares them",
            )
    if isinstance(question, AtOneSize):
        size, tokens = question.planned(study)
        for name, value in (("params", grid.params(study, size)), ("tokens", tokens)):
            if fitted[name].nunique() == 1 and fitted[name].iloc[0] != value:
                raise ConfigError(
                    "config.question",
                    f"it is about {count(value)} {name}, and every fitted run {_of(part)} has "
                    f"{count(fitted[name].iloc[0])}: how the loss changes with {name} is not measured",
                )


def _check_law(study: Study, rows: pd.DataFrame, corpus: str) -> None:
    """Refuses a law of more parameters than the grid gives rows, and auto where no law is left."""
    own = rows[rows["eval"] == corpus]
    fitted = own[~study.held_out.rows(own)]
    refused = []
    for name in choose.candidates(fitted) if study.fit.law == AUTO else [study.fit.law]:
        try:
            law = laws.for_table(name, fitted)
            estimate.pose(collect(fitted, law, (corpus,)), law, Objective(), {})
            return
        except UserError as error:
            refused.append(f"{name}: {error}")
    raise ConfigError("config.fit.law", f"the {corpus} loss cannot be fitted with this grid: {'; '.join(refused)}")


def _of(part: Part) -> str:
    return f"of {', '.join(part.mixed)} alone"
