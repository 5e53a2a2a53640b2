"""Shipped runs tables, readable by name: `load("cpt8")`, or the name wherever the command line reads a table.

Each is a Parquet file with a data sheet in Markdown beside it: what its columns and corpora are, under which licences,
how noisy it is, and what it is not good for.
"""

import os
from importlib import resources
from pathlib import Path

import pandas as pd

from cptlaw import runs
from cptlaw.errors import UserError, did_you_mean
from cptlaw.paths import local


def names() -> tuple[str, ...]:
    """The tables that are shipped."""
    return tuple(sorted(path.stem for path in _folder().glob("*.parquet")))


def load(name: str) -> pd.DataFrame:
    """A shipped table, checked as any other. Raises UserError with the names that there are."""
    return runs.read(_shipped(name))


def sheet(name: str) -> str:
    """The data sheet of a shipped table, in Markdown. Raises UserError with the names that there are."""
    return _shipped(name).with_suffix(".md").read_text()


def path(table: str | os.PathLike[str]) -> Path:
    """The file of a table: `table` itself, or the shipped one of that name where there is no such file."""
    given = local(table)
    return _shipped(str(table)) if str(table) in names() and not given.exists() else given


def _shipped(name: str) -> Path:
    if name not in names():
        near = did_you_mean(name, names())
        raise UserError(f"no shipped table {name!r}; there are {', '.join(names())}" + (f"; {near}" if near else ""))
    return _folder() / f"{name}.parquet"


def _folder() -> Path:
    # A wheel is unpacked when it is installed, so package data are files.
    return Path(str(resources.files(__package__)))
