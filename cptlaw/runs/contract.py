"""What a runs table is, and what is refused: columns, units, labels, and where in a file a bad row stands."""

import math
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cptlaw.errors import UserError, nearest

REQUIRED = ("run", "eval", "loss")
ACTUAL = "actual_params"  # the parameters of a model whose `params` are its equivalent size (`sized_by_base`)
OPTIONAL = (
    "params", "tokens", "unique_tokens", "loss_se", "seed", "model", "step", "pretrain_tokens", "flops",
    "status", "lr", "lr_sum", "lr_anneal", "lr_sum_pretrain", "lr_anneal_pretrain", "ppl_mean", "ppl_std",
    "k1", "k2", "k3", "subset", "base", "mixed_in",
    "rebased_to", ACTUAL, "ema", "bytes_per_token",
)  # fmt: skip
PREFIXES = ("w_", "unique_tokens_")
TEXT = ("run", "eval", "model", "status", "subset", "base", "mixed_in")
SHARE_TOLERANCE = 1e-3
ROUNDING = 1e-9  # by which a share may be below 0 or above 1
SAME_SIZE = 1e-3  # a run's sizes may differ by this much, relatively: a rounded count

# What trackers and schedulers call a run's end, in any case and spelling of blanks.
FINISHED = frozenset(
    {"", "ok", "finished", "finish", "complete", "completed", "success", "succeeded", "successful", "done"}
)
UNFINISHED = frozenset({
    "failed", "fail", "failure", "error", "errored", "crashed", "crash", "killed", "diverged", "nan", "inf", "oom",
    "out of memory", "timeout", "timed out", "node fail", "boot fail", "deadline", "cancelled", "canceled", "aborted",
    "interrupted", "stopped early", "preempted", "preempting", "revoked", "suspended", "stalled", "lost", "invalid",
    "running", "in progress", "pending", "queued", "scheduled", "waiting", "resumable", "not started", "skipped",
})  # fmt: skip

# What other trainers call our columns, for proposals.
SYNONYMS = {
    "params": ("n", "n_params", "num_params", "nparams", "parameters", "param_count", "model_size", "size",
               "non_embedding_params", "params_non_embedding"),
    "tokens": ("d", "n_tokens", "num_tokens", "ntokens", "tokens_seen", "train_tokens", "total_tokens", "cpt_tokens"),
    "run": ("name", "run_name", "run_id", "id", "experiment", "exp"),
    "eval": ("corpus", "dataset", "domain", "task", "eval_set", "split"),
    "loss": ("val_loss", "valid_loss", "eval_loss", "test_loss", "validation_loss", "val/loss", "eval/loss", "nll"),
}  # fmt: skip


class TableError(UserError):
    """A runs table that cannot be used; names the file, row, column and remedy."""


class Locator:
    """Says where in a file a row stands, and refuses bad rows there.

    Args:
      line: a row's label -> its place in words ("line 7"); None: counted from the label and the source's suffix.
    """

    def __init__(
        self, df: pd.DataFrame, source: str | os.PathLike[str] = "table", line: Callable[[Any], str] | None = None
    ):
        self.df, self.source, self._line = df, source, line

    def place(self, label: Any) -> str:
        """`line 7`, or `row LABEL` where the source has no lines."""
        if self._line is not None:
            return self._line(label)
        first = {".csv": 2, ".jsonl": 1}.get(Path(self.source).suffix.lower())
        if first is None or not isinstance(label, (int, np.integer)):
            return f"row {label}"
        return f"line {label + first}"

    def refuse(self, bad: Any, column: str, why: str) -> None:
        """Raises a TableError that names the first row of the mask `bad`, if there is one."""
        bad = np.asarray(bad)
        if not bad.any():
            return
        first = int(bad.argmax())
        more = f" ({int(bad.sum()) - 1} more such rows)" if bad.sum() > 1 else ""
        value = self.df[column].iloc[first] if column in self.df else ""
        raise TableError(f"{self.source}: {self.place(self.df.index[first])}: {column} {value!s} {why}{more}")


