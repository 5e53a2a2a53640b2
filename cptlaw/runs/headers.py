"""Headers into our columns: foreign names, other spellings, and tables with one loss column a corpus or a run."""

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd

from cptlaw.runs.contract import (
    OPTIONAL,
    PREFIXES,
    REQUIRED,
    TableError,
    corpora,
    label_key,
    listed,
    missing,
    near,
    quoted,
    share_tolerance,
)

_INVISIBLE = "\ufeff\u200b\u200e\u200f"
_EXTREME = re.compile(r".*__(MIN|MAX)")
_LOSS = re.compile(r"loss|nll|(^|[^a-z])(ce|ppl|bpb)([^a-z]|$)|perplexity|bits_per_byte", re.IGNORECASE)
_NOT_LOSS = re.compile(r"(_se|stderr|_std|std(err)?|_var)($|[^a-z])", re.IGNORECASE)
_SMOOTHED = re.compile(r"[\s_(-]+(smoothed|smooth|ema)\)?$", re.IGNORECASE)
# Headers of trackers that mean one thing, the best first: taken where our own column is not there.
_ALIASES = {
    "step": ("trainer/global_step", "train/global_step", "global_step", "_step", "iteration"),
    "status": ("state",),
}


def clean(name: object) -> str:
    """A header or label without the blanks and marks around it that no reader sees."""
    text = str(name)
    if text.isascii():
        return text.strip()
    return unicodedata.normalize("NFC", text).strip().strip(_INVISIBLE).strip()


def canonical(headers: Sequence[str], mapped: Sequence[str] = ()) -> list[str]:
    """The columns that headers mean, other case and blanks allowed; `mapped` ones keep their names."""
    names = [clean(name) for name in headers]
    found = []
    for name in names:
        key = re.sub(r"[\s-]+", "_", name.casefold())
        if name not in mapped and name not in (*REQUIRED, *OPTIONAL) and not name.startswith(PREFIXES):
            if key in (*REQUIRED, *OPTIONAL) and key not in names:
                name = key
            elif prefix := next((p for p in PREFIXES if key.startswith(p) and len(key) > len(p)), None):
                name = prefix + name[len(prefix) :].strip()
        found.append(name)
    keys = [re.sub(r"[\s-]+", "_", name.casefold()) for name in names]
    for ours, theirs in _ALIASES.items():
        there = [keys.index(alias) for alias in theirs if alias in keys and names[keys.index(alias)] not in mapped]
        if there and ours not in found:
            found[there[0]] = ours
    return found


class Wanted(list[str]):
    """Headers, some of them patterns with one `*`: `in` says whether a header is one of them, or like one."""

    def __contains__(self, header: object) -> bool:
        return any(_matches(str(theirs), str(header)) is not None for theirs in self)


def _matches(pattern: str, header: str) -> str | None:
    """What the `*` of a pattern stands for in a header, "" where they are equal; None where it does not match."""
    if pattern == header:
        return ""
    if pattern.count("*") != 1:
        return None
    found = re.fullmatch("(.+)".join(map(re.escape, pattern.split("*"))), header)
    return None if found is None else found[1]


def expanded(pairs: Mapping[str, str], df: pd.DataFrame, flag: str, source: Any) -> dict[str, str]:
    """The pairs with those that hold a `*` on both sides replaced by one for each header that matches.

    Raises:
      TableError: a `*` on one side alone, or one that matches no header.
    """
    headers = [clean(name) for name in df.columns]
    found: dict[str, str] = {}
    for ours, theirs in pairs.items():
        theirs = clean(theirs)
        if "*" not in theirs or theirs in headers:
            found[ours] = theirs
            continue
        said = f"{source}: {flag} {quoted(ours)}={quoted(theirs)}"
        if ours.count("*") != 1 or theirs.count("*") != 1:
            raise TableError(f"{said}: write one * on each side, as in {flag} '{ours.partition('*')[0]}*=val/loss_*'")
        matched = {header: name for header in headers if (name := _matches(theirs, header))}
        matched = {h: name for h, name in matched.items() if not _EXTREME.fullmatch(h) and not _SMOOTHED.search(h)}
        if not matched:
            raise TableError(f"{said}: no header is like that; the headers are {listed(df)}")
        found |= {ours.replace("*", name): header for header, name in matched.items()}
    return found


