"""From a file to a checked runs table."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cptlaw.paths import local
from cptlaw.runs import combined, doubts, formats, headers, text
from cptlaw.runs.conditions import select
from cptlaw.runs.contract import SHARE_TOLERANCE, TEXT, Locator, TableError, checked, corpora, typed
from cptlaw.runs.derived import bits_per_byte


def read(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    *,
    eval: str | None = None,
    losses: Mapping[str, str] | None = None,
    join: str | os.PathLike[str] | None = None,
    constants: Mapping[str, Any] | None = None,
    tokens_per_step: float | None = None,
    encoding: str | None = None,
    max_line: int = text.LINE_BYTES,
    trust_units: bool = False,
    per_byte: bool = False,
) -> pd.DataFrame:
    """Reads and checks a runs table.

    Args:
      path: CSV (also with semicolons, tabs or bars, and decimal commas), JSON Lines, a JSON array, Parquet or Feather,
        by suffix; text also compressed (.gz, .bz2, .xz).
      columns: our name -> the file's header, e.g. `{"params": "N"}`. A `*` on both sides stands for many:
        `{"w_*": "train_the_pile_*"}`.
      where: rows to keep, a condition on our names, e.g. `"params < 1e9"` (`cptlaw.runs.conditions`).
      eval: the evaluated corpus of a table that has no such column.
      losses: of a table with one loss column a corpus: corpus -> the file's header, e.g. `{"med": "val/loss_med"}`, or
        `{"*": "val/loss_*"}`.
      join: a second table, whose columns are added to the rows of the same run (or index, name, ...).
      constants: columns that are the same in all rows, e.g. `{"params": 7e9}`.
      tokens_per_step: makes `tokens` of the column `step`: sequences in a batch times the tokens of each.
      encoding: of the text; None: UTF-8, or what its byte order mark says.
      max_line: bytes; a text with a longer line is refused before it is held in memory.
      trust_units: accept sizes, tokens and losses that look as if they were in another unit.
      per_byte: losses in bits per byte of text, by the column `bytes_per_token` (see `bits_per_byte`).

    A file without `run` takes its runs from a header such as Name or run_id, or gets one run a row; one without `eval`
    gets the single corpus "loss". How a file was understood, where it is not plain, is told in `attrs["notes"]` of the
    table; what it was asked to be read by, in `attrs["reading"]`.

    Raises:
      TableError: unreadable file, unknown header, bad row.
    """
    path = local(path)
    columns, losses = dict(columns or {}), dict(losses or {})
    loaded = _load(path, columns, losses, encoding, max_line)
    return assembled(
        loaded, path, columns=columns, where=where, eval=eval, losses=losses, constants=constants,
        tokens_per_step=tokens_per_step, trust_units=trust_units, encoding=encoding,
        join=join, other=joined(join, columns, losses, encoding, max_line), per_byte=per_byte,
    )  # fmt: skip


def joined(
    path: str | os.PathLike[str] | None,
    columns: Mapping[str, str],
    losses: Mapping[str, str],
    encoding: str | None = None,
    max_line: int = text.LINE_BYTES,
) -> pd.DataFrame | None:
    """The rows of a table that is joined to another, under the headers of the file; None for no table."""
    if path is None:
        return None
    loaded = _load(local(path), columns, losses, encoding, max_line)
    return _plain(loaded, path, [*columns.values(), *losses.values()])[0]


def _load(
    path: Path, columns: Mapping[str, str], losses: Mapping[str, str], encoding: str | None, max_line: int
) -> text.Loaded:
    """A file's rows under the headers of the file."""
    if not path.is_file():
        why = "a directory, not a file" if path.is_dir() else "no such file"
        if str(path).partition(":")[0] in ("wandb", "tensorboard", "lm-eval"):
            why = f"a table is read from a file: cptlaw runs import {path} --out runs.csv makes one"
        raise TableError(f"{path}: {why}")
    theirs = [*columns.values(), *losses.values()]
    return formats.load(
        path,
        columns=headers.Wanted([columns[name] for name in columns if name not in TEXT] + list(losses.values())),
        text=[columns[name] for name in columns if name in TEXT],
        encoding=encoding,
        limit=max_line,
        rename=lambda names: headers.canonical(names, theirs),
    )