def checked(df: pd.DataFrame, at: Locator) -> pd.DataFrame:
    """The table with its known columns as numbers and text; refuses what no fit may see."""
    for name in REQUIRED:
        if name not in df:
            raise TableError(
                f"{at.source}: no column {name!r} among {listed(df)}; name yours with --columns {name}=HEADER"
            )
    df = typed(df, at)
    for name in ("run", "eval"):
        at.refuse(df[name].isna(), name, "is empty; give every row its run and evaluated corpus")
    _check_statuses(df, at)
    _check_labels(df, at)

    done = finished(df)
    loss = df["loss"]
    cure = "leave such rows out with --where 'loss == loss'" if loss.isna().any() else "drop the row"
    at.refuse(done & ~np.isfinite(loss), "loss", f'is not finite; {cure}, or set its status to "failed"')
    at.refuse(done & (loss <= 0), "loss", "is not positive; losses are nats per token")
    for name in ("params", "tokens"):
        if name in df:
            value, low = df[name], 0 if name == "tokens" else math.nan
            at.refuse(~np.isfinite(value), name, "is not finite; write a count")
            at.refuse((value < 0) | ((name == "params") & (value == 0)), name, "is not a positive count")
            small = (value < 1000) & (value != low)
            if small.any():
                unit, example = _unit(df, name, small)
                at.refuse(small, name, f"is too small for a count: is it {unit}? Write {name} as a count ({example})")
    if "ema" in df:
        at.refuse((df["ema"] < 0) | (df["ema"] >= 1), "ema", "is no decay of an average of weights: 0, or below 1")
    if "loss_se" in df:
        at.refuse(df["loss_se"] < 0, "loss_se", "is a negative standard error")
    _check_shares(df, at)
    _check_runs(df, at)

    key = [name for name in ("run", "eval", "tokens", "step", "ema") if name in df]
    twice = df.duplicated(key, keep="first") & done
    if twice.any():
        foreign = [missing(df, name) for name in ("params", "tokens") if name not in df]
        at.refuse(
            twice,
            "run",
            f"repeats an earlier row's {', '.join(key)}; keep one (a repeat of a run needs its own id)"
            + "".join(hint for hint in foreign if "may be it" in hint),
        )
    return df


def finished(df: pd.DataFrame) -> pd.Series:
    """Rows that carry a result: `status` is absent, empty, "ok", or another word for it (`FINISHED`)."""
    if "status" not in df:
        return pd.Series(True, index=df.index)
    return _ended(df, FINISHED)


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
            f"{trained}). Add w_{eval}, or map it: --columns {quoted(f'w_{eval}')}=HEADER"
        )
    return df[f"w_{eval}"]


def is_number(name: object) -> bool:
    """Whether a column is known to hold numbers."""
    return str(name) not in TEXT and (str(name) in (*REQUIRED, *OPTIONAL) or str(name).startswith(PREFIXES))


def typed(df: pd.DataFrame, at: Locator, strict: bool = True) -> pd.DataFrame:
    """Known columns as floats and text; a value that is no number is refused, or left alone where not `strict`."""
    df = df.copy()
    for name in df.columns:
        if name in TEXT:
            df[name] = df[name].astype(object).where(df[name].notna(), None)
        elif is_number(name):
            if df[name].dtype.kind in "mMb":  # pandas would count a date's nanoseconds
                numbers = pd.Series(np.nan, df.index)
            else:
                numbers = _numbers(df[name])
                if df[name].dtype == object:  # pandas would count true as 1
                    numbers = numbers.mask(df[name].map(type).isin((bool, np.bool_)))
            bad = numbers.isna() & df[name].notna()
            if strict:
                at.refuse(bad, str(name), "is not a number" + _hint(df[name][bad]))
            df[name] = df[name] if bad.any() else numbers
    return df


def _numbers(column: pd.Series) -> pd.Series:
    """A column as floats, what is no number as NaN."""
    try:
        return pd.to_numeric(column, errors="coerce").astype(float)
    except (OverflowError, TypeError, ValueError):  # an integer beyond floats
        return pd.Series(
            [float(v) if isinstance(v, (int, float)) and abs(v) < 1e300 else np.nan for v in column], column.index
        )


