"""The whole loop of a study: corpora, grid, laws, answers, confirming runs, reports. Every step resumes.

What it leaves in its directory: see `execution.workdir`.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cptlaw import atomic, report
from cptlaw import runs as runs_table
from cptlaw.errors import UserError
from cptlaw.execution import known, sweep
from cptlaw.fields import ConfigError
from cptlaw.fitting import Fit, unseen
from cptlaw.planning.confirmation import confirmation, in_words
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.studies import grid
from cptlaw.studies.prepared import Prepared, say, worse_than_guessing
from cptlaw.studies.questions import Asked, Part
from cptlaw.words import spread


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a study found for one of its parts.

    Attributes:
      name: the part's: the domain whose share was asked for, or mixture.
      decision: the recommendation, with its intervals; None when there is none.
      checked: prediction beside measurement of the confirming runs (`planning.confirmation`); None when there are
        none.
      report: the HTML file.
      reason: why there is no decision, or no confirming run.
      rejections: laws that their table rejects, and what helps; a decision says so itself.
    """

    name: str
    decision: Decision | None
    checked: pd.DataFrame | None
    report: Path
    reason: str = ""
    rejections: tuple[str, ...] = ()

    def text(self) -> str:
        """The answer, for a terminal."""
        lines = [*self.rejections, f"No answer for {self.name}: {self.reason}"]
        if self.decision:
            lines = [self.decision.text()]
        if self.checked is not None:
            times = int(self.checked["runs"].max())
            often = "once (it was" if times == 1 else f"{times} times (they were"
            lines += ["", f"  The recommended mix, trained {often} in no fit):", *in_words(self.checked)]
        elif self.decision:
            lines += ["", f"  The recommended mix was not trained: {self.reason}."]
        return "\n".join([*lines, "", f"  {self.report}"])


@dataclasses.dataclass(frozen=True)
class Said:
    """A finding that is no decision."""

    words: str

    def text(self) -> str:
        """The finding, for a terminal."""
        return self.words


def run(prepared: Prepared, *, retry_failed: bool = False, command: str = "") -> Iterator[Answer | Said]:
    """The whole loop after the token stores: grid, fits, answer, confirming runs, report; yields part by part.

    Args:
      retry_failed: train runs that failed before again.
      command: what the reports say made them.

    Raises:
      UserError: more than a quarter of the runs failed, or the table cannot be fitted.
    """
    table = train_grid(prepared, retry_failed=retry_failed)
    runs_table.write(table, prepared.workdir.table)
    prepared.workdir.publish()
    table = prepared.study.fit.rows(table)
    parts = prepared.study.question.parts(prepared.study)
    for part in parts:
        page = prepared.workdir.report(None if len(parts) == 1 else part.name)
        answer = _answer(prepared, part, part.rows(table), page, retry_failed, command)
        prepared.workdir.publish()
        yield answer
    if prepared.study.cross_domain is not None:
        said = Said(_cross_domain(prepared, table))
        prepared.workdir.publish()
        yield said


def _cross_domain(prepared: Prepared, table: pd.DataFrame) -> str:
    """Leaves each domain out in turn; what came of it, in words. A table that cannot tell is no error."""
    study, asked = prepared.study, prepared.study.cross_domain
    assert asked is not None
    size = grid.params(study, asked.probe_size) if asked.probe_size else None
    try:
        pooled = runs_table.by_domain(table, study.general, asked.probe_tokens, size)
        found = unseen.leave_out(pooled, tokens=asked.probe_tokens, size=size, leave=asked.leave_out, progress=True)
    except UserError as error:
        return f"cross-domain: not asked: {error}"
    atomic.write_text(prepared.workdir.cross_domain, found.table.to_csv(index=False))
    return f"cross-domain: {found.headline()} Every domain and method: {prepared.workdir.cross_domain}"


