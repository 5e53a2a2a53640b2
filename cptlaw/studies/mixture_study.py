"""The whole loop of a study: corpora, grid, law, answer, confirming run, report. Every step resumes.

What it leaves in its directory: see `execution.workdir`.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from cptlaw import report
from cptlaw import runs as runs_table
from cptlaw.errors import UserError
from cptlaw.execution import known, sweep
from cptlaw.fitting import Fit
from cptlaw.models import transformer
from cptlaw.planning.confirmation import confirmation
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.tradeoff import measured_base, trade_off
from cptlaw.studies import grid
from cptlaw.studies.prepared import Prepared, say, worse_than_guessing


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a study found for one domain.

    Attributes:
      domain: the corpus whose share was asked for.
      decision: the recommended share, with its interval; None when no share meets the ceiling.
      checked: prediction beside measurement of the confirming run (`planning.confirmation`); None when there is
        none.
      report: the HTML file.
      reason: why there is no decision, or no confirming run.
      rejections: laws that their table rejects, and what helps; a decision says so itself.
    """

    domain: str
    decision: Decision | None
    checked: pd.DataFrame | None
    report: Path
    reason: str = ""
    rejections: tuple[str, ...] = ()

    def text(self) -> str:
        """The answer, for a terminal."""
        lines = [*self.rejections, f"No answer for {self.domain}: {self.reason}"]
        if self.decision:
            lines = [self.decision.text()]
        if self.checked is not None:
            lines += ["", "  The recommended mix, trained once (it was in no fit):"]
            lines += [
                f"  loss, {row.eval:<18}predicted {row.predicted:.4f} ({row.low:.4f} to {row.high:.4f}), "
                f"measured {row.measured:.4f}: {'inside' if row.inside else 'OUTSIDE'} the interval"
                for row in self.checked.itertuples()
            ]
        elif self.decision:
            lines += ["", f"  The recommended mix was not trained: {self.reason}."]
        return "\n".join([*lines, "", f"  {self.report}"])


def run(prepared: Prepared, *, retry_failed: bool = False, command: str = "") -> Iterator[Answer]:
    """The whole loop after the token stores: grid, fits, answer, confirming run, report; yields domain by domain.

    Args:
      retry_failed: train runs that failed before again.
      command: what the reports say made them.

    Raises:
      UserError: more than a quarter of the runs failed, or the table cannot be fitted.
    """
    table = train_grid(prepared, retry_failed=retry_failed)
    runs_table.write(table, prepared.workdir.table)
    for domain in prepared.study.domains:
        yield _answer(prepared, domain, table, retry_failed, command)


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


def _answer(prepared: Prepared, domain: str, table: pd.DataFrame, retry_failed: bool, command: str) -> Answer:
    study, workdir = prepared.study, prepared.workdir
    # The law of one domain is that of mixes of it and the general corpus; other domains' runs are other questions.
    others = [f"w_{name}" for name in study.domains if name != domain]
    table = table[(table[others] == 0).all(axis=1) & table["eval"].isin([study.general, domain])].drop(columns=others)
    for path in (workdir.answer(domain), workdir.confirm(domain)):  # an earlier answer's are not this one's
        path.unlink(missing_ok=True)
    fits = _fits(prepared, domain, table)
    decision, confirmed, checked, reason = None, None, None, ""
    try:
        decision = _decide(prepared, domain, table, fits)
    except DecisionError as error:
        reason = str(error)
    else:
        decision.save(workdir.answer(domain))
        confirmed, reason = _confirm(prepared, domain, decision, retry_failed)
    if decision is not None and confirmed is not None:
        runs_table.write(confirmed, workdir.confirm(domain))
        checked = confirmation(fits, confirmed[confirmed["tokens"] > 0], decision.level)
    path = report.write(
        workdir.report(None if len(study.domains) == 1 else domain),
        title=f"{study.name}: {domain}",
        table=table,
        fits=fits,
        decisions=[decision] if decision else [],
        confirm=confirmed,
        command=command,
    )
    rejections = tuple(dict.fromkeys(line for fit in fits.values() for line in fit.rejection))
    return Answer(domain, decision, checked, path, reason, rejections)


def _fits(prepared: Prepared, domain: str, table: pd.DataFrame) -> dict[str, Fit]:
    """Evaluated corpus -> the law of its loss."""
    study = prepared.study
    held_out = (table["model"] == study.held_out.size) & (table["tokens"] > study.held_out.tokens)
    return {
        corpus: prepared.fit(
            prepared.workdir.fit(domain, corpus),
            table,
            study.fit.law,
            corpus,
            bootstrap=study.fit.bootstrap,
            hold_out=held_out.to_numpy(),
            try_remedies=True,
        )
        for corpus in (study.general, domain)
    }


def _decide(prepared: Prepared, domain: str, table: pd.DataFrame, fits: dict[str, Fit]) -> Decision:
    """The largest share that the ceiling allows, at the held-out size and all tokens. Raises DecisionError."""
    study = prepared.study
    params = transformer.count_params(prepared.base(study.held_out.size).config)["non_embedding"]
    base_loss, base_loss_se = measured_base(table, study.general, params)
    return trade_off(
        fits[study.general],
        fits[domain],
        params=params,
        tokens=study.cpt.tokens,
        base_loss=base_loss,
        base_loss_se=base_loss_se,
        tolerance=study.question.tolerance,
        confidence=study.question.confidence,
    )


def _confirm(
    prepared: Prepared, domain: str, decision: Decision, retry_failed: bool
) -> tuple[pd.DataFrame | None, str]:
    """Trains the recommended mix once: (its rows, ""), or (None, why there are none)."""
    study = prepared.study
    if not decision.supported:
        low, high = decision.interval["share"]
        return None, f"the runs do not settle the share, whose interval is {low:.0%} to {high:.0%}"
    # Rounded as a person would type it; a seed that no run of the grid has, so that its data order is in no fit.
    share, seed = round(decision.point["share"], 3), 1 + max(study.seeds())
    runs = grid.cpt_runs(study, prepared.base(study.held_out.size), {domain: share}, seed, prepared.data)
    if failed := prepared.sweep(runs, "confirm", retry_failed=retry_failed).failed:
        return None, f"its run failed ({next(iter(failed.values()))})"
    return sweep.collect(runs, prepared.workdir), ""