def listed(df: pd.DataFrame, most: int = 40) -> str:
    """The columns, for a message."""
    names = [str(name) for name in df.columns]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def quoted(name: str) -> str:
    """A header as `--columns` and `--loss` read it."""
    return f'"{name}"' if set(name) & set(',="') else name


def label_key(label: object) -> str:
    """What labels share that a reader would take for the same one: case, blanks and forms of letters left aside."""
    return " ".join(unicodedata.normalize("NFKC", str(label)).casefold().split())


def _hint(values: pd.Series) -> str:
    if values.empty:
        return ""
    text = str(values.iloc[0]).strip()
    if text[:-1].replace(".", "", 1).isdigit() and (size := {"k": 3, "m": 6, "b": 9, "t": 12}.get(text[-1].lower())):
        return f"; write the count: {text[:-1]}e{size}"
    if text.endswith("%"):
        return "; write shares of 1: 0.05 for 5%"
    if text.replace(",", "", 1).isdigit():
        return "; the decimal sign of this table is the point"
    return ""


def _ended(df: pd.DataFrame, words: frozenset[str]) -> pd.Series:
    """Rows whose status is one of `words`, case and signs between words left aside; "" stands for none."""
    codes, values = pd.factorize(df["status"])
    said = [" ".join(re.split(r"[\s_-]+", str(value).lower())).strip() for value in values]
    return pd.Series(np.array([*(word in words for word in said), "" in words], bool)[codes], index=df.index)


def _check_statuses(df: pd.DataFrame, at: Locator) -> None:
    if "status" not in df:
        return
    unknown = ~_ended(df, FINISHED | UNFINISHED)
    if unknown.any():
        counts = ", ".join(f"{n} rows {name!r}" for name, n in df["status"][unknown].value_counts().items())
        at.refuse(
            unknown,
            "status",
            f'is not known ({counts}): write "ok" for rows with a result and "failed" for the others, or leave the '
            f"rows out: --where \"status != '{df['status'][unknown].iloc[0]}'\"",
        )


def _check_labels(df: pd.DataFrame, at: Locator) -> None:
    """Refuses evaluated corpora that differ from each other, or from a share's column, by case or blanks only."""
    shares = corpora(df)
    keys = [label_key(name) for name in shares]
    if twins := [name for name, key in zip(shares, keys) if keys.count(key) > 1]:
        raise TableError(
            f"{at.source}: columns {', '.join(f'w_{name}' for name in twins)} differ only by case or blanks; "
            "add them up, or give them names of their own"
        )
    seen: dict[str, str] = {}
    counts = df["eval"].value_counts()
    for label in map(str, counts.index):
        first = seen.setdefault(label_key(label), label)
        if first != label:
            n, m = (int(counts[counts.index.astype(str) == name].sum()) for name in (first, label))
            at.refuse(
                df["eval"].astype(str) == label,
                "eval",
                f"differs only by case or blanks from {first!r} ({m} rows say {label!r}, {n} say {first!r}): "
                "they would count as two corpora; give them one spelling",
            )
    for key, label in seen.items():
        near = [name for name in shares if label_key(name) == key]
        if near and label not in shares:
            at.refuse(
                df["eval"].astype(str) == label, "eval", f"is trained on as w_{near[0]}: give the corpus one spelling"
            )


def _unit(df: pd.DataFrame, name: str, small: pd.Series) -> tuple[str, str]:
    """Which unit a column of too small counts is likely in, and its first such value as a count."""
    first = float(df[name][small].iloc[0])
    other = {"params": "tokens", "tokens": "params"}[name]
    units = {"billions": 9, "millions": 6}
    if first < 1:
        units.pop("millions")
    elif other in df and (small | (df[name] < 1e5)).all():
        # Models are trained on a hundredth of a token to a thousand tokens a parameter.
        trained = (df["tokens"] > 0) & (df[other] >= 1000)
        per = (df["tokens"] / df["params"])[trained]
        fits = {}
        for word, power in units.items():
            scaled = per * 10.0 ** (power if name == "tokens" else -power)
            fits[word] = float(((scaled > 0.01) & (scaled < 5000)).mean()) if len(scaled) else 0.0
        best = max(fits.values())
        if best > 0 and list(fits.values()).count(best) == 1:
            units = {word: units[word] for word in units if fits[word] == best}
    return " or ".join(f"in {word}" for word in units), " or ".join(f"{first:g}e{power}" for power in units.values())


