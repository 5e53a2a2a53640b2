"""Predictions that need no law, from the fitted rows; every fit is scored beside them on the same held-out rows."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from cptlaw import runs


def predict(fitted: pd.DataFrame, wanted: pd.DataFrame) -> dict[str, np.ndarray]:
    """Baseline name -> predicted loss (wanted rows,); a baseline whose column is absent or constant is left out.

    - interpolate_ratio: linear in the evaluated corpus's share, at the nearest size and then the nearest tokens;
    - carry_tokens: the last value before the wanted tokens of the nearest mix and size;
    - nearest_size: the nearest size, then mix, then tokens;
    - mean: of the fitted rows.
    """
    out: dict[str, np.ndarray] = {}
    for corpus, rows in wanted.groupby("eval", sort=False):
        train = fitted[fitted["eval"] == corpus]
        if train.empty:
            continue
        for name, one in _each(train, rows, str(corpus)).items():
            out.setdefault(name, np.full(len(wanted), np.nan))[wanted["eval"].to_numpy() == corpus] = one
    return {name: values for name, values in out.items() if np.isfinite(values).all()}


def _each(train: pd.DataFrame, rows: pd.DataFrame, corpus: str) -> dict[str, np.ndarray]:
    y = train["loss"].to_numpy(float)
    size, tokens, mix = _gap(train, rows, ["params"]), _gap(train, rows, ["tokens"]), _mix_gap(train, rows)
    out = {"mean": np.full(len(rows), y.mean())}

    def nearest(order: Callable[[int], tuple[np.ndarray, ...]]) -> np.ndarray:
        return np.array([y[np.lexsort(order(i)[::-1])[0]] for i in range(len(rows))])

    if _varies(train, "params"):
        out["nearest_size"] = nearest(lambda i: (size[i], mix[i], tokens[i]))
    if _varies(train, "tokens"):
        later = (train["tokens"].to_numpy()[None] > rows["tokens"].to_numpy()[:, None]).astype(float)
        out["carry_tokens"] = nearest(lambda i: (mix[i], size[i], later[i], tokens[i]))
    share = f"w_{corpus}"
    if _varies(train, share):
        r, wanted_r = train[share].to_numpy(float), rows[share].to_numpy(float)
        values = []
        for i in range(len(rows)):
            near = size[i] == size[i].min()
            # Each ratio's row nearest in tokens: checkpoints of different runs need not share their token counts.
            rank = np.lexsort((tokens[i][near], r[near]))
            knots, first = np.unique(r[near][rank], return_index=True)
            values.append(np.interp(wanted_r[i], knots, y[near][rank][first]))
        out["interpolate_ratio"] = np.array(values)
    return out


def _varies(train: pd.DataFrame, name: str) -> bool:
    return name in train and train[name].nunique() > 1


def _gap(train: pd.DataFrame, rows: pd.DataFrame, names: list[str]) -> np.ndarray:
    gap = np.zeros((len(rows), len(train)))
    for name in names:
        if name in train:
            gap += np.abs(np.log(rows[name].to_numpy(float))[:, None] - np.log(train[name].to_numpy(float))[None])
    return gap.round(9)


def _mix_gap(train: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    gap = np.zeros((len(rows), len(train)))
    for corpus in runs.corpora(train):
        gap += np.abs(rows[f"w_{corpus}"].to_numpy(float)[:, None] - train[f"w_{corpus}"].to_numpy(float)[None])
    return gap.round(9)