def train_grid(prepared: Prepared, *, retry_failed: bool = False, have: pd.DataFrame | None = None) -> pd.DataFrame:
    """Trains what is left of the grid; returns the runs table of all finished runs.

    `have` is a runs table: a run of which it holds all rows is finished, wherever it was trained.
    """
    runs = grid.plan(prepared.study, prepared.vocab_size, prepared.data)
    left = runs if have is None else known.left(runs, have)
    summary = prepared.sweep(left, "grid", retry_failed=retry_failed)
    if len(summary.failed) > len(runs) // 4:
        raise UserError(f"{len(summary.failed)} of {len(runs)} runs failed, which leaves too little to fit")
    table = sweep.collect(runs, prepared.workdir, have)
    say(worse_than_guessing(table, prepared.vocab_size))
    return table


def _answer(
    prepared: Prepared, part: Part, table: pd.DataFrame, page: Path, retry_failed: bool, command: str
) -> Answer:
    study, workdir = prepared.study, prepared.workdir
    for path in (workdir.answer(part.name), workdir.confirm(part.name)):  # an earlier answer's are not this one's
        workdir.remove(path)
    params = {size: grid.params(study, size) for size in study.sizes}
    for corpus, size in study.question.rebased(study).items():
        table = runs_table.rebased(table, corpus, params[size])
    asked = Asked(study, part, table, _fits(prepared, part, table), params)
    decision, confirmed, checked, reason = None, None, None, ""
    try:
        decision = study.question.decide(asked)
    except DecisionError as error:
        reason = str(error)
    else:
        decision.save(workdir.answer(part.name))
        confirmed, reason = _confirm(prepared, asked, decision, retry_failed)
    if decision is not None and confirmed is not None:
        runs_table.write(confirmed, workdir.confirm(part.name))
        checked = confirmation(asked.fits, confirmed[confirmed["tokens"] > 0], decision.level)
    path = report.write(
        page,
        title=f"{study.name}: {part.name}",
        table=table,
        fits=asked.fits,
        decisions=[decision] if decision else [],
        confirm=confirmed,
        command=command,
        level=study.question.level,
    )
    rejections = tuple(dict.fromkeys(line for fit in asked.fits.values() for line in fit.rejection))
    return Answer(part.name, decision, checked, path, reason, rejections)


def _fits(prepared: Prepared, part: Part, table: pd.DataFrame) -> dict[str, Fit]:
    """Evaluated corpus -> the law of its loss."""
    study = prepared.study
    held_out = study.held_out.rows(table)
    return {
        corpus: prepared.fit(
            prepared.workdir.fit(part.name, corpus),
            table,
            study.fit.law,
            corpus,
            bootstrap=study.fit.bootstrap,
            hold_out=held_out.to_numpy(),
            try_remedies=True,
        )
        for corpus in part.evals
    }


def _confirm(
    prepared: Prepared, asked: Asked, decision: Decision, retry_failed: bool
) -> tuple[pd.DataFrame | None, str]:
    """Trains what is recommended: (the rows of its runs, ""), or (None, why there are none)."""
    study = prepared.study
    if not decision.supported:
        return None, _unsettled(decision)
    if not study.confirm_runs:
        return None, "config.confirm_runs is 0"
    try:
        chosen = study.question.recommended(decision, asked)
        longer = study.lasting(chosen.tokens)
    except (DecisionError, ConfigError) as error:
        return None, str(error)
    bases = {run.size: run for run in reversed(grid.plan(study, prepared.vocab_size, prepared.data)) if not run.init}
    base = bases.get(chosen.size) or prepared.base(chosen.size)
    # Seeds that no run of the grid has, so that their data order is in no fit.
    seeds = range(1 + max(study.seeds()), 1 + max(study.seeds()) + study.confirm_runs)
    runs = [run for seed in seeds for run in grid.cpt_runs(longer, base, chosen.shares, seed, prepared.data)]
    first = [] if chosen.size in bases else [base]
    failed = prepared.sweep([*first, *runs], "confirm", retry_failed=retry_failed).failed
    if failed.keys() >= {run.id for run in runs}:
        return None, f"its run failed ({next(iter(failed.values()))})"
    return study.fit.rows(sweep.collect(runs, prepared.workdir)), ""


def _unsettled(decision: Decision) -> str:
    """Why a recommendation is not worth a run."""
    if (span := decision.interval.get("share")) is not None:
        return f"the runs do not settle the share, whose interval is {spread(*span)}"
    return "the runs do not settle it"