def plain(df: pd.DataFrame, source: Any = "table", mapped: Sequence[str] = ()) -> tuple[pd.DataFrame, list[str]]:
    """The table with cells of numbers, truth values and text only, and what was changed.

    Times and decimals become text and floats; columns of lists, objects or bytes, which no law reads, are left out.

    Raises:
      TableError: such a column is one of ours, or one that is `mapped` to ours.
    """
    df, dropped = df.copy(deep=False), []
    for name in list(df.columns):
        column = df[name]
        if isinstance(column, pd.DataFrame):
            continue
        if isinstance(column.dtype, pd.CategoricalDtype):
            df[name] = column.astype(column.cat.categories.dtype)
        elif column.dtype.kind in "mMc":
            df[name] = column.astype(str).astype(object).where(column.notna(), None)
        elif column.dtype == object:
            kinds = set(map(type, column))
            if found := kinds & {list, dict, tuple, set, bytes, np.ndarray}:
                (ours,) = canonical([str(name)], mapped)
                if ours in (*REQUIRED, *OPTIONAL) or ours.startswith(PREFIXES) or ours in mapped:
                    what = "bytes" if bytes in found else "objects" if dict in found else "lists"
                    why = f"no column {ours!r} of plain cells: {name!r} holds {what}; write one value a row"
                    raise TableError(f"{source}: {why}")
                dropped.append(str(name))
            elif any(k.__module__ in ("datetime", "decimal", "uuid") for k in kinds):
                numeric = any(k.__name__ == "Decimal" for k in kinds)
                df[name] = [None if v is None else float(v) if numeric else str(v) for v in column]
    notes = [f"columns {', '.join(dropped)} hold lists or objects and are left out"] if dropped else []
    return df.drop(columns=dropped), notes


def rename(df: pd.DataFrame, columns: Mapping[str, str], source: Any) -> tuple[pd.DataFrame, list[str]]:
    """The table under our names, and what was taken for what.

    Raises:
      TableError: a header that is not there, or one that stands twice.
    """
    df = df.set_axis([clean(name) for name in df.columns], axis=1)
    columns = expanded(columns, df, "--columns", source)
    theirs = {ours: clean(header) for ours, header in columns.items()}
    for ours, header in theirs.items():
        if header not in df:
            raise TableError(
                f"{source}: --columns {quoted(ours)}={quoted(header)}: no header {header!r}{_near(df, header)}"
            )
    taken = {ours: df[header] for ours, header in theirs.items()}
    rest = df[[name for name in df.columns if name not in theirs.values() and name not in theirs]]
    names = canonical(list(rest.columns))
    kept = [i for i, name in enumerate(names) if name not in theirs]
    told = [(rest.columns[i], names[i]) for i in kept if rest.columns[i] != names[i]]
    out = rest.iloc[:, kept].set_axis([names[i] for i in kept], axis=1)
    known = [name for name in out.columns if name in (*REQUIRED, *OPTIONAL) or name.startswith(PREFIXES)]
    if twice := sorted({name for name in known if known.count(name) > 1}):
        raise TableError(
            f"{source}: the header {twice[0]!r} stands {known.count(twice[0])} times; rename or remove one"
        )
    out = pd.concat([out, pd.DataFrame(taken, index=df.index)], axis=1) if taken else out
    # Where they were: a table read with a mapping has its columns in the file's order.
    order = {name: i for i, name in reversed(list(enumerate(df.columns)))}
    place = {**{names[i]: order[rest.columns[i]] for i in kept}, **{o: order[h] for o, h in theirs.items()}}
    out = out.iloc[:, sorted(range(out.shape[1]), key=lambda i: place[out.columns[i]])]
    notes = [f"headers read as {', '.join(f'{ours} ({header!r})' for header, ours in told)}"] if told else []
    return out, notes


