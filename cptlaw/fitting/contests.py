"""What a user chooses between, ranked on the table's own forward questions: each law alone and corrected by how it
missed, `auto`, and the rules that know no law."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import laws, runs
from cptlaw.errors import UserError
from cptlaw.fitting import answers, choose, forward, rivals
from cptlaw.fitting.forward import Question
from cptlaw.fitting.result import AUTO, FitError
from cptlaw.fitting.rows import collect, evaluated, usable
from cptlaw.progress import bar_of_fits

PER_KIND = 2  # questions of each kind: origins that roll


@dataclass(frozen=True)
class Contest:
    """Methods, best first. Errors are mean absolute log errors: of rows, then questions, then kinds.

    Attributes:
      table: a line a method: `name`, `what` ("law", "corrected", "auto" or "rival"), `law` (the law's name, if any),
        `error` over all kinds, a column a kind, `questions` answered, `rows` and `runs` that they rest on. Methods that
        left a question unanswered come last, without `error`.
      asked: kind -> {"questions", "rows", "runs", "what": each question in words}.
      alike: rivals that answered everything alike, as "a = b"; they are one line.
      refused: law -> why it could not be asked.
      chosen: the law that `auto` chose for each question.
    """

    table: pd.DataFrame
    asked: dict[str, dict[str, Any]]
    alike: list[str]
    refused: dict[str, str]
    chosen: list[str]

    @property
    def standing(self) -> dict[str, Any]:
        """The best prediction by a law against the best rival: over all kinds, and in each.

        A rival that cannot answer one kind counts in the others. Returns {"best", "error", "rival", "rival_error",
        "wins", "kinds": {kind: the same}}; {} where one side answers nothing.
        """
        ours = self.table[self.table["error"].notna() & (self.table["what"] != "rival")]
        others = self.table[self.table["what"] == "rival"]
        if ours.empty or others["error"].isna().all():
            return {}
        best = ours.iloc[0]

        def against(column: str) -> dict[str, Any]:
            rival = others.loc[others[column].idxmin()]
            return {
                "best": best["name"], "error": float(best[column]), "rival": rival["name"],
                "rival_error": float(rival[column]), "wins": bool(best[column] < rival[column]),
            }  # fmt: skip

        return against("error") | {"kinds": {kind: against(kind) for kind in self.asked}}

    def headline(self) -> str:
        """Whether a law wins, and where it does not."""
        stands = self.standing
        if not stands:
            return "Nothing can be compared: no law, or no rule without a law, answers every question."
        verdict = "beats" if stands["wins"] else "loses to"
        lines = [
            f"{stands['best']} errs by {stands['error']:.2%} and {verdict} the best rule without a law, "
            f"{stands['rival']}, which errs by {stands['rival_error']:.2%} (mean over {', '.join(self.asked)})."
        ]
        lost = [
            f"{kind} to {one['rival']} ({one['error']:.2%} against {one['rival_error']:.2%})"
            for kind, one in stands["kinds"].items()
            if not one["wins"]
        ]
        if lost and len(self.asked) > 1:
            lines.append(f"It loses on {'; on '.join(lost)}.")
        chosen = self.table[(self.table["what"] == AUTO) & (self.table["name"] != stands["best"])]
        if len(chosen) and np.isfinite(error := float(chosen["error"].iloc[0])):
            verdict = "beats" if error < stands["rival_error"] else "loses to"
            lines.append(
                f"auto, which knew only the rows before each question, errs by {error:.2%} and {verdict} that rule."
            )
        return " ".join(lines)


def contest(
    table: pd.DataFrame,
    candidates: Sequence[str] | None = None,
    eval: str | None = None,
    *,
    auto: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> Contest:
    """Asks every law and rival the same forward questions.

    Args:
      candidates: names of laws; None: those that `auto` chooses between.
      eval: the evaluated corpus.
      auto: ask `auto` too, which chooses its law anew for each question, from the rows before it.

    Raises:
      UserError: bad table, one too short for a forward question, or no law that can be fitted.
    """
    if seed < 0:
        raise FitError("--seed must be 0 or more")
    table, _ = runs.plain(table)
    runs.check(table)
    (corpus,) = evaluated(table, eval)
    frame = usable(table, (corpus,)).reset_index(drop=True)
    names = list(dict.fromkeys(candidates if candidates is not None else choose.candidates(frame)))
    asked = forward.questions(frame, most=PER_KIND)
    if not asked:
        raise FitError(
            f"{len(frame)} rows hold no forward question (enough rows up to a size, tokens or mix, and rows beyond "
            "it): rank the laws on runs left out, --fold run"
        )
    found = _Answers(frame, corpus, asked, seed)
    refused: dict[str, str] = {}
    chosen: list[str] = []
    with bar_of_fits(progress, len(asked) * (len(names) + auto), "questions") as tick:
        for name in names:
            try:
                found.add_law(name, tick)
            except UserError as error:
                refused[name] = str(error)
        if not found.methods:
            raise FitError("no law could be fitted: " + "; ".join(f"{k}: {v}" for k, v in refused.items()))
        if auto:
            chosen = found.add_auto(tick)
    alike = found.add_rivals()
    return Contest(found.table(), found.about(), alike, refused, chosen)


@dataclass(frozen=True)
class _Method:
    """Log losses that a method answered, (K,) a question, None where it has no answer."""

    what: str
    law: str
    said: list[np.ndarray | None]


class _Answers:
    """What every method answers to the same questions of one evaluated corpus."""

    def __init__(self, frame: pd.DataFrame, corpus: str, asked: list[Question], seed: int):
        self.frame, self.corpus, self.asked, self.seed = frame, corpus, asked, seed
        self.methods: dict[str, _Method] = {}

    def add_law(self, name: str, tick: Callable[[int], Any] | None) -> None:
        law = laws.for_table(name, self.frame)
        rows = collect(self.frame, law, (self.corpus,))
        alone, corrected = _Method("law", name, []), _Method("corrected", name, [])
        reason = ""
        for question in self.asked:
            try:
                found = answers.of_law(law, rows, question, self.seed)
                alone.said.append(found.alone)
                corrected.said.append(found.corrected.mean)
            except UserError as error:  # too few rows for this law's parameters
                reason = str(error)
                alone.said.append(None)
                corrected.said.append(None)
            if tick:
                tick(1)
        if all(said is None for said in alone.said):
            raise FitError(reason)
        self.methods[name], self.methods[f"{name}, corrected"] = alone, corrected

    def add_auto(self, tick: Callable[[int], Any] | None) -> list[str]:
        """Chooses a law for each question from the rows before it; returns the names."""
        said: list[np.ndarray | None] = []
        chosen = []
        for i, question in enumerate(self.asked):
            before = self.frame[question.train].reset_index(drop=True)
            try:
                names = choose.candidates(before)
                name = names[0] if len(names) == 1 else choose.choose(before, self.corpus, names, seed=self.seed).law
                known = self.methods.get(f"{name}, corrected")
                answer = known.said[i] if known is not None else None
                if answer is None:
                    law = laws.for_table(name, self.frame)
                    rows = collect(self.frame, law, (self.corpus,))
                    answer = answers.of_law(law, rows, question, self.seed).corrected.mean
                said.append(answer)
                chosen.append(name)
            except UserError:
                said.append(None)
                chosen.append("")
            if tick:
                tick(1)
        self.methods[AUTO] = _Method("auto", "", said)
        return chosen

    def add_rivals(self) -> list[str]:
        """The rules without a law; those that answer everything alike are one. Returns which are."""
        found: dict[str, list[np.ndarray | None]] = {}
        for i, question in enumerate(self.asked):
            for name, values in answers.of_rivals(self.frame, question, trees=True).items():
                found.setdefault(name, [None] * len(self.asked))[i] = np.log(values)
        unknown = [np.full(int(q.test.sum()), np.inf) for q in self.asked]
        joined = {
            name: np.concatenate([blank if one is None else one for one, blank in zip(said, unknown)])
            for name, said in found.items()
        }
        kept, alike = rivals.distinct(joined)
        for name in kept:
            self.methods[name] = _Method("rival", "", found[name])
        return alike

    def about(self) -> dict[str, dict[str, Any]]:
        """Kind -> how many questions, and the rows and runs that they ask for."""
        out: dict[str, dict[str, Any]] = {}
        for kind in dict.fromkeys(q.kind for q in self.asked):
            some = [q for q in self.asked if q.kind == kind]
            rows = np.any([q.test for q in some], axis=0)
            out[kind] = {
                "questions": len(some), "rows": int(rows.sum()), "runs": int(self.frame["run"][rows].nunique()),
                "what": [q.what for q in some],
            }  # fmt: skip
        return out

    def table(self) -> pd.DataFrame:
        """A line a method (see `Contest.table`)."""
        log_y = np.log(self.frame["loss"].to_numpy(float))
        lines = []
        for name, method in self.methods.items():
            errors = np.array([
                np.nan if said is None else np.abs(said - log_y[question.test]).mean()
                for question, said in zip(self.asked, method.said)
            ])  # fmt: skip
            answered = [q.test for q, error in zip(self.asked, errors) if np.isfinite(error)]
            rows = np.any([np.zeros(len(log_y), bool), *answered], axis=0)
            by_kind = (
                pd.Series(errors).groupby([q.kind for q in self.asked], sort=False).agg(lambda v: v.mean(skipna=False))
            )
            lines.append({
                "name": name, "what": method.what, "law": method.law, "error": float(by_kind.mean(skipna=False)),
                **by_kind, "questions": len(answered), "rows": int(rows.sum()),
                "runs": int(self.frame["run"][rows].nunique()),
            })  # fmt: skip
        return pd.DataFrame(lines).sort_values(["error", "name"], na_position="last").reset_index(drop=True)
