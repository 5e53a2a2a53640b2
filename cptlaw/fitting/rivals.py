"""Predictions that need no law, from the fitted rows; every fit is scored beside them on the same held-out rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.errors import UserError
from cptlaw.laws import Law, Param
from cptlaw.laws.base import BILLION

RIDGES = 10.0 ** np.arange(-6, 3)
TREES = 300  # boosting rounds of lightgbm
NEARLY = 0.05  # of log size: nearer sizes are one
ALIKE = 1e-9  # relative: rivals whose predictions differ by less are one


def predict(fitted: pd.DataFrame, wanted: pd.DataFrame, trees: bool = False) -> dict[str, np.ndarray]:
    """Rival -> predicted loss (wanted rows,); one that has nothing to go by for some row is left out.

    - mean: of the fitted rows;
    - nearest_size: the nearest size, then mix, then tokens;
    - carry_tokens: the last value before the wanted tokens of the nearest mix and size;
    - interpolate_ratio: linear in the evaluated corpus's share, at the nearest size and then the nearest tokens;
    - extend_run: the run itself (or its size and mix), log-linear in log tokens through its last two checkpoints;
    - shift_from_smaller: the run itself, plus what the next smaller size with that mix changed over the same tokens;
    - two_largest: log-linear in log size through the two largest sizes, at the wanted tokens and mix;
    - parallel_shares: the nearest size's curve in the share, shifted by the difference at the shares that both have;
    - ridge: log loss linear in log size, log tokens, shares and their roots; penalty by generalised cross-validation;
    - gaussian_process: the process of `fitting.condition` about a log-linear mean, with no law in it;
    - lightgbm: boosted trees on what `ridge` sees, where `trees` asks for them and the extra `lightgbm` is installed.
    """
    out: dict[str, np.ndarray] = {}
    for corpus, rows in wanted.groupby("eval", sort=False):
        train = fitted[fitted["eval"] == corpus]
        if train.empty:
            continue
        here = wanted["eval"].to_numpy() == corpus
        found = _each(train, rows, str(corpus)) | (_trees(train, rows) if trees else {})
        for name, one in found.items():
            out.setdefault(name, np.full(len(wanted), np.nan))[here] = one
    return {name: values for name, values in out.items() if np.isfinite(values).all()}


def distinct(found: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rivals that predict the same are one, under the first's name; and which are one, as "a = b"."""
    out: dict[str, np.ndarray] = {}
    alike: dict[str, list[str]] = {}
    for name, values in found.items():
        twin = next((other for other, known in out.items() if np.allclose(known, values, rtol=ALIKE, atol=0)), None)
        if twin is None:
            out[name] = values
        else:
            alike.setdefault(twin, [twin]).append(name)
    return out, [" = ".join(names) for names in alike.values()]


def shown(name: str, alike: Sequence[str]) -> str:
    """A rival's name, with those of the rivals that are one with it."""
    return next((text for text in alike if text.split(" = ")[0] == name), name)


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
    known = _Known(train, share)
    for name, rule in (
        ("extend_run", _extend), ("shift_from_smaller", _shift), ("two_largest", _two_largest),
        ("parallel_shares", _parallel),
    ):  # fmt: skip
        out[name] = np.array([rule(known, row) for row in rows.to_dict("records")], float)
    out["ridge"] = _ridge(train, rows)
    out["gaussian_process"] = _process(train, rows)
    return out


