"""A study whose workdir is claimed and whose token stores are built: what both kinds of study train and fit with."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cptlaw import atomic, cache, fitting, records
from cptlaw.data import build
from cptlaw.errors import UserError
from cptlaw.execution import rundir, sweep
from cptlaw.execution.run import Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.sweep import Summary
from cptlaw.execution.workdir import Workdir
from cptlaw.fitting import Fit
from cptlaw.laws import Law
from cptlaw.studies import grid, inputs
from cptlaw.studies.settings import Study

if TYPE_CHECKING:
    from cptlaw.data.beam import Runner

# Changing these changes no run's numbers.
_ABOUT_NO_RUN = tuple(
    f"config.{field}"
    for field in (
        "workers",
        "devices_per_run",
        "together",
        "first",
        "checkpoint_seconds",
        "fit",
        "question",
        "confirm_runs",
        "monitor",
    )
)
# Text that is read more often teaches visibly less than fresh text (Muennighoff et al. 2023, arXiv 2305.16264).
PASSES = 4.0


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A study with its workdir claimed and its token stores built.

    Attributes:
      study: the checked config.
      workdir: where everything is kept.
      vocab_size: token ids of the vocabulary.
      data: corpus -> digest of its token store. A run's id changes with what it reads.
      progress: whether bars are shown on a terminal.
      sweeps: how many processes like this one, itself included, train the workdir's runs at the same time.
    """

    study: Study
    workdir: Workdir
    vocab_size: int
    data: dict[str, str]
    progress: bool
    sweeps: int = 1

    def base(self, size: str, seed: int | None = None) -> Run:
        """The run that makes the base model of a size; `seed` is the study's if none is given."""
        return grid.base_run(self.study, size, self.vocab_size, self.data, seed)

    def sweep(self, runs: list[Run], title: str, *, retry_failed: bool = False) -> Summary:
        """Trains what is left of `runs`, as the study's config says, and prints which failed and why.

        Args:
          title: the name of the progress bar.
          retry_failed: train those that failed before again.
        """
        for run in runs:
            directory = RunDir(self.workdir, run)
            if retry_failed and directory.state() == rundir.FAILED:
                directory.retry()
        summary = sweep.sweep(
            runs,
            self.workdir,
            workers=self.study.workers,
            devices_per_run=self.study.devices_per_run,
            together=self.study.together,
            sweeps=self.sweeps,
            listed=bool(self.study.first),
            checkpoint_seconds=self.study.checkpoint_seconds,
            monitor=self.study.monitor,
            progress=self.progress,
            title=title,
        )
        if summary.failed:
            lines = [f"{len(summary.failed)} of {len(runs)} runs failed (--retry-failed trains them again):"]
            lines += [f"  {name}: {reason}" for name, reason in summary.failed.items()]
            print("\n".join(lines), file=sys.stderr)
        return summary

    def fit(
        self, path: Path, table: pd.DataFrame, law: str | Law, corpus: str, *, bootstrap: int,
        hold_out: np.ndarray | None = None, try_remedies: bool = False,
    ) -> Fit:  # fmt: skip
        """Fits the rows of one evaluated corpus, and saves the fit at `path`."""
        fit = fitting.fit(
            table,
            law=law,
            eval=corpus,
            bootstrap=bootstrap,
            seed=self.study.seed,
            progress=self.progress,
            hold_out=hold_out,
            try_remedies=try_remedies,
        )
        fit.save(path)
        return fit


