"""`--law auto`: the law whose process best predicted the table's own later rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import laws, runs
from cptlaw.errors import UserError
from cptlaw.fitting import answers, estimate, forward, rivals
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.result import FitError
from cptlaw.fitting.rows import Rows, collect, evaluated
from cptlaw.progress import bar_of_fits

PER_KIND = 2  # questions of each kind that a table is asked
FLOOR = -4.0  # of a row's log score: one lost row must not choose the law


@dataclass(frozen=True)
class Choice:
    """The law chosen for one evaluated corpus, and on what.

    Attributes:
      law: its name, as `laws.for_table` reads it.
      weights: law -> exp of its summed log score over questions, normalised: how clearly it was chosen.
      table: a line a method and kind: `method`, `kind`, `error` (mean absolute log error), `log_score` (of laws under
        the process), `questions`, `rows`, `runs`. Methods are laws under the process ("process on NAME"), laws alone
        and rivals.
      lost: where the chosen one loses to a part of it or to a rival, in words.
      refused: law -> why it could not be asked.
    """

    law: str
    weights: dict[str, float]
    table: pd.DataFrame
    lost: list[str]
    refused: dict[str, str]


def candidates(table: pd.DataFrame) -> list[str]:
    """Laws that read what the table has: shares, sizes, tokens, repeats."""

    def varies(name: str) -> bool:
        return name in table and table[name].nunique() > 1

    corpora = [c for c in runs.corpora(table) if varies(f"w_{c}")]
    if corpora and varies("params") and varies("tokens"):
        two = ["dcpt:free_sign=true", "dcpt:constrained=false", "dcpt_l1", "dcpt_l7"]
        return [*(two if len(corpora) <= 2 else []), "additive"]
    if corpora:
        return ["additive", "mixing"] if "params" in table and "tokens" in table else ["mixing"]
    if varies("tokens"):
        repeats = ["repetition"] if varies("unique_tokens") else []
        return [*repeats, "chinchilla"] if varies("params") else ["perplexity_tokens_only"]
    raise FitError("auto: neither tokens nor shares vary in this table, so no law of them can be chosen")


def choose(
    table: pd.DataFrame,
    eval: str | None = None,
    names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Choice:
    """Asks the table its own forward questions (`cptlaw.fitting.forward`) under every law of `names`.

    A table too short for any question gets the first law that it can be fitted with, and says so.

    Raises:
      UserError: no law can be fitted.
    """
    (corpus,) = evaluated(table, eval)
    names = list(names) if names is not None else candidates(table[table["eval"] == corpus])
    lines: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    asked: list[forward.Question] = []
    fitted: list[str] = []
    frame = pd.DataFrame()
    with bar_of_fits(progress, len(names), "laws") as tick:
        for name in names:
            try:
                law = laws.for_table(name, table)
                rows = collect(table, law, (corpus,))
                frame = rows.frame.reset_index(drop=True)
                asked = forward.questions(frame, most=PER_KIND)
                of_law = [line for q in asked for line in _answers(name, law, rows, q, seed)]
                if not asked:
                    estimate.pose(rows, law, Objective(), {})  # refuses what the table is too short for
                lines += of_law
                fitted.append(name)
            except UserError as error:
                refused[name] = str(error)
            if tick:
                tick(1)
    if not fitted:
        raise FitError("auto: no law could be fitted: " + "; ".join(f"{k}: {v}" for k, v in refused.items()))
    for question in asked:
        lines += _rivals(frame, question)
    if not asked:
        note = "the table is too short for a forward question: the first law that it can be fitted with"
        return Choice(fitted[0], {fitted[0]: 1.0}, pd.DataFrame(), [note], refused)
    return _chosen(pd.DataFrame(lines), fitted, refused)


def _answers(name: str, law: laws.Law, rows: Rows, question: forward.Question, seed: int) -> list[dict[str, Any]]:
    """The law alone and under the process, on one question."""
    found, log_y = answers.of_law(law, rows, question, seed), np.log(rows.y[question.test])
    corrected = found.corrected
    score = log_density((log_y - corrected.mean) / corrected.sd, corrected.df) - np.log(corrected.sd)
    about = _about(question, rows.frame["run"].astype(str).to_numpy())
    return [
        {"method": f"process on {name}", "law": name, "error": float(np.abs(corrected.mean - log_y).mean()),
         "log_score": float(np.maximum(score, FLOOR).mean()), **about},
        {"method": name, "law": name, "error": float(np.abs(found.alone - log_y).mean()), **about},
    ]  # fmt: skip


def _rivals(frame: pd.DataFrame, question: forward.Question) -> list[dict[str, Any]]:
    log_y = np.log(frame["loss"].to_numpy(float)[question.test])
    found, _ = rivals.distinct(answers.of_rivals(frame, question))
    about = _about(question, frame["run"].astype(str).to_numpy())
    return [{"method": name, "error": float(np.abs(np.log(v) - log_y).mean()), **about} for name, v in found.items()]


def _about(question: forward.Question, ids: np.ndarray) -> dict[str, Any]:
    rows = int(question.test.sum())
    return {"kind": question.kind, "what": question.what, "rows": rows, "runs": len(set(ids[question.test]))}


def _chosen(lines: pd.DataFrame, fitted: list[str], refused: dict[str, str]) -> Choice:
    under = lines[lines["method"].str.startswith("process on ")]
    total = under.groupby("law")["log_score"].sum().reindex(fitted)
    weights = np.exp(total - total.max())
    weights = (weights / weights.sum()).sort_values(ascending=False)
    law = str(weights.index[0])
    table = lines.groupby(["method", "kind"], sort=False).agg(
        error=("error", "mean"), log_score=("log_score", "mean"), questions=("what", "size"), rows=("rows", "sum"),
        runs=("runs", "max"),
    ).reset_index()  # fmt: skip
    # A rival that answered fewer questions of a kind cannot be compared in it.
    most = table.groupby("kind")["questions"].transform("max")
    table = table[table["questions"] == most]
    lost = []
    for kind, some in table.groupby("kind", sort=False):
        own = float(some.loc[some["method"] == f"process on {law}", "error"].iloc[0])
        others = some[~some["method"].str.startswith("process on ")]
        best = others.loc[others["error"].idxmin()]
        if best["error"] < own and math.isfinite(own):
            lost.append(
                f"{kind}: {best['method']} erred by {best['error']:.2%}, auto by {own:.2%} ({best['rows']} rows)"
            )
    return Choice(law, weights.round(4).to_dict(), table.reset_index(drop=True), lost, refused)


def log_density(z: np.ndarray, df: float) -> np.ndarray:
    """Of Student's t."""
    constant = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    return constant - (df + 1) / 2 * np.log1p(z**2 / df)