class _Known:
    """The fitted rows as arrays, for rules that go by curves in tokens of one size and mix."""

    def __init__(self, train: pd.DataFrame, share: str):
        self.columns = {c: train[c].to_numpy(float) for c in ("params", "tokens") if c in train}
        self.mixes = {f"w_{c}": train[f"w_{c}"].to_numpy(float) for c in runs.corpora(train)}
        self.run = train["run"].astype(str).to_numpy() if "run" in train else np.full(len(train), "")
        self.log_loss = np.log(train["loss"].to_numpy(float))
        self.share = share if _varies(train, share) else None
        self.curves: dict[float, dict[float, np.ndarray]] = {}
        if self.share and "params" in self.columns:
            sizes, shares = self.columns["params"], self.mixes[self.share]
            for size in np.unique(sizes):
                self.curves[float(size)] = {
                    float(r): (sizes == size) & (shares == r) for r in np.unique(shares[sizes == size])
                }

    def alike(self, row: Mapping[str, Any], *names: str) -> np.ndarray:
        """Rows with the wanted row's mix and its values of `names`."""
        same = np.ones(len(self.log_loss), bool)
        for name, values in {**{n: self.columns[n] for n in names if n in self.columns}, **self.mixes}.items():
            same &= np.isclose(values, row[name], rtol=1e-6, atol=1e-6)
        return same

    def own(self, row: Mapping[str, Any]) -> np.ndarray:
        """The rows of the wanted row's run, or else of its size and mix."""
        same = self.run == str(row["run"]) if "run" in row else np.zeros(len(self.run), bool)
        return same if same.any() else self.alike(row, "params")

    def at(self, which: np.ndarray, tokens: float) -> float:
        """Their log loss at `tokens`: linear in log tokens, beyond the ends through the last two; else NaN."""
        if not which.any():
            return np.nan
        log_loss = self.log_loss[which]
        if "tokens" not in self.columns:
            return float(log_loss.mean())
        where, place = np.unique(np.log(self.columns["tokens"][which]), return_inverse=True)
        value, at = np.bincount(place, log_loss) / np.bincount(place), np.log(tokens)
        if len(where) == 1:
            return float(value[0]) if abs(at - where[0]) < 1e-9 else np.nan
        if where[0] <= at <= where[-1]:
            return float(np.interp(at, where, value))
        a, b = (-2, -1) if at > where[-1] else (0, 1)
        return float(value[b] + (value[b] - value[a]) / (where[b] - where[a]) * (at - where[b]))


def _extend(known: _Known, row: Mapping[str, Any]) -> float:
    return float(np.exp(known.at(known.own(row), row["tokens"]))) if "tokens" in known.columns else np.nan


def _shift(known: _Known, row: Mapping[str, Any]) -> float:
    if not {"tokens", "params"} <= set(known.columns):
        return np.nan
    own, sizes, tokens = known.own(row), known.columns["params"], known.columns["tokens"]
    smaller = known.alike(row) & (sizes < row["params"] * (1 - 1e-6))
    if not own.any() or not smaller.any():
        return np.nan
    smaller &= sizes == sizes[smaller].max()
    before = own & (tokens <= row["tokens"])
    start = tokens[before].max() if before.any() else tokens[own].min()
    return float(np.exp(known.at(own, start) + known.at(smaller, row["tokens"]) - known.at(smaller, start)))


def _two_largest(known: _Known, row: Mapping[str, Any]) -> float:
    if "params" not in known.columns:
        return np.nan
    sizes, alike = known.columns["params"], known.alike(row)
    found: list[tuple[float, float]] = []
    for size in np.unique(sizes[alike])[::-1]:
        value = known.at(alike & (sizes == size), row.get("tokens", 1.0))
        if np.isfinite(value) and not (found and found[0][0] - np.log(size) < NEARLY):
            found.append((float(np.log(size)), value))
        if len(found) == 2:
            (n2, y2), (n1, y1) = found
            return float(np.exp(y2 + (y2 - y1) / (n2 - n1) * (np.log(row["params"]) - n2)))
    return np.nan


def _parallel(known: _Known, row: Mapping[str, Any]) -> float:
    if known.share is None or not known.curves:
        return np.nan

    def curve(size: float) -> dict[float, float]:
        values = {r: known.at(which, row.get("tokens", 1.0)) for r, which in known.curves[size].items()}
        return {r: value for r, value in values.items() if np.isfinite(value)}

    # The curve to shift is the one nearest in size that has shares beside the wanted size's own.
    order = sorted(known.curves, key=lambda n: abs(np.log(n / row["params"])))
    own = curve(order[0]) if np.isclose(order[0], row["params"]) else {}
    for size in order:
        other = curve(size)
        common = set(own) & set(other)
        if np.isclose(size, row["params"]) or not common or len(other) < 2:
            continue
        knots = sorted(other)
        shift = np.mean([own[r] - other[r] for r in common])
        return float(np.exp(np.interp(row[known.share], knots, [other[r] for r in knots]) + shift))
    return np.nan


