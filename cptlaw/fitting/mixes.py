"""Which mixes the fitted runs can speak of: those in the plane that their own mixes span.

Shapes: R rows, K corpora whose share varied, M mixes asked about, C directions in which the fitted mixes did not move.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import runs

TOGETHER = 1e-3  # shares that leave a plane by less than this have not moved out of it
PART = 0.05  # weight in a direction above which a corpus is named as part of it


def in_step(rows: pd.DataFrame) -> list[tuple[str, ...]]:
    """Groups of corpora whose shares varied, but always in step with each other (beyond summing to 1)."""
    names = _varied(rows)
    return [_part(names, direction) for direction in _unmoved_directions(_shares(rows, names))] if names else []


def outside(rows: pd.DataFrame, x: Mapping[str, Any]) -> tuple[str, ...]:
    """The corpora whose shares a question moves apart, though they were in step in every fitted row; or none.

    Args:
      rows: fitted rows with columns `w_<corpus>`.
      x: columns of the question, broadcasting; one that does not give every share is not checked.
    """
    names = _varied(rows)
    if not names or not all(f"w_{name}" in x for name in names):
        return ()
    fitted_RK = _shares(rows, names)
    directions_CK = _unmoved_directions(fitted_RK)
    asked = np.broadcast_arrays(*(np.asarray(x[f"w_{name}"], float) for name in names))
    off_MC = (np.stack([a.ravel() for a in asked], axis=1) - fitted_RK.mean(axis=0)) @ directions_CK.T
    if not off_MC.size or np.abs(off_MC).max() <= 2 * TOGETHER:
        return ()
    return _part(names, directions_CK[np.abs(off_MC).max(axis=0).argmax()])


def _varied(rows: pd.DataFrame) -> list[str]:
    return [name for name in sorted(runs.corpora(rows)) if np.ptp(rows[f"w_{name}"].to_numpy(float)) > TOGETHER]


def _shares(rows: pd.DataFrame, names: list[str]) -> np.ndarray:
    return rows[[f"w_{name}" for name in names]].to_numpy(float)


def _unmoved_directions(mixes_RK: np.ndarray) -> np.ndarray:
    """Orthonormal directions (C, K) in which mixes did not move. That of their sum is left out: it never can."""
    mixes_RK = np.unique(mixes_RK, axis=0)  # a mix counts once, however many checkpoints it has
    count, size = mixes_RK.shape
    moved_RK = (mixes_RK - mixes_RK.mean(axis=0)) / np.sqrt(max(count, 1))
    sum_1K = np.full((1, size), 1.0)  # counted as moved
    _, length, directions = np.linalg.svd(np.vstack([moved_RK, sum_1K]), full_matrices=True)
    length = np.pad(length, (0, size - len(length)))
    return directions[length <= TOGETHER]


def _part(names: list[str], direction: np.ndarray) -> tuple[str, ...]:
    return tuple(name for name, weight in zip(names, direction) if abs(weight) > PART)
