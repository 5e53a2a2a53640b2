"""Tables made from tables: the runs of some corpora, fewer late checkpoints, and each corpus's learnability."""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from cptlaw.runs.conditions import select
from cptlaw.runs.contract import TableError, corpora, finished, ratio


def of_mixes(df: pd.DataFrame, mixed: Collection[str], evals: Collection[str]) -> pd.DataFrame:
    """The rows of mixes of the corpora `mixed` alone that evaluate one of `evals`, without the other shares' columns.

    A law of those mixes is then one of their corpora; runs that also trained on others answer other questions.
    """
    others = [f"w_{name}" for name in corpora(df) if name not in mixed]
    return df[(df[others] == 0).all(axis=1) & df["eval"].isin(list(evals))].drop(columns=others)


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