def _features(rows: pd.DataFrame, names: list[str]) -> np.ndarray:
    logs = [np.log(rows[c].to_numpy(float)) for c in ("params", "tokens") if c in rows]
    shares = [rows[c].to_numpy(float) for c in names]
    return np.stack([*logs, *shares, *map(np.sqrt, shares)], axis=1) if logs or shares else np.zeros((len(rows), 0))


def _ridge(train: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    names = [f"w_{c}" for c in runs.corpora(train)]
    x, wanted = _features(train, names), _features(rows, names)
    if not np.isfinite(x).all() or not np.isfinite(wanted).all():
        return np.full(len(rows), np.nan)
    y = np.log(train["loss"].to_numpy(float))
    centre, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-9)
    x, wanted = (x - centre) / scale, (wanted - centre) / scale
    left, size, right = np.linalg.svd(x, full_matrices=False)
    kept = left.T @ (y - y.mean())
    best, answer = np.inf, np.full(len(rows), np.nan)
    for ridge in RIDGES * len(y):
        shrink = size**2 / (size**2 + ridge)
        off = (y - y.mean()) - left @ (shrink * kept)
        criterion = (off @ off) / max(len(y) - 1 - shrink.sum(), 1e-9) ** 2
        if criterion < best:
            best, answer = criterion, y.mean() + wanted @ (right.T @ (size / (size**2 + ridge) * kept))
    return np.exp(answer)


def _trees(train: pd.DataFrame, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    try:
        import lightgbm
    except ImportError:
        return {}
    names = [f"w_{c}" for c in runs.corpora(train)]
    x, wanted = _features(train, names), _features(rows, names)
    if not x.shape[1] or not np.isfinite(x).all() or not np.isfinite(wanted).all():
        return {}
    settings = {
        "objective": "l2", "learning_rate": 0.05, "num_leaves": 8, "min_data_in_leaf": max(2, len(x) // 20),
        "min_data_in_bin": 1, "deterministic": True, "force_row_wise": True, "num_threads": 1, "seed": 0, "verbose": -1,
    }  # fmt: skip
    grown = lightgbm.train(settings, lightgbm.Dataset(x, np.log(train["loss"].to_numpy(float))), TREES)
    return {"lightgbm": np.exp(np.asarray(grown.predict(wanted), float))}


def _process(train: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    from cptlaw.fitting.condition import condition

    columns = tuple(c for c in ("params", "tokens") if _varies(train, c))
    shares = tuple(f"w_{c}" for c in runs.corpora(train) if _varies(train, f"w_{c}"))
    try:
        found = condition(
            log_linear(columns, shares),
            {"a": float(np.log(train["loss"].to_numpy(float)).mean())} | {f"b[{c}]": 0.0 for c in (*columns, *shares)},
            {c: train[c].to_numpy(float) for c in (*columns, *shares)},
            train["loss"].to_numpy(float),
            train["run"].tolist() if "run" in train else [str(i) for i in range(len(train))],
        )
        run = rows["run"].to_numpy() if "run" in rows else None
        return np.exp(found.predict({c: rows[c].to_numpy(float) for c in (*columns, *shares)}, "run", run).mean)
    except (UserError, np.linalg.LinAlgError):
        return np.full(len(rows), np.nan)


def log_linear(columns: tuple[str, ...], shares: tuple[str, ...]) -> Law:
    """A law without a scaling law in it: log loss linear in the logarithms of `columns` and in `shares`."""

    def function(p: Any, x: Any, xp: Any) -> Any:
        values, at = vars(p), vars(x)
        total = p.a
        for name in (*columns, *shares):
            total = total + values[f"b[{name}]"] * (at[name] if name in shares else xp.log(at[name] / BILLION))
        return xp.exp(total)

    params = (Param("a", -50, 50, (-1.0, 3.0)), *(Param(f"b[{c}]", -10, 10, (-1.0, 1.0)) for c in (*columns, *shares)))
    return Law("log_linear", "log-linear", "exp(a + sum b_j z_j)", "no law", params, (*columns, *shares), function)


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
