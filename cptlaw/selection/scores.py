"""Scores on disk: what `scoring.chunks` wrote, read without JAX."""

import os
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

    The checksums of the shards' pages are compared.

    Raises:
      ScoreError: nothing there, not finished, or a shard that is damaged.
    """
    directory = local(directory)
    shards = [shard_path(directory, i) for i in range(meta(directory)["shards"])]
    missing = [path for path in shards if not path.exists()]
    if missing:
        raise ScoreError(f"{directory}: {len(missing)} of {len(shards)} shards are missing; score again to finish it")
    rows = pd.concat([_shard(path) for path in shards], ignore_index=True)
    document, chunk = rows["document"].to_numpy(), rows["chunk"].to_numpy()
    follows = (np.diff(document) > 0) & (chunk[1:] == 0) | (np.diff(document) == 0) & (np.diff(chunk) == 1)
    if len(rows) and not (follows.all() and chunk[0] == 0):
        raise ScoreError(f"{directory}: damaged: chunks are missing or out of order; {_AGAIN}")
    return rows


def _shard(path: Path) -> pd.DataFrame:
    try:
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ScoreError(f"{path}: damaged ({reason[:200]}); {_AGAIN}") from None
    wrong = set(COLUMNS).symmetric_difference(table.column_names)
    empty = [name for name in COLUMNS if name not in wrong and table[name].null_count]
    if wrong or empty:
        raise ScoreError(f"{path}: damaged (column {', '.join(sorted(wrong) or empty)}); {_AGAIN}")
    return table.to_pandas()


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
