"""What is asked about a table that has the right form: units, perplexities given as losses, labels nearly alike.

`read` refuses a file of doubtful units unless it is told to trust them; `check` returns every doubt as a warning.
"""

import os

import numpy as np
import pandas as pd

from cptlaw.errors import nearest
from cptlaw.runs.contract import OPTIONAL, PREFIXES, REQUIRED, SYNONYMS, Locator, checked, finished, label_key

GUESSING = np.log(1e6)  # nats per token of guessing among a million tokens: no vocabulary is much larger
POOR = 4.5  # nats per token: no trained model is this bad on text
JUMP = 500.0  # the largest plausible ratio of neighbouring run lengths, or of neighbouring checkpoints of a run
FALL = 30.0  # the largest plausible ratio by which tokens decrease within a run


def check(df: pd.DataFrame, source: str | os.PathLike[str] = "table") -> list[str]:
    """Refuses a bad table; returns warnings about a doubtful one.

    Raises:
      TableError: naming source, row, column and remedy.
    """
    typed = checked(df, Locator(df, source))
    return warnings(typed) + units(typed)


def warnings(df: pd.DataFrame) -> list[str]:
    """What a reader of the table should know, in words; `df` is checked and typed."""
    found = []
    known = [*REQUIRED, *OPTIONAL]
    for name in map(str, df.columns):
        if name not in known and not name.startswith(PREFIXES):
            synonym = next((ours for ours, theirs in SYNONYMS.items() if name.casefold() in theirs), None)
            meant = nearest(name, known, cutoff=0.8) or synonym
            if meant and meant not in df:
                found.append(f"column {name!r} is not known and not used; did you mean {meant!r}?")
    done = finished(df)
    if not done.all():
        said = df["status"][~done].value_counts()
        words = ", ".join(f"{name}: {n}" for name, n in said.items())
        found.append(f"{int((~done).sum())} rows of failed runs (status not ok; {words}) are left out")
    if "tokens" in df and (base := int((df["tokens"] == 0).sum())):
        found.append(f"{base} rows at zero tokens (the base model before CPT) are left out of fits")
    rows = _fitted(df)
    if (bad := rows["loss"] > GUESSING).any() and bad.mean() <= 0.5:
        runs = rows["run"][bad].astype(str).unique()
        found.append(
            f"{int(bad.sum())} rows have a loss above {GUESSING:.1f} nats, worse than guessing among a million tokens "
            f"(run {', '.join(runs[:3])}{', ...' * (len(runs) > 3)}): if they diverged, leave them out with "
            f"--where 'loss < {GUESSING:.1f}'"
        )
    labels = pd.Series(df["run"].astype(str).unique())
    keys = labels.map(label_key)
    if (twins := labels[keys.duplicated(keep=False)]).size:
        found.append(
            f"runs {', '.join(map(repr, twins[:4]))} differ only by case or blanks and count as runs of their own"
        )
    return found


def units(df: pd.DataFrame) -> list[str]:
    """Columns that look as if they were in another unit; `df` is checked and typed."""
    rows = _fitted(df)
    found = _losses(rows)
    if rows.empty or "tokens" not in rows:
        return found
    if "params" in rows:
        found += _whole(rows)
    return found or _jumps(rows)


def _fitted(df: pd.DataFrame) -> pd.DataFrame:
    usable = finished(df)
    read = df[[name for name in ("run", "eval", "params", "tokens", "loss") if name in df]]
    return read[usable & (df["tokens"] > 0)] if "tokens" in df else read[usable]


def _losses(rows: pd.DataFrame) -> list[str]:
    if rows.empty:
        return []
    loss = rows["loss"]
    cure = "write loss = ln(perplexity), in nats per token"
    if (loss > GUESSING).mean() > 0.5:
        return [
            f"most losses are above {GUESSING:.1f} nats per token (median {loss.median():.4g}), worse than guessing "
            f"among a million tokens: is the column loss a perplexity, or a sum over tokens? Then {cure}"
        ]
    if {"params", "tokens"} <= set(rows):
        trained = loss[(rows["params"] >= 1e7) & (rows["tokens"] >= 1e8)]
        if len(trained) and trained.min() > POOR:
            return [
                f"no loss of a model trained on 100M tokens and more is below {trained.min():.4g} nats per token: is "
                f"the column loss a perplexity? Then {cure}"
            ]
    return []


