"""The runs table: one row is one evaluation of one run.

| column | meaning |
|---|---|
| `run` | id of the training run; its checkpoints share it |
| `params`, `tokens` | non-embedding parameters; CPT tokens seen, all corpora together; counts, not billions |
| `w_<corpus>` | token share of each training corpus; a row's shares sum to 1 |
| `eval`, `loss` | the corpus evaluated; its loss in nats per token |
| `status` | optional; a row that is not "ok" records a failed run and may lack a loss |

Other known columns are in `OPTIONAL`; a law names those it needs. `tokens == 0` is the base model before CPT.
The mixture ratio r is never stored: it is `w_<eval>` (`ratio`).
"""

import contextlib
import difflib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import atomic
from cptlaw.errors import UserError

REQUIRED = ("run", "eval", "loss")
OPTIONAL = (
    "params", "tokens", "unique_tokens", "loss_se", "seed", "model", "step", "pretrain_tokens", "flops",
    "status", "lr", "lr_sum", "lr_anneal", "lr_sum_pretrain", "lr_anneal_pretrain", "ppl_mean", "ppl_std",
    "k1", "k2", "k3", "subset", "base",
)  # fmt: skip
PREFIXES = ("w_", "unique_tokens_")
TEXT = ("run", "eval", "model", "status", "subset", "base")
SHARE_TOLERANCE = 1e-3
FORMATS = (".csv", ".parquet", ".jsonl")


class TableError(UserError):
    """A runs table that cannot be used; names the file, row, column and remedy."""


def read(
    path: str | os.PathLike[str], columns: Mapping[str, str] | None = None, where: str | None = None
) -> pd.DataFrame:
    """Reads and checks a runs table.

    Args:
      path: CSV, Parquet or JSONL, by suffix.
      columns: our name -> the file's header, e.g. `{"params": "N"}`.
      where: rows to keep, in pandas' query syntax on our names, e.g. `"params < 1e9"`.

    A file without `run` gets one run a row; one without `eval` gets the single corpus "loss".

    Raises:
      TableError: unreadable file, unknown header, bad row.
    """
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            df = pd.read_csv(path, dtype={(columns or {}).get(name, name): str for name in TEXT})
        elif suffix == ".parquet":
            df = pd.read_parquet(path)
        elif suffix == ".jsonl":
            df = pd.DataFrame(_lines(path))
        else:
            raise TableError(f"{path}: unknown format {suffix!r}; a runs table is {', '.join(FORMATS)}")
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parse errors are ValueErrors
        raise TableError(f"{path}: cannot be read as {suffix[1:]}: {error}") from error
    df = _rename(df, columns or {}, path)
    if len(df) == 0:
        raise TableError(f"{path}: the table has no rows")
    if "run" not in df:
        df["run"] = [f"row-{i + 1}" for i in range(len(df))]
    if "eval" not in df:
        df["eval"] = "loss"
    if where is not None:
        df = select(df, where, f"{path}: --where")
        if len(df) == 0:
            raise TableError(f"{path}: no row satisfies {where!r}")
    check(df, path)
    return _typed(df, _Locator(df, path))