def share_tolerance(count: int) -> float:
    """How far from 1 the sum of so many shares may be: each may be rounded to three decimals."""
    return max(SHARE_TOLERANCE, 5e-4 * count)


def _check_shares(df: pd.DataFrame, at: Locator) -> None:
    names = [f"w_{name}" for name in corpora(df)]
    if not names:
        return
    total = df[names].sum(axis=1, skipna=False)
    # The base model before CPT has seen no mix: its shares may be left blank.
    unmixed = df[names].isna().all(axis=1) & (df["tokens"] == 0 if "tokens" in df else False)
    percent = (total - 100).abs() < 100 * SHARE_TOLERANCE
    at.refuse(percent, names[0], "belongs to shares that sum to 100; write shares of 1, not percentages")
    for name in names:
        # 1 less the sum of the others may be -2e-16.
        at.refuse(~df[name].between(-ROUNDING, 1 + ROUNDING) & ~unmixed, name, "is not a share in [0, 1]")
        df[name] = df[name].clip(0, 1)
    bad = ((total - 1).abs() > share_tolerance(len(names))) & ~unmixed
    if bad.any():
        first = float(total[bad].iloc[0])
        at.refuse(bad, names[0], f"belongs to shares ({', '.join(names[:12])}) that sum to {first:.6g}, not 1")


def _check_runs(df: pd.DataFrame, at: Locator) -> None:
    """Refuses a run id with two sizes or two mixes: they are two runs, or a slip."""
    usable = finished(df).to_numpy()
    if "tokens" in df:
        usable = usable & (df["tokens"] != 0).to_numpy()  # the base model, which several runs may share
    codes = pd.factorize(df["run"])[0]
    where = np.flatnonzero(usable)
    first = np.zeros(codes.max(initial=-1) + 1, int)
    first[codes[where[::-1]]] = where[::-1]  # the first usable row of each run
    for name in ("params", *(f"w_{name}" for name in corpora(df))):
        if name not in df:
            continue
        values = df[name].to_numpy(float)
        own = values[first[codes]]
        differs = usable & (np.abs(values - own) > (SAME_SIZE * own if name == "params" else SHARE_TOLERANCE))
        if differs.any():
            bad = int(differs.argmax())
            what = "size" if name == "params" else "mix"
            at.refuse(
                differs,
                name,
                f"differs from {values[first[codes[bad]]]:g} in {at.place(df.index[first[codes[bad]]])} of the same "
                f"run {df['run'].iloc[bad]!r}: one run has one {what}; correct the value, or give the rows a run id of "
                "their own",
            )


def near(name: str, names: Any, cutoff: float = 0.6) -> str | None:
    """The closest of `names`, case left aside."""
    folded = {str(n).casefold().strip(): str(n) for n in names}
    found = nearest(name.casefold().strip(), folded, cutoff)
    return None if found is None else folded[found]


def missing(df: pd.DataFrame, name: str) -> str:
    """What to do about a column that the table lacks: a near header, or one that other trainers use for it."""
    headers = {str(c).casefold(): str(c) for c in df.columns}
    for theirs in SYNONYMS.get(name, ()):
        if theirs in headers:
            return f"; {headers[theirs]!r} may be it: --columns {name}={headers[theirs]}"
    if name == "tokens" and "step" in df:
        return "; it has steps: --tokens-per-step N, the sequences of a batch times the tokens of each"
    elsewhere = f", give one that all rows share with --set {name}=X, or add a table that tells it with --join TABLE"
    return f"; name yours with --columns {name}=HEADER" + elsewhere * (name in ("params", "tokens"))
