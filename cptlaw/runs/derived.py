"""Tables made from tables: the runs of some corpora, fewer checkpoints, learnability, several domains as one."""

import math
import os
from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from cptlaw.runs.conditions import select
from cptlaw.runs.contract import ACTUAL, Locator, TableError, corpora, finished, ratio
from cptlaw.words import count

COEFFICIENTS = ("k1", "k2", "k3")  # of learnability
DOMAIN = "domain"  # the evaluated corpus of a table made by `by_domain`


def of_mixes(df: pd.DataFrame, mixed: Collection[str], evals: Collection[str]) -> pd.DataFrame:
    """The rows of mixes of the corpora `mixed` alone that evaluate one of `evals`, without the other shares' columns.

    A law of those mixes is then one of their corpora; runs that also trained on others answer other questions.
    """
    others = [f"w_{name}" for name in corpora(df) if name not in mixed]
    return df[(df[others] == 0).all(axis=1) & df["eval"].isin(list(evals))].drop(columns=others)


def bases(df: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """One row of each base model that has a loss of `corpus` before continual pre-training (zero tokens).

    A base is named by the column `base`; without it, a size has one.
    """
    if not {"params", "tokens"} <= set(df):
        return df[:0]
    rows = df[finished(df) & (df["eval"] == corpus) & (df["tokens"] == 0)]
    return rows.drop_duplicates(_base_key(df))  # every run repeats its base model's row


def at_size(rows: pd.DataFrame, params: float) -> pd.DataFrame:
    """The rows of models of `params` parameters; of no such size, those of the one that is printed the same (755k)."""
    if rows.empty:
        return rows
    sizes = _parameters(rows)
    alike = np.array([count(size) == count(params) for size in sizes])
    return rows[sizes == params] if (sizes == params).any() or sizes[alike].nunique() != 1 else rows[alike]


def rebased(df: pd.DataFrame, corpus: str, params: float) -> pd.DataFrame:
    """The table with the losses of `corpus` as if every run had started from the base model of `params` parameters.

    A loss is multiplied by that base's over its own base's, both at zero tokens: so what base models differ by, their
    size and their luck, is out of the table, and what is left is the rise or fall that continual pre-training brings.
    That of a general corpus differs little between sizes (benchmarks/registered.py). The column `rebased_to` holds the
    base's loss, the mean of several, in the rows that were changed.

    Raises:
      TableError: no base of that size, or a run whose base has no row at zero tokens.
    """
    key, known = _base_key(df), bases(df, corpus)
    wanted = at_size(known, params)["loss"]
    if wanted.empty:
        sizes = ", ".join(f"{size:.12g}" for size in sorted(_parameters(known).unique())) or "none"
        raise TableError(
            f"no base loss of {corpus} at {params:.12g} parameters: a row at zero tokens gives it, and there are such "
            f"rows for {sizes}" + ("" if len(known) else " (does --where leave them out?)")
        )
    here = df["eval"] == corpus
    own = df[key].map(known.set_index(key)["loss"])
    if (missing := here & own.isna()).any():
        raise TableError(
            f"run {df.loc[missing, 'run'].iloc[0]}: its base model has no {corpus} loss at zero tokens, so its losses "
            f"cannot be carried to the base of {params:.12g} parameters"
        )
    loss = float(wanted.mean())
    factor = (loss / own).where(here, 1.0)
    scaled = {name: df[name] * factor for name in ("loss", "loss_se") if name in df}
    return df.assign(**scaled, rebased_to=np.where(here, loss, df.get("rebased_to", np.nan)))


def _parameters(df: pd.DataFrame) -> pd.Series:
    return df[ACTUAL if ACTUAL in df else "params"]


def _base_key(df: pd.DataFrame) -> str:
    return "base" if "base" in df else "params"


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
    _check_probe_tokens(df, tokens)
    probes = df[finished(df)] if where is None else select(df[finished(df)], where, "learnability")
    out = df.drop(columns=[c for c in COEFFICIENTS if c in df])
    for corpus in df["eval"].unique():
        rows = probes[probes["eval"] == corpus]
        found = _coefficients(cheapest(rows, corpus) if where is None else rows, corpus, tokens)
        out.loc[out["eval"] == corpus, list(found)] = tuple(found.values())
    return out


def by_domain(
    df: pd.DataFrame, general: str, tokens: Sequence[float] | None = None, size: float | None = None
) -> pd.DataFrame:
    """A table of several domains, each mixed alone into `general`, as one table of two corpora: `general` and "domain".

    Its column `mixed_in` says which domain a row is of. A run without any domain's text stands in the series of every
    domain, under a run id of each. With `tokens` the columns k1, k2 and k3 hold the learnability of the domain that is
    mixed in (see `learnability`), measured on that domain's own loss: for its rows of the general loss too.

    Args:
      df: runs table; runs that mix two or more domains, and losses of other corpora, are left out.
      general: the corpus that every run's mix takes its rest from.
      tokens: where learnability is measured.
      size: parameters of the probing runs; None: the smallest.

    Raises:
      TableError: no such corpus, no run that mixes one domain into it, or a domain that was not probed at `tokens`.
    """
    if f"w_{general}" not in df:
        raise TableError(f"no column w_{general}: name the general corpus, one of {', '.join(corpora(df)) or 'none'}")
    if tokens is not None:
        _check_probe_tokens(df, tokens)
    names = [name for name in corpora(df) if name != general]
    shares = df[[f"w_{name}" for name in names]].to_numpy(float)
    alone = (shares > 0).sum(axis=1)
    made = []
    for i, name in enumerate(names):
        own = df[((alone == 1) & (shares[:, i] > 0)) | (alone == 0)]
        own = own[own["eval"].isin([name, general])]
        mixed = (own[f"w_{name}"] > 0).to_numpy()
        if not (mixed & (own["eval"] == name).to_numpy()).any():
            continue
        found = {} if tokens is None else _probed(own, name, tokens, size)
        run = own["run"].where(mixed, own["run"].astype(str) + f" ({name})")
        own = own.rename(columns={f"w_{name}": "w_domain", f"unique_tokens_{name}": "unique_tokens_domain"})
        known = {*(f"w_{c}" for c in names), *(f"unique_tokens_{c}" for c in names), *COEFFICIENTS}
        own = own.drop(columns=[c for c in own if c in known - {"w_domain", "unique_tokens_domain"}])
        evals = own["eval"].where(own["eval"] == general, DOMAIN)
        made.append(own.assign(run=run, eval=evals, mixed_in=name, **found))
    if not made:
        raise TableError(f"no run mixes one domain into {general} with a loss of that domain")
    return pd.concat(made, ignore_index=True)


def _probed(own: pd.DataFrame, name: str, tokens: Sequence[float], size: float | None) -> dict[str, float]:
    rows = cheapest(own[finished(own) & (own["eval"] == name)], name, size)
    if size is not None and rows.empty:
        raise TableError(f"learnability of {name}: no run of {size:g} parameters mixes it in")
    return _coefficients(rows, name, tokens)


def _check_probe_tokens(df: pd.DataFrame, tokens: Sequence[float]) -> None:
    if len(tokens) not in (2, 3) or not all(np.diff(tokens) > 0):
        raise TableError(f"learnability at {', '.join(f'{t:g}' for t in tokens)} tokens: give two or three, rising")
    if "tokens" not in df:
        raise TableError("learnability is a difference of losses between tokens, and the table has no column 'tokens'")


def cheapest(rows: pd.DataFrame, corpus: str, size: float | None = None) -> pd.DataFrame:
    """Rows of the smallest size, or of `size`, with the largest share of `corpus`: the cheapest runs that show it."""
    if "params" in rows:
        rows = rows[rows["params"] == (rows["params"].min() if size is None else size)]
    share = ratio(rows, corpus)
    return rows[share == share.max()]


def _coefficients(rows: pd.DataFrame, corpus: str, tokens: Sequence[float]) -> dict[str, float]:
    """k1, k2 and, of three token counts, k3 of the probing runs' rows of one corpus, nats."""
    found = [rows.loc[np.isclose(rows["tokens"], t, rtol=1e-3), "loss"] for t in tokens]
    for t, losses in zip(tokens, found):
        if losses.empty:
            have = ", ".join(f"{value:g}" for value in np.sort(rows["tokens"].unique())[:12]) or "none"
            raise TableError(
                f"learnability of {corpus}: no probing run was evaluated at {t:g} tokens (they were at: {have})"
            )
    loss = [float(losses.mean()) for losses in found]
    out = {"k1": loss[0], "k2": loss[0] - loss[1]}
    return out | ({"k3": loss[0] - 2 * loss[1] + loss[2]} if len(loss) == 3 else {})


def bits_per_byte(table: pd.DataFrame, source: str | os.PathLike[str] = "table") -> pd.DataFrame:
    """The table with its losses in bits per byte of text rather than nats per token, so tokenizers can be compared.

    Args:
      table: with a column `bytes_per_token`: UTF-8 bytes of the evaluated text over its tokens, in the row's tokenizer.
      source: names the table in errors.

    Raises:
      TableError: no such column, or a row without a positive number in it.
    """
    at = Locator(table, source)
    if "bytes_per_token" not in table:
        raise TableError(
            f"{source}: no column bytes_per_token, by which losses become bits per byte: the UTF-8 bytes of each row's "
            "held-out text over its tokens; name yours with --columns bytes_per_token=HEADER"
        )
    size = table["bytes_per_token"].to_numpy(float)
    at.refuse(~(np.isfinite(size) & (size > 0)), "bytes_per_token", "is not a positive number of bytes")
    scaled = {name: table[name] / (size * math.log(2)) for name in ("loss", "loss_se") if name in table}
    return table.assign(**scaled)