def _whole(rows: pd.DataFrame) -> list[str]:
    """A whole column in thousands or millions, seen from the tokens a parameter."""
    params, tokens = rows["params"], rows["tokens"]
    per = tokens / params
    if tokens.max() < 1e6 and per.max() < 1e-3:
        unit = "millions" if (per * 1e6).max() < 1e5 else "thousands"
        return [_question("tokens", tokens, f"for models of {_span(params)} parameters", unit)]
    if params.max() < 1e6 and per.min() > 1e5:
        unit = "millions" if (per / 1e6).min() > 1e-3 else "thousands"
        return [_question("params", params, f"trained on {_span(tokens)} tokens", unit)]
    return []


def _question(name: str, values: pd.Series, beside: str, unit: str) -> str:
    power = {"thousands": 3, "millions": 6, "billions": 9}[unit]
    return (
        f"{name} {_span(values)} {beside}: is the column {name} in {unit}? Write it as a count "
        f"({values.iloc[0]:g}e{power}, or {values.iloc[0] * 10.0**power:g})"
    )


def _jumps(rows: pd.DataFrame) -> list[str]:
    """Runs, or parts of a run, whose tokens are far from all others."""
    run, tokens, steps = _within(rows)
    found = []
    for i in steps[:3]:
        here, there = tokens[i], tokens[i + 1]
        low, high = min(here, there), max(here, there)
        found.append(
            f"run {str(run[i])!r} goes from {here:g} to {there:g} tokens between two checkpoints: are its tokens in "
            f"two units? Write all as counts ({low:g} may be {_factor(high / low * 2, low)})"
        )
    if found:
        return found
    longest = rows.groupby("run", sort=False)["tokens"].max()
    lengths = [("tokens", longest)]
    if "params" in rows:
        params = rows.groupby("run", sort=False)["params"].first()
        lengths += [("tokens a parameter", longest / params), ("params", params)]
    for what, values in lengths:
        ordered = np.sort(values.to_numpy())
        gaps = np.flatnonzero(ordered[1:] > JUMP * ordered[:-1])
        # Of two runs, or two halves, none is the odd one.
        if len(ordered) < 3 or not len(gaps):
            continue
        cut = gaps[0]
        below, above = values <= ordered[cut], values > ordered[cut]
        odd, others = (below, above) if below.sum() <= above.sum() else (above, below)
        names = values.index[odd].astype(str)
        own, rest = (longest, longest[others]) if what != "params" else (params, params[others])
        ratio = float(np.median(values[others]) / np.median(values[odd]))
        column = "params" if what == "params" else "tokens"
        found.append(
            f"run {', '.join(map(repr, names[:3]))}{f' and {len(names) - 3} more' * (len(names) > 3)}: {column} "
            f"{_span(own[odd])}, where the other runs have {_span(rest)}: another unit? Write counts "
            f"({own[odd].iloc[0]:g} may be {_factor(ratio, own[odd].iloc[0])})"
        )
        break
    return found


def _within(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs and tokens of the checkpoints, and after which of them a run's tokens seem to change their unit.

    Either neighbours in size lie more than `JUMP` apart, or a run that is else written from first to last falls back
    once, and would go on rising if what follows were a thousand, a million or a billion times as much.
    """
    run, names = pd.factorize(rows["run"])
    corpus, labels = pd.factorize(rows["eval"])
    all_tokens = rows["tokens"].to_numpy()
    order = np.lexsort((all_tokens, run))
    code, tokens = run[order], all_tokens[order]
    wide = np.flatnonzero((code[1:] == code[:-1]) & (tokens[1:] > JUMP * tokens[:-1]))
    if len(wide):
        return np.asarray(names, str)[code], tokens, wide
    series = run * len(labels) + corpus
    order = np.argsort(series, kind="stable")
    code, tokens, series = run[order], all_tokens[order], series[order]
    falls = np.flatnonzero((series[1:] == series[:-1]) & (tokens[1:] < tokens[:-1]))
    once = falls[np.bincount(series[falls], minlength=1)[series[falls]] == 1] if len(falls) else falls
    drop = tokens[once] / tokens[once + 1]
    back = np.min([np.where(10.0**p > drop, 10.0**p / drop, np.inf) for p in (3, 6, 9)], axis=0)
    return np.asarray(names, str)[code], tokens, once[(drop > FALL) & (back < JUMP / FALL)]


def _factor(ratio: float, value: float) -> str:
    """The value as a count, where it is in the unit that explains a ratio best."""
    power = min((3, 6, 9), key=lambda p: abs(abs(np.log10(ratio)) - p)) * (1 if ratio > 1 else -1)
    return f"{value * 10.0**power:g}"


def _span(values: pd.Series) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