def prepare(
    study: Study,
    workdir: str | os.PathLike[str],
    *,
    update_config: bool = False,
    progress: bool = True,
    runner: "Runner | None" = None,
) -> Prepared:
    """Claims the workdir for the study and builds its token stores (by `runner`'s workers), or finds them whole.

    Raises:
      UserError: the workdir holds another config's runs (`update_config` accepts that), something that the config
        names is not there, or a corpus cannot be read.
    """
    workdir = Workdir(workdir)
    workdir.fetch()
    if not update_config:
        _refuse_another(study, workdir)
    inputs.check(study)
    claim_workdir(study, workdir, update_config)
    names = study.names
    stores = build.prepare(
        {name: study.corpora[name] for name in names},
        {**dataclasses.asdict(study.vocabulary), "train_on": study.general},
        workdir.data,
        cache.directory(),
        validation_share=study.validation_share,
        progress=progress,
        runner=runner,
    )
    ledgers = {name: {split: store.ledger for split, store in stores[name].items()} for name in names}
    prepared = Prepared(
        study=study,
        workdir=workdir,
        vocab_size=ledgers[study.general]["train"]["vocabulary"]["size"],
        data={
            name: " ".join(ledger["tokens_sha256"] for ledger in splits.values()) for name, splits in ledgers.items()
        },
        progress=progress,
    )
    workdir.publish()
    runs = grid.plan(study, prepared.vocab_size, prepared.data)
    say(repeated(runs, {name: splits["train"]["tokens"] for name, splits in ledgers.items()}))
    return prepared


def claim_workdir(study: Study, workdir: Workdir, update_config: bool) -> None:
    """Writes the study's config into the workdir. Raises UserError when runs of another config are there."""
    if not update_config:
        _refuse_another(study, workdir)
    try:
        atomic.write_text(workdir.config, study.to_json())
    except OSError as error:
        raise UserError(f"{workdir}: cannot be written ({error.strerror}); give another --workdir") from error


def repeated(runs: Iterable[Run], tokens: Mapping[str, int]) -> list[str]:
    """A warning for each corpus that a run reads more than `PASSES` times.

    Args:
      tokens: corpus -> training tokens of its store; other corpora are not looked at.
    """
    worst: dict[str, tuple[float, str]] = {}
    for run in runs:
        for corpus in run.shares.keys() & tokens.keys():
            passes = run.shares[corpus] * run.tokens / max(tokens[corpus], 1)
            worst[corpus] = max(worst.get(corpus, (0.0, "")), (passes, run.id))
    return [
        f"{run_id} reads the {tokens[corpus]:,} tokens of {corpus} {passes:.1f} times. After about {PASSES:g} times "
        "the same text teaches less than new text, which a law of tokens alone does not show: train fewer tokens, or "
        "give the corpus more text"
        for corpus, (passes, run_id) in worst.items()
        if passes > PASSES
    ]


def worse_than_guessing(table: pd.DataFrame, vocab_size: int) -> list[str]:
    """A warning for each base model whose loss is above that of a uniform guess, ln(vocab_size).

    Args:
      table: the runs table, whose rows at 0 tokens are the base models'.
    """
    limit = math.log(vocab_size)
    at_start = table[(table["tokens"] == 0) & (table["loss"] > limit)]
    return [
        f"the {row.model} base model's loss on {row.eval} is {row.loss:.3f} nats, above the {limit:.3f} of a uniform "
        f"guess over {vocab_size:,} token ids: is the vocabulary the model's own, and was the base model trained?"
        for row in at_start.drop_duplicates(["model", "eval"]).itertuples()
    ]


def say(warnings: Iterable[str]) -> None:
    """Prints warnings for the person at the terminal."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _refuse_another(study: Study, workdir: Workdir) -> None:
    cure = "--update-config writes it again and keeps the runs that this config asks for"
    if not workdir.config.exists() or (old := records.read(workdir.config, {}, cure)) is None:
        return
    changed = [field for field in _differences(old, json.loads(study.to_json())) if not field.startswith(_ABOUT_NO_RUN)]
    if changed:
        raise UserError(
            f"{workdir}: holds the runs of another config; these fields differ: {', '.join(changed)}. Give another "
            "--workdir, or --update-config to keep the runs that both configs ask for and train the rest"
        )


def _differences(old: Any, new: Any, path: str = "config") -> list[str]:
    """The fields that differ, by path. One that an earlier version did not have is no different while it is empty."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for key in sorted(old | new) for d in _differences(old.get(key), new.get(key), f"{path}.{key}")]
    return [] if old == new or not (old or new) else [path]
