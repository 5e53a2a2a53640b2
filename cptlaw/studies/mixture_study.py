"""The whole loop of a study: corpora, grid, law, answer, confirming run, report. Every step resumes.

WORKDIR/
  config.json    the study these runs belong to
  data/          vocabulary and token stores
  runs/          a directory a run (see rundir)
  runs.csv       the runs table
  fits/          one saved fit for each (domain, evaluated corpus)
  answer-*.json  the decision for each domain, and the confirming run's measurement
  report-*.html  the report of each domain, its figures beside it
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cptlaw import atomic, cache, fitting, report
from cptlaw import runs as runs_table
from cptlaw.data import build
from cptlaw.errors import UserError
from cptlaw.execution import rundir, sweep
from cptlaw.execution.run import Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.sweep import Summary
from cptlaw.models import transformer
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.tradeoff import measured_base, trade_off
from cptlaw.report import answer
from cptlaw.studies import grid
from cptlaw.studies.config import Study

# Changing these changes no run's numbers.
_ABOUT_NO_RUN = tuple(
    f"config.{field}" for field in ("workers", "together", "checkpoint_seconds", "fit", "question", "monitor")
)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A study with its workdir claimed and its token stores built.

    `data` is a digest of each corpus's store: a run's id changes with what it reads.
    """

    study: Study
    workdir: Path
    vocab_size: int
    data: dict[str, str]
    progress: bool

    def sweep(self, runs: list[Run], title: str) -> Summary:
        """Trains what is left of `runs`, as the study's config says."""
        return sweep.sweep(
            runs,
            self.workdir,
            workers=self.study.workers,
            together=self.study.together,
            checkpoint_seconds=self.study.checkpoint_seconds,
            monitor=self.study.monitor,
            progress=self.progress,
            title=title,
        )


def prepare(
    study: Study, workdir: str | os.PathLike[str], *, update_config: bool = False, progress: bool = True
) -> Prepared:
    """Claims the workdir for the study and builds its token stores, or finds them whole.

    Raises:
      UserError: the workdir holds another config's runs (`update_config` accepts that), or a corpus cannot be read.
    """
    workdir = Path(workdir)
    _claim_workdir(study, workdir, update_config)
    names = (study.general, *study.domains)
    stores = build.prepare(
        {name: study.corpora[name] for name in names},
        {**dataclasses.asdict(study.vocabulary), "train_on": study.general},
        workdir / "data",
        cache.directory(),
        validation_share=study.validation_share,
        progress=progress,
    )
    ledgers = {name: {split: store.ledger for split, store in stores[name].items()} for name in names}
    return Prepared(
        study=study,
        workdir=workdir,
        vocab_size=ledgers[study.general]["train"]["vocabulary"]["size"],
        data={
            name: " ".join(ledger["tokens_sha256"] for ledger in splits.values()) for name, splits in ledgers.items()
        },
        progress=progress,
    )


def train_grid(prepared: Prepared, *, retry_failed: bool = False) -> pd.DataFrame:
    """Trains what is left of the grid; returns the runs table of all finished runs."""
    runs = grid.plan(prepared.study, prepared.vocab_size, prepared.data)
    summary = _train(prepared, runs, "grid", retry_failed)
    if len(summary.failed) > len(runs) // 4:
        raise UserError(f"{len(summary.failed)} of {len(runs)} runs failed, which leaves too little to fit")
    return sweep.collect(runs, prepared.workdir)


def _claim_workdir(study: Study, workdir: Path, update_config: bool) -> None:
    path = workdir / "config.json"
    new = study.to_json()
    if path.exists() and not update_config:
        changed = [
            field
            for field in _differences(json.loads(path.read_text()), json.loads(new))
            if not field.startswith(_ABOUT_NO_RUN)
        ]
        if changed:
            raise UserError(
                f"{workdir}: holds the runs of another config; these fields differ: {', '.join(changed)}. Give another "
                "--workdir, or --update-config to keep the runs that both configs ask for and train the rest"
            )
    try:
        atomic.write_text(path, new)
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written ({error.strerror}); give another --workdir") from error


