"""Runs whose rows a table holds already: what is left to train, and the table of both."""

from collections.abc import Iterable

import pandas as pd

from cptlaw.execution.run import Run
from cptlaw.runs import TableError

_COLUMNS = {"run", "tokens", "eval", "loss"}


def left(runs: Iterable[Run], table: pd.DataFrame) -> list[Run]:
    """The runs that the table does not hold, and those that they start from, in their order.

    A run is held when the table has a loss for all of its evaluations; an id says what a run computes, so equal ids are
    equal rows. Base models, which have no rows, and trunks count as needed by the runs that start from them.

    Raises TableError when the table lacks a column.
    """
    if missing := sorted(_COLUMNS - set(table)):
        raise TableError(f"the table of runs that are there has no column {', '.join(missing)}")
    held = set(_keys(table))
    planned = {run.id: run for run in runs}
    wanted: set[str] = set()
    todo = [run for run in planned.values() if run.init and run.eval_tokens and not held.issuperset(_rows(run))]
    while todo:
        run = todo.pop()
        wanted.add(run.id)
        todo += [planned[name] for name in run.needs if name in planned and name not in wanted]
    return [run for run in planned.values() if run.id in wanted]


def merged(runs: Iterable[Run], measured: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the runs in their order: those measured, and the table's own of what is not among them.

    Rows of the table that belong to none of the runs are left out.
    """
    place = {name: i for i, name in enumerate(dict.fromkeys(run.trunk or run.id for run in runs if run.init))}
    have = set(_keys(measured)) if len(measured) else set()
    old = table[[run in place and key not in have for run, key in zip(table["run"], _keys(table))]]
    both = pd.concat([measured, old], ignore_index=True) if len(measured) else old
    return both.sort_values("run", key=lambda names: names.map(place), kind="stable", ignore_index=True)


_Key = tuple[str, int, str, float]


def _keys(table: pd.DataFrame) -> list[_Key]:
    ema = table["ema"].fillna(0.0) if "ema" in table else [0.0] * len(table)
    return list(zip(table["run"], table["tokens"].astype(int), table["eval"], ema))


def _rows(run: Run) -> set[_Key]:
    """Its evaluations as (run, tokens, eval, ema), those before its first step too, which a branch leaves to its
    trunk."""
    at = run.eval_tokens if run.trunk else (0, *run.eval_tokens)
    kinds = {0.0, run.ema}
    return {(run.trunk or run.id, tokens, corpus, ema) for tokens in at for corpus in run.evals for ema in kinds}