def spell_corpora(df: pd.DataFrame, given: Sequence[str]) -> pd.DataFrame:
    """`w_Code` becomes `w_code` where the header was written in another case than ours (`given` are the file's)."""
    labels = {label_key(label): str(label) for label in df["eval"].dropna().unique()}
    foreign = [name for name in corpora(df) if f"w_{name}" not in given and label_key(name) in labels]
    spelt = {f"w_{name}": f"w_{labels[label_key(name)]}" for name in foreign}
    if len(set(spelt.values()) - set(df.columns)) < len(spelt):  # two would be one: that is for the check to refuse
        return df
    return df.rename(columns=spelt)


# One loss column a corpus, or a run.


def unpivot(df: pd.DataFrame, losses: Mapping[str, str], source: Any) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """One row a corpus from one loss column a corpus; also the row that each came from, and what was left out.

    Raises:
      TableError: a header that is not there, or a table whose rows already name their corpus.
    """
    if "eval" in df:
        raise TableError(
            f"{source}: --loss names one loss column a corpus, but the table has a column eval: each row is of one "
            "corpus already; name its loss with --columns loss=HEADER"
        )
    losses = expanded(losses, df, "--loss", source)
    headers = [clean(header) for header in losses.values()]
    for corpus, header in zip(losses, headers):
        if header not in df:
            raise TableError(
                f"{source}: --loss {quoted(corpus)}={quoted(header)}: no header {header!r}{_near(df, header)}"
            )
    rest = df.drop(columns=list({*headers, "loss"} & set(df.columns)))
    origin = np.repeat(np.arange(len(df)), len(headers))
    out = rest.iloc[origin].reset_index(drop=True)
    out["eval"] = np.tile(np.array(list(losses), object), len(df))
    blocks = [df[header] for header in headers]
    if all(block.dtype.kind in "iuf" for block in blocks):
        out["loss"] = np.column_stack([block.to_numpy(float) for block in blocks]).ravel()
    else:
        out["loss"] = np.column_stack([block.to_numpy(object) for block in blocks]).ravel()
    empty = out["loss"].isna().to_numpy()
    notes = [f"{int(empty.sum())} cells of the loss columns are empty and left out"] if empty.any() else []
    return out[~empty].reset_index(drop=True), origin[~empty], notes


def panel(df: pd.DataFrame, mapped: Sequence[str] = ()) -> tuple[pd.DataFrame, np.ndarray, list[str]] | None:
    """The rows of a chart that Weights & Biases exported: a column `RUN - METRIC` a run, mostly with `__MIN`, `__MAX`.

    Returns the table (run, the chart's x, a column a metric), the row that each came from and what was done; None for
    another table.
    """
    names = [str(name) for name in df.columns]
    series = [n for n in names if " - " in n and not _EXTREME.fullmatch(n) and not _SMOOTHED.search(n)]
    others = [n for n in names if not _EXTREME.fullmatch(n) and " - " not in n]
    extremes = {f"{n}{end}" for n in series for end in ("__MIN", "__MAX")} & set(names)
    # Without extremes, a table of one x and series of one metric at least, and no column that names its rows.
    if not series or not others or not (extremes or (len(others) <= 2 and df[others[0]].dtype.kind in "iuf")):
        return None
    runs = list(dict.fromkeys(n.rsplit(" - ", 1)[0] for n in series))
    metrics = list(dict.fromkeys(n.rsplit(" - ", 1)[1] for n in series))
    parts, origins = [], []
    for run in runs:
        values = {m: df[f"{run} - {m}"] for m in metrics if f"{run} - {m}" in df}
        part = pd.DataFrame({"run": run, **{n: df[n] for n in others}, **values})
        filled = pd.DataFrame(values).notna().any(axis=1).to_numpy()
        parts.append(part[filled])
        origins.append(np.flatnonzero(filled))
    out = pd.concat(parts, ignore_index=True)
    notes = [
        f"a chart of Weights & Biases: {len(runs)} runs by {', '.join(others)}; __MIN, __MAX and smoothed columns are "
        "left out. It tells no sizes and no shares: for a law that reads them, add the table of runs with their config "
        "by --join RUNS.csv"
    ]
    if len(metrics) == 1 and metrics[0] not in mapped:
        out = out.rename(columns={metrics[0]: "loss"})
    return out, np.concatenate(origins), notes