def _plain(loaded: text.Loaded, path: Any, theirs: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Cells of numbers, truth values and text only, without empty rows; and what was done."""
    notes = list(loaded.notes)
    df, said = headers.plain(loaded.frame, path, [headers.clean(name) for name in theirs])
    notes += said
    return _filled(df, notes), notes


def assembled(
    loaded: text.Loaded,
    path: Any,
    *,
    columns: Mapping[str, str],
    where: str | None,
    eval: str | None,
    losses: Mapping[str, str],
    constants: Mapping[str, Any] | None,
    tokens_per_step: float | None,
    trust_units: bool,
    encoding: str | None = None,
    join: str | os.PathLike[str] | None = None,
    other: pd.DataFrame | None = None,
    per_byte: bool = False,
) -> pd.DataFrame:
    """The checked table of rows that were loaded from `path`; the arguments are those of `read`.

    Args:
      other: the rows of the table `join`.
    """
    theirs = [*columns.values(), *losses.values()]
    df, notes = _plain(loaded, path, theirs)
    given = [headers.clean(name) for name in df.columns]
    origin = None  # where rows were made from others: the file's row of each
    if "loss" not in given and (chart := headers.panel(df, [headers.clean(name) for name in theirs])) is not None:
        table, rows, said = chart
        df, origin, notes = table, df.index.to_numpy()[rows], notes + said
    if other is not None:
        table, rows, said = combined.join(df, other, path, join)
        df, origin, notes = table, (df.index.to_numpy() if origin is None else origin)[rows], notes + said
    df, said = headers.rename(df, columns, path)
    notes += said
    if losses:
        table, rows, said = headers.unpivot(df, losses, path)
        df, origin, notes = table, (df.index.to_numpy() if origin is None else origin)[rows], notes + said
    if len(df) == 0:
        raise TableError(f"{path}: the table has no rows")
    if "loss" not in df:
        raise headers.no_loss(df, path)
    if "run" not in df:
        df["run"] = _runs(df, notes)
    if "eval" not in df:
        df["eval"] = "loss" if eval is None else eval
    if tokens_per_step is not None:
        df = combined.tokens_of_steps(df, tokens_per_step, path)
    df = combined.written_out(combined.with_constants(df, constants or {}, path), notes)
    df = headers.spell_corpora(_labels(df, notes), given)

    def line(label: Any) -> str:
        return loaded.line(int(label if origin is None else origin[label]))

    if where is not None:
        before = typed(df, Locator(df, path, line), strict=False)
        df = df.loc[select(before, where, f"{path}: --where", Locator(before, path, line)).index]
        if len(df) == 0:
            raise TableError(f"{path}: no row satisfies {where!r}")
    df = _summing_to_one(checked(df, Locator(df, path, line)), notes)
    if not trust_units and (asked := doubts.units(df)):
        raise TableError(f"{path}: {asked[0]}. If it is right as it is, say so with --trust-units")
    if per_byte:
        df = bits_per_byte(df, path)
        notes.append("losses are bits per byte, by bytes_per_token")
    asked_for = {
        "columns": dict(columns), "losses": dict(losses), "constants": dict(constants or {}), "where": where,
        "eval": eval, "join": None if join is None else str(join), "tokens_per_step": tokens_per_step,
        "encoding": encoding, "trust_units": trust_units or None,
        "per_byte": per_byte or None,
    }  # fmt: skip
    df.attrs["notes"] = notes
    df.attrs["reading"] = {"table": str(path)} | {name: value for name, value in asked_for.items() if value}
    return df


def _runs(df: pd.DataFrame, notes: list[str]) -> list[str]:
    """The runs of a table without that column: a header that trackers name them by, else one a row."""
    folded = {str(name).casefold(): str(name) for name in df.columns}
    for name in ("name", "run_name", "run_id", "run id"):
        if name in folded and (column := df[folded[name]]).dtype.kind in "OUT" and column.notna().all():
            notes.append(f"runs are told by {folded[name]!r}")
            return [str(value) for value in column]
    return [f"row-{i + 1}" for i in range(len(df))]


def _summing_to_one(df: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Rounded shares of many corpora, which sum to nearly 1, divided by their sum."""
    names = [f"w_{name}" for name in corpora(df)]
    total = df[names].sum(axis=1)
    rounded = ((total - 1).abs() > SHARE_TOLERANCE) & (total > 0)
    if names and rounded.any():
        df.loc[rounded, names] = df.loc[rounded, names].div(total[rounded], axis=0)
        notes.append(f"the shares of {int(rounded.sum())} rows are rounded and are divided by their sum")
    return df


def read_columns(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A table that is no runs table (candidates, reachable spreads): any of the formats, under our names.

    Raises:
      TableError: unreadable file.
    """
    path = local(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    loaded = formats.load(path, rename=headers.canonical)
    df, _ = headers.rename(_filled(headers.plain(loaded.frame, path)[0], []), {}, path)
    return typed(df, Locator(df, path, lambda label: loaded.line(int(label))))


def _filled(df: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The table without rows of empty cells, which spreadsheets leave below it."""
    empty = np.ones(len(df), bool)
    for i in sorted(range(df.shape[1]), key=lambda i: df.dtypes.iloc[i].kind not in "fiub"):  # numbers tell at once
        if not empty.any():
            return df
        cells = df.iloc[:, i]
        if cells.dtype.kind in "fiub":
            empty &= cells.isna().to_numpy()
        else:
            empty[empty] = [value is None or value != value or not str(value).strip() for value in cells[empty]]
    if empty.any() and df.shape[1]:
        notes.append(f"{int(empty.sum())} empty rows are left out")
    return df[~empty] if df.shape[1] else df


def _labels(df: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The table with labels freed of the blanks around them."""
    for name in (name for name in TEXT if name in df):
        codes, values = pd.factorize(df[name])
        better = np.array([*(headers.clean(v) or None if isinstance(v, str) else v for v in values), None], object)
        changed = np.array([*(a is not b and a != b for a, b in zip(better, values)), False])
        if changed.any():
            notes.append(f"{name}: {int(changed[codes].sum())} labels had blanks around them, which are left out")
        df[name] = pd.Series(better[codes], df.index, object)
    return df
