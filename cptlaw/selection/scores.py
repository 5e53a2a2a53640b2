"""Scores on disk: what `scoring.chunks` wrote, read without JAX."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cptlaw.errors import UserError


class ScoreError(UserError):
    """Scores that are unfinished, or that belong to another model, corpus or chunk length."""


def read(directory: str | os.PathLike[str]) -> pd.DataFrame:
    """All rows, in the store's order: document, chunk, tokens, bytes, nats (`meta` says what of).

    Raises:
      ScoreError: nothing there, or not finished.
    """
    directory = Path(directory)
    shards = [shard_path(directory, i) for i in range(meta(directory)["shards"])]
    missing = [path for path in shards if not path.exists()]
    if missing:
        raise ScoreError(f"{directory}: {len(missing)} of {len(shards)} shards are missing; score again to finish it")
    return pd.concat([pd.read_parquet(path) for path in shards], ignore_index=True)


def meta(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What scores.json says: chunk, model, corpus, split, tokens_sha256, shards."""
    path = Path(directory) / "scores.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ScoreError(f"{directory}: no scores here (no scores.json); make them with launch.score") from None
    except ValueError as error:
        raise ScoreError(f"{path}: cannot be read ({error}); delete the directory and score again") from None


def document_tokens(rows: pd.DataFrame, documents: pd.Series) -> np.ndarray:
    """How many tokens of each of `documents` are scored: (documents,)."""
    return rows.groupby("document")["tokens"].sum().loc[documents].to_numpy()


def shard_path(directory: Path, index: int) -> Path:
    return directory / f"shard-{index:05}.parquet"
