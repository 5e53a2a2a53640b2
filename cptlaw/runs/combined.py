"""What a runs table lacks, from elsewhere: a second file joined to it, constants, tokens from steps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from cptlaw.runs.contract import SYNONYMS, TEXT, TableError, corpora, is_number, listed
from cptlaw.units import number

KEYS = ("run", "index", *SYNONYMS["run"])  # what files of one experiment have in common, the best first
_PLAIN = ("loss", "loss_se", "seed", "step")  # numbers that are no counts


def join(df: pd.DataFrame, other: pd.DataFrame, source: Any, joined: Any) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """The rows with the columns of the other table's row of the same key; also which rows, and what was done.

    The key is a header of both tables, or the two tables' names of runs, and names each row of the other table once.
    Rows without a partner are left out. Of a column that both have, the first table's counts.

    Raises:
      TableError: there is no such key.
    """
    ours, theirs = _key(df, other, source, joined)
    left, right = _labels(df[ours]), _labels(other[theirs])
    places = dict(zip(right, range(len(right))))
    partner = np.array([places.get(label, -1) for label in left])
    kept = np.flatnonzero(partner >= 0)
    added = [name for name in other.columns if name != theirs and name not in df]
    rest = other[added].iloc[partner[kept]].reset_index(drop=True)
    out = pd.concat([df.iloc[kept].reset_index(drop=True), rest], axis=1)
    if "run" not in {str(name).casefold() for name in out.columns}:
        out["run"] = [left[i] for i in kept]
    said = f"joined with {joined} by {ours if ours == theirs else f'{ours} and its {theirs}'}"
    if lost := len(df) - len(kept):
        said += f"; {lost} rows without a partner there are left out"
    return out, kept, [said]


def _key(df: pd.DataFrame, other: pd.DataFrame, source: Any, joined: Any) -> tuple[str, str]:
    """The headers of both tables by which their rows belong together."""
    folded = {str(name).casefold(): str(name) for name in df.columns}
    common = [(folded[key], str(name)) for name in other.columns if (key := str(name).casefold()) in folded]
    common.sort(key=lambda pair: KEYS.index(k) if (k := pair[0].casefold()) in KEYS else len(KEYS))
    runs = [[str(name) for name in table.columns if str(name).casefold() in KEYS] for table in (df, other)]
    candidates = [*common, *((a, b) for a in runs[0] for b in runs[1] if (a, b) not in common)]
    twice = ""
    for ours, theirs in candidates:
        if df[ours].dtype.kind == "f" and ours.casefold() not in KEYS:
            continue  # a measurement, which may agree by chance
        right = _labels(other[theirs])
        if not set(_labels(df[ours])) & set(right):
            continue
        if len(set(right)) == len(right):
            return ours, theirs
        twice = twice or f"; {theirs!r} of {joined} names some of its rows more than once"
    raise TableError(
        f"{source}: --join {joined}: no column says which rows belong together{twice}. Give both tables a column run "
        f"(or index, name, run_id) that names each row of {joined} once; it has {listed(other, 12)}, and {source} has "
        f"{listed(df, 12)}"
    )


def _labels(column: pd.Series) -> list[str]:
    """Cells as text, a whole number without its point."""
    values = column.astype(object).where(column.notna(), "")
    whole = [isinstance(v, (float, np.floating)) and float(v).is_integer() for v in values]
    return [str(int(v) if w else v).strip() for v, w in zip(values, whole)]


def with_constants(df: pd.DataFrame, constants: Mapping[str, Any], source: Any) -> pd.DataFrame:
    """The table with columns that are the same in all rows.

    Raises:
      TableError: the table has such a column, or the value is no number.
    """
    for name, value in constants.items():
        if name in df and df[name].notna().any():
            raise TableError(f"{source}: --set {name}={value}: the table has a column {name}; leave --set out")
        if is_number(name) and isinstance(value, str):
            try:
                value = number(value)
            except ValueError:
                raise TableError(f"{source}: --set {name}={value}: write a number, such as 7e9 or 7B") from None
        df[name] = value
    return df


def tokens_of_steps(df: pd.DataFrame, per_step: float, source: Any) -> pd.DataFrame:
    """The table with `tokens`, `per_step` for each `step`.

    Raises:
      TableError: the table tells its tokens, or no steps; or a step has no tokens.
    """
    if not per_step > 0:
        raise TableError(f"{source}: --tokens-per-step {per_step:g}: a step has tokens; give a positive number")
    if "tokens" in df:
        raise TableError(f"{source}: --tokens-per-step: the table has a column tokens; leave --tokens-per-step out")
    if "step" not in df:
        raise TableError(
            f"{source}: --tokens-per-step: no column step among {listed(df)}; name yours with --columns step=HEADER"
        )
    df["tokens"] = pd.to_numeric(df["step"], errors="coerce") * per_step
    return df


def written_out(df: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Counts such as 2.1B and percentages as plain numbers, and shares that sum to 100 in every row as shares of 1."""
    for name in map(str, df.columns):
        if name in TEXT or name in _PLAIN or not is_number(name) or df[name].dtype.kind in "iufbmM":
            continue
        signs = ("%",) if name.startswith("w_") else ("k", "m", "b", "g", "t")
        written = [isinstance(v, str) and v.strip()[-1:].lower() in signs for v in df[name]]
        if any(written):
            cells = [_number(v) if w else v for v, w in zip(df[name], written)]
            first = next(i for i, w in enumerate(written) if w)
            notes.append(f"{name}: {df[name].iloc[first]} and the like are read as {cells[first]}")
            df[name] = pd.Series(cells, df.index, object).infer_objects()
    names = [f"w_{name}" for name in corpora(df)]
    if names and all(df[name].dtype.kind in "iuf" for name in names):
        total = df[names].sum(axis=1)
        mixed = df[names].notna().any(axis=1)
        if mixed.any() and ((total - 100).abs() < 0.5)[mixed].all():
            df[names] = df[names] / 100
            notes.append("shares sum to 100 in every row and are read as percentages")
    return df


def _number(text: str) -> Any:
    try:
        return number(text)
    except ValueError:
        return text