def write(df: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Writes a table atomically; the format is the suffix (CSV, Parquet or JSONL)."""
    path = Path(path)
    with atomic.replacing(path) as temporary:
        if path.suffix == ".csv":
            df.to_csv(temporary, index=False)
        elif path.suffix == ".parquet":
            df.to_parquet(temporary, index=False)
        elif path.suffix == ".jsonl":
            temporary.write_text("".join(_dump(row) for row in df.to_dict("records")))
        else:
            raise TableError(f"{path}: unknown format {path.suffix!r}; a runs table is {', '.join(FORMATS)}")


def append(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends rows to a JSONL table in one fsynced write, safe between processes.

    A line torn by an earlier crash is removed first: its row never counted as written.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise TableError(f"{path}: rows can be appended to a .jsonl table only")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(_dump(row) for row in rows).encode()
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def check(df: pd.DataFrame, source: str | os.PathLike[str] = "table") -> list[str]:
    """Refuses a bad table; returns warnings about a doubtful one.

    Raises:
      TableError: naming source, row, column and remedy.
    """
    at = _Locator(df, source)
    for name in REQUIRED:
        if name not in df:
            raise TableError(
                f"{source}: no column {name!r} among {', '.join(map(str, df.columns))}; "
                f"name yours with --columns {name}=HEADER"
            )
    df = _typed(df, at)
    for name in ("run", "eval"):
        at.refuse(df[name].isna(), name, "is empty; give every row its run and evaluated corpus")

    done = finished(df)
    loss = df["loss"]
    at.refuse(done & ~np.isfinite(loss), "loss", 'is not finite; drop the row or set its status to "failed"')
    at.refuse(done & (loss <= 0), "loss", "is not positive; losses are nats per token")
    for name in ("params", "tokens"):
        if name in df:
            value, low = df[name], 0 if name == "tokens" else math.nan
            at.refuse(~np.isfinite(value), name, "is not finite; write a count")
            at.refuse((value < 0) | ((name == "params") & (value == 0)), name, "is not a positive count")
            small = (value < 1000) & (value != low)
            at.refuse(small, name, f"is too small for a count: is it in billions? Write {name} as a count (0.5e9)")
    if "loss_se" in df:
        at.refuse(df["loss_se"] < 0, "loss_se", "is a negative standard error")
    _check_shares(df, at)

    key = [name for name in ("run", "eval", "tokens", "step") if name in df]
    twice = df.duplicated(key, keep="first") & done
    at.refuse(
        twice,
        "run",
        f"repeats an earlier row's {', '.join(key)}; keep one (a repeat of a run needs its own id)",
    )
    return _warnings(df)


def finished(df: pd.DataFrame) -> pd.Series:
    """Rows that carry a result: `status` is absent, empty or "ok"."""
    if "status" not in df:
        return pd.Series(True, index=df.index)
    return df["status"].isna() | df["status"].isin(["", "ok"])


def corpora(df: pd.DataFrame) -> list[str]:
    """Names of the training corpora, in column order."""
    return [str(name)[2:] for name in df.columns if str(name).startswith("w_")]


def ratio(df: pd.DataFrame, eval: str) -> pd.Series:
    """Token share of the evaluated corpus in the training mix, `w_<eval>`.

    Raises:
      TableError: the corpus was not trained on.
    """
    if f"w_{eval}" not in df:
        trained = ", ".join(corpora(df)) or "none"
        raise TableError(
            f"no column w_{eval}: the mixture ratio is the evaluated corpus's token share (shares given for: "
            f"{trained}). Add w_{eval}, or map it: --columns w_{eval}=HEADER"
        )
    return df[f"w_{eval}"]


def select(df: pd.DataFrame, query: str, source: str = "rows") -> pd.DataFrame:
    """Rows satisfying a pandas query; a bad query is a TableError that lists the columns."""
    try:
        mask = df.eval(query, engine="python")
        if not isinstance(mask, pd.Series) or not pd.api.types.is_bool_dtype(mask):
            raise TypeError("it is not a condition")
        return df[mask]
    except (KeyError, SyntaxError, TypeError, ValueError, NameError, AttributeError) as error:
        raise TableError(f"{source} {query!r}: {error}; columns are {', '.join(map(str, df.columns))}") from error


def thin(df: pd.DataFrame, rate: float = 0.02, seed: int = 0) -> pd.DataFrame:
    """Rows with late checkpoints thinned out: a run's i-th is kept with probability exp(-rate i), its first always.

    What Que et al. 2024 (arXiv 2406.01375) found slightly best: late checkpoints differ little and outnumber the early
    ones. A checkpoint is kept or dropped for all evaluated corpora together.
    """
    if not rate >= 0:
        raise TableError(f"thinning rate {rate:g}: it is 0 (keep all) or more; the paper used 0.02")
    if "tokens" not in df:
        raise TableError("thinning needs the column 'tokens': it says which checkpoint is late")
    index = df.groupby("run")["tokens"].rank("dense").to_numpy() - 1
    points = pd.MultiIndex.from_frame(df[["run", "tokens"]])
    chance = pd.Series(np.random.default_rng(seed).random(points.nunique()), index=points.unique().sort_values())
    return df[chance[points].to_numpy() < np.exp(-rate * index)]


def learnability(df: pd.DataFrame, tokens: Sequence[float], where: str | None = None) -> pd.DataFrame:
    """The table with each evaluated corpus's learnability in columns k1, k2, k3, which the Cross-Domain Law reads.

    k1 = L(t0), k2 = L(t0) - L(t1), k3 = L(t0) - 2 L(t1) + L(t2), in nats, means over the probing runs (Que et al. 2024,
    arXiv 2406.01375, with t0, t1, t2 of 1k, 5k and 10k steps; k3 as the second difference that it is).

    Args:
      df: runs table.
      tokens: t0 < t1, or t0 < t1 < t2; without t2 there is no k3. Every probing run was evaluated at each.
      where: which runs probe; None: of each corpus, those of the smallest size with the largest share of it.

    Raises:
      TableError: a corpus without a probing run, or without a row at one of the token counts.
    """
    if len(tokens) not in (2, 3) or not all(np.diff(tokens) > 0):
        raise TableError(f"learnability at {', '.join(f'{t:g}' for t in tokens)} tokens: give two or three, rising")
    if "tokens" not in df:
        raise TableError("learnability is a difference of losses between tokens, and the table has no column 'tokens'")
    probes = df[finished(df)] if where is None else select(df[finished(df)], where, "learnability")
    out = df.drop(columns=[c for c in ("k1", "k2", "k3") if c in df])
    for corpus in df["eval"].unique():
        rows = probes[probes["eval"] == corpus]
        if where is None:
            if "params" in rows:
                rows = rows[rows["params"] == rows["params"].min()]
            share = ratio(rows, corpus)
            rows = rows[share == share.max()]
        found = [rows.loc[np.isclose(rows["tokens"], t, rtol=1e-3), "loss"] for t in tokens]
        for t, losses in zip(tokens, found):
            if losses.empty:
                have = ", ".join(f"{value:g}" for value in np.sort(rows["tokens"].unique())[:12]) or "none"
                raise TableError(
                    f"learnability of {corpus}: no probing run was evaluated at {t:g} tokens (they were at: {have})"
                )
        loss = [float(losses.mean()) for losses in found]
        out.loc[out["eval"] == corpus, ["k1", "k2"]] = loss[0], loss[0] - loss[1]
        if len(loss) == 3:
            out.loc[out["eval"] == corpus, "k3"] = loss[0] - 2 * loss[1] + loss[2]
    return out


def digest(df: pd.DataFrame) -> str:
    """sha256 of the content, independent of file format, row and column order, and of empty columns."""
    rows = []
    for record in df.to_dict("records"):
        known = {str(k): v for k, v in record.items() if v is not None and v == v}
        rows.append(json.dumps({k: v if isinstance(v, str) else float(v) for k, v in known.items()}, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


class _Locator:
    """Turns a mask of bad rows into an error that says where the first one is."""

    def __init__(self, df: pd.DataFrame, source: str | os.PathLike[str]):
        self.df, self.source = df, source
        first = {".csv": 2, ".jsonl": 1}.get(Path(source).suffix.lower())
        self.word, self.offset = ("row", 0) if first is None else ("line", first)

    def refuse(self, bad: pd.Series, column: str, why: str) -> None:
        if not bad.any():
            return
        label = bad.index[bad.to_numpy().argmax()]
        place = f"{self.word} {label + self.offset if isinstance(label, (int, np.integer)) else label}"
        more = f" ({int(bad.sum()) - 1} more such rows)" if bad.sum() > 1 else ""
        value = self.df.loc[label, column] if column in self.df else ""
        raise TableError(f"{self.source}: {place}: {column} {value!s} {why}{more}")


def _typed(df: pd.DataFrame, at: _Locator) -> pd.DataFrame:
    df = df.copy()
    for name in df.columns:
        if name in TEXT:
            df[name] = df[name].astype(object).where(df[name].notna(), None)
        elif name in (*REQUIRED, *OPTIONAL) or str(name).startswith(PREFIXES):
            numbers = pd.to_numeric(df[name], errors="coerce").astype(float)
            at.refuse(numbers.isna() & df[name].notna(), name, "is not a number")
            df[name] = numbers
    return df


def _check_shares(df: pd.DataFrame, at: _Locator) -> None:
    names = [f"w_{name}" for name in corpora(df)]
    if not names:
        return
    total = df[names].sum(axis=1, skipna=False)
    percent = (total - 100).abs() < 100 * SHARE_TOLERANCE
    at.refuse(percent, names[0], "belongs to shares that sum to 100; write shares of 1, not percentages")
    for name in names:
        at.refuse(~df[name].between(0, 1), name, "is not a share in [0, 1]")
    bad = (total - 1).abs() > SHARE_TOLERANCE
    if bad.any():
        first = float(total[bad].iloc[0])
        at.refuse(bad, names[0], f"belongs to shares ({', '.join(names)}) that sum to {first:.6g}, not 1")


def _warnings(df: pd.DataFrame) -> list[str]:
    warnings = []
    known = [*REQUIRED, *OPTIONAL]
    for name in map(str, df.columns):
        if name not in known and not name.startswith(PREFIXES):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            if near and near[0] not in df:
                warnings.append(f"column {name!r} is not known and not used; did you mean {near[0]!r}?")
    if not (done := finished(df)).all():
        warnings.append(f"{int((~done).sum())} rows of failed runs (status not ok) are left out")
    if "tokens" in df and (base := int((df["tokens"] == 0).sum())):
        warnings.append(f"{base} rows at zero tokens (the base model before CPT) are left out of fits")
    return warnings


def _rename(df: pd.DataFrame, columns: Mapping[str, str], path: Path) -> pd.DataFrame:
    for ours, theirs in columns.items():
        if theirs not in df:
            near = difflib.get_close_matches(theirs, list(map(str, df.columns)), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TableError(f"{path}: --columns {ours}={theirs}: no header {theirs!r}{hint}")
    replaced = [ours for ours, theirs in columns.items() if ours in df and ours != theirs]
    return df.drop(columns=replaced).rename(columns={theirs: ours for ours, theirs in columns.items()})


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    content = path.read_bytes()
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):  # a torn tail is no row
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TableError(f"{path}: line {number}: not JSON ({error}); delete the line") from error
        if not isinstance(row, dict):
            raise TableError(f"{path}: line {number}: not a JSON object; delete the line")
        rows.append(row)
    return rows


def _dump(row: Mapping[str, Any]) -> str:
    plain = {}
    for key, value in row.items():
        with contextlib.suppress(AttributeError):
            value = value.item()  # numpy scalars
        plain[key] = None if isinstance(value, float) and not math.isfinite(value) else value
    return json.dumps(plain) + "\n"