def no_loss(df: pd.DataFrame, source: Any) -> TableError:
    """What to say of a table without `loss`: the command that would read it, if its headers tell."""
    found = [
        n for n in map(str, df.columns) if _LOSS.search(n) and not _EXTREME.fullmatch(n) and not _NOT_LOSS.search(n)
    ]
    found = [n for n in found if df[n].dtype.kind in "iuf" and n not in OPTIONAL and not n.startswith(PREFIXES)]
    found = [n for n in found if not re.search(r"train", n, re.IGNORECASE)] or found
    found = [n for n in found if not _SMOOTHED.search(n)] or found
    start = f"{source}: no column 'loss' among {listed(df)}; "
    if len(found) > 1 and "eval" not in df:
        pairs = _flag_of("", _corpora_of(found, corpora(df)), found)
        return TableError(
            f"{start}it has one loss column a corpus: name them with --loss {shlex.quote(pairs)}" + _proposed_shares(df)
        )
    if len(found) == 1:
        return TableError(
            f"{start}name yours with --columns loss=HEADER; {found[0]!r} may be it: "
            f"--columns {shlex.quote(f'loss={quoted(found[0])}')}"
        )
    if found:
        return TableError(f"{start}one of {', '.join(found)} may be it: --columns loss=HEADER")
    if sum(bool(re.fullmatch(r"[-+\d.eE]+", str(name))) for name in df.columns) * 2 > df.shape[1]:
        return TableError(f"{start}its first line holds numbers: write a header line above it")
    return TableError(f"{start}" + missing(df, "loss").removeprefix("; "))


def _corpora_of(headers: list[str], trained: list[str]) -> list[str]:
    """The corpora that loss columns speak of: those trained on where all are named, else where headers differ."""
    named = [max((c for c in trained if label_key(c) in label_key(h)), key=len, default="") for h in headers]
    if all(named) and len(set(named)) == len(named):
        return named
    parts = [re.findall(r"[^/._\s:-]+", header) for header in headers]
    same = lambda column: len(set(column)) == 1  # noqa: E731
    front = len(list(takewhile(same, zip(*parts))))
    back = len(list(takewhile(same, zip(*(p[front:][::-1] for p in parts)))))
    names = ["_".join(p[front : len(p) - back]) for p in parts]
    return names if all(names) and len(set(names)) == len(names) else headers


def _flag_of(prefix: str, names: list[str], found: list[str]) -> str:
    """What `--loss` or `--columns` is given for these headers: a pattern where it would else be long."""
    ends = [tuple(header.split(name, 1)) for name, header in zip(names, found) if name in header]
    if len(names) > 12 and len(ends) == len(names) and len(set(ends)) == 1 and "*" not in "".join(found):
        return f"{prefix}*={quoted('*'.join(ends[0]))}"
    return ",".join(f"{quoted(prefix + name)}={quoted(header)}" for name, header in zip(names, found))


def _proposed_shares(df: pd.DataFrame) -> str:
    """The `--columns` that would name the shares of a table without `w_` columns, if some columns sum to 1."""
    if corpora(df):
        return ""
    numbers = [n for n in map(str, df.columns) if df[n].dtype.kind in "iuf" and n not in (*REQUIRED, *OPTIONAL)]
    numbers = [n for n in numbers if df[n].between(0, 1).all()]
    firsts = dict.fromkeys(n.split("_")[0] for n in numbers)
    groups = [numbers, *([n for n in numbers if n.split("_")[0] == first] for first in firsts)]
    for group in groups:
        if len(group) > 1 and ((df[group].sum(axis=1) - 1).abs() <= share_tolerance(len(group))).all():
            pairs = _flag_of("w_", _corpora_of(group, []), group)
            return f"; its shares with --columns {shlex.quote(pairs)}"
    return ""


def _near(df: pd.DataFrame, header: str) -> str:
    close = near(header, df.columns)
    return f"; did you mean {close!r}?" if close else f"; the headers are {listed(df)}"