def _train(prepared: Prepared, runs: list[Run], title: str, retry_failed: bool) -> Summary:
    """Sweeps `runs`, and says which failed and why."""
    for run_ in runs:
        directory = RunDir(prepared.workdir, run_)
        if retry_failed and directory.state() == rundir.FAILED:
            directory.retry()
    summary = prepared.sweep(runs, title)
    if summary.failed:
        print(f"{len(summary.failed)} of {len(runs)} runs failed (--retry-failed trains them again):", file=sys.stderr)
        for name, reason in summary.failed.items():
            print(f"  {name}: {reason}", file=sys.stderr)
    return summary


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a study found for one domain.

    Attributes:
      decision: the recommended share, with its interval; None when no share meets the ceiling.
      checked: prediction beside measurement of the confirming run (`report.answer.confirmation`); None when there is
        none, because the data do not support a decision or the run failed.
      report: the HTML file.
      reason: why there is no decision.
    """

    domain: str
    decision: Decision | None
    checked: pd.DataFrame | None
    report: Path
    reason: str = ""

    def text(self) -> str:
        """The answer, for a terminal."""
        lines = [self.decision.text() if self.decision else f"No answer for {self.domain}: {self.reason}"]
        if self.checked is not None:
            lines += ["", "  The recommended mix, trained once (it was in no fit):"]
            lines += [
                f"  loss, {row.eval:<18}predicted {row.predicted:.4f} ({row.low:.4f} to {row.high:.4f}), "
                f"measured {row.measured:.4f}: {'inside' if row.inside else 'OUTSIDE'} the interval"
                for row in self.checked.itertuples()
            ]
        return "\n".join([*lines, "", f"  {self.report}"])


def run(prepared: Prepared, *, retry_failed: bool = False, command: str = "") -> Iterator[Answer]:
    """The whole loop after the token stores: grid, fits, answer, confirming run, report; yields domain by domain.

    Raises:
      UserError: more than a quarter of the runs failed, or the table cannot be fitted.
    """
    table = train_grid(prepared, retry_failed=retry_failed)
    runs_table.write(table, prepared.workdir / "runs.csv")
    for domain in prepared.study.domains:
        yield _answer(prepared, domain, table, retry_failed, command)


def _answer(prepared: Prepared, domain: str, table: pd.DataFrame, retry_failed: bool, command: str) -> Answer:
    study, workdir = prepared.study, prepared.workdir
    # The law of one domain is that of mixes of it and the general corpus; other domains' runs are other questions.
    others = [f"w_{name}" for name in study.domains if name != domain]
    table = table[(table[others] == 0).all(axis=1) & table["eval"].isin([study.general, domain])].drop(columns=others)
    held_out = (table["model"] == study.held_out.size) & (table["tokens"] > study.held_out.tokens)
    fits = {
        corpus: fitting.fit(
            table,
            law=study.fit.law,
            eval=corpus,
            bootstrap=study.fit.bootstrap,
            hold_out=held_out.to_numpy(),
            seed=study.seed,
            progress=prepared.progress,
        )
        for corpus in (study.general, domain)
    }
    for corpus, fit in fits.items():
        fit.save(workdir / "fits" / f"{domain}-{corpus}.json")
    base = grid.base_run(study, study.held_out.size, prepared.vocab_size, prepared.data)
    params = transformer.count_params(transformer.Config(**base.model))["non_embedding"]
    decision, confirmed, checked, reason = None, None, None, ""
    try:
        base_loss, base_loss_se = measured_base(table, study.general, params)
        decision = trade_off(
            fits[study.general],
            fits[domain],
            params=params,
            tokens=study.cpt.tokens,
            base_loss=base_loss,
            base_loss_se=base_loss_se,
            tolerance=study.question.tolerance,
            confidence=study.question.confidence,
        )
    except DecisionError as error:
        reason = str(error)
    confirm_path = workdir / f"confirm-{domain}.csv"
    confirm_path.unlink(missing_ok=True)
    if decision is not None:
        decision.save(workdir / f"answer-{domain}.json")
    if decision is not None and decision.supported:
        # Rounded as a person would type it; a seed that no run of the grid has, so that its data order is in no fit.
        share = round(decision.point["share"], 3)
        confirming = grid.cpt_runs(study, base, {domain: share}, 1 + max(study.seeds()), prepared.data)
        if not _train(prepared, confirming, "confirm", retry_failed).failed:
            confirmed = sweep.collect(confirming, workdir)
            runs_table.write(confirmed, confirm_path)
            checked = answer.confirmation(fits, confirmed[confirmed["tokens"] > 0], decision.level)
    path = report.write(
        workdir / ("report.html" if len(study.domains) == 1 else f"report-{domain}.html"),
        title=f"{study.name}: {domain}",
        table=table,
        fits=fits,
        decisions=[decision] if decision else [],
        confirm=confirmed,
        command=command,
    )
    return Answer(domain, decision, checked, path, reason)


def _differences(old: Any, new: Any, path: str = "config") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for key in sorted(old | new) for d in _differences(old.get(key), new.get(key), f"{path}.{key}")]
    return [] if old == new else [path]
