"""Scores on disk: what `scoring.chunks` wrote, read without JAX."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cptlaw import records
from cptlaw.errors import UserError
from cptlaw.paths import local


class ScoreError(UserError):
    """Scores that are unfinished, or that belong to another model, corpus or chunk length."""


_AGAIN = "delete it and score again, which scores what is missing"
COLUMNS = ("document", "chunk", "tokens", "bytes", "nats")


def read(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """All rows, in the store's order: document, chunk, tokens, bytes, nats (`meta` says what of).

    Raises as `shards`.
    """
    return pd.concat(shards(directory), ignore_index=True)


def shards(directory: str | os.PathLike[str], every: int = 1) -> Iterator[pd.DataFrame]:
    """The rows of one shard after the other (of every n-th), each of whole documents.

    The checksums of the shards' pages are compared.

    Raises:
      ScoreError: nothing there, not finished, or a shard that is damaged.
    """
    directory = local(directory)
    last = -1
    for path in _paths(directory)[::every]:
        rows = _shard(path)
        document, chunk = rows["document"].to_numpy(), rows["chunk"].to_numpy()
        follows = (np.diff(document) > 0) & (chunk[1:] == 0) | (np.diff(document) == 0) & (np.diff(chunk) == 1)
        if len(rows) and not (follows.all() and chunk[0] == 0 and document[0] > last):
            raise ScoreError(f"{directory}: damaged: chunks are missing or out of order; {_AGAIN}")
        last = document[-1] if len(rows) else last
        yield rows


def count(directory: str | os.PathLike[str]) -> int:
    """How many rows all shards have, by their footers alone. Raises as `shards`."""
    return sum(_file(path).metadata.num_rows for path in _paths(local(directory)))


def _paths(directory: Path) -> list[Path]:
    paths = [shard_path(directory, i) for i in range(meta(directory)["shards"])]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise ScoreError(f"{directory}: {len(missing)} of {len(paths)} shards are missing; score again to finish it")
    return paths


def _file(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _shard(path: Path) -> pd.DataFrame:
    try:
        table = _file(path).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    wrong = set(COLUMNS).symmetric_difference(table.column_names)
    empty = [name for name in COLUMNS if name not in wrong and table[name].null_count]
    if wrong or empty:
        raise ScoreError(f"{path}: damaged (column {', '.join(sorted(wrong) or empty)}); {_AGAIN}")
    return table.to_pandas()


def _damaged(path: Path, error: Exception) -> ScoreError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ScoreError(f"{path}: damaged ({reason[:200]}); {_AGAIN}")


def meta(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What scores.json says: chunk, model, corpus, split, tokens_sha256, shards."""
    path = local(directory) / "scores.json"
    about = records.read(path, {"shards": int, "chunk": int}, "delete the directory and score again", ScoreError)
    if about is None:
        raise ScoreError(f"{directory}: no scores here (no scores.json); make them with cptlaw score")
    return about


def document_tokens(rows: pd.DataFrame, documents: pd.Series) -> np.ndarray:
    """How many tokens of each of `documents` are scored: (documents,)."""
    return rows.groupby("document")["tokens"].sum().loc[documents].to_numpy()


def shard_path(directory: Path, index: int) -> Path:
    return directory / f"shard-{index:05}.parquet"
