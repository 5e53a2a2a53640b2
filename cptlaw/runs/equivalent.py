"""The size of a model as its base model's loss tells it: what a base is worth on the ladder of its table.

A law reads a size as what a model can do, and fits A/N^alpha to a ladder of base models. A base that was trained too
little for its size, or on other text, is worse than its size says, and a law of its parameters then promises too much.
Its loss of the general corpus is known before any continual pre-training, and costs one evaluation.
"""

import numpy as np
import pandas as pd

from cptlaw.runs.contract import ACTUAL, TableError, corpora
from cptlaw.runs.derived import bases
from cptlaw.words import count

LEAST_SIZES = 3  # of base models, before one is said to be off their ladder


def equivalent_sizes(df: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """What each size's base models are worth: `params`, `loss` (nats per token), `bases` and `equivalent`, by size.

    A straight line of log parameters on log loss goes through the sizes that no smaller one equals or beats in loss;
    `equivalent` are the parameters at which it has a size's own loss, the mean of its base models'. On a ladder of
    bases trained alike, the two differ little.

    Raises:
      TableError: fewer than two sizes have rows of `corpus` at zero tokens, or no larger size has the lower loss.
    """
    found = _by_size(df, corpus)
    if len(found) < 2:
        raise TableError(
            f"the sizes of models are told by their base models' loss of {corpus}, which needs rows of it at zero "
            f"tokens for two sizes or more, and there are such rows for {len(found)}"
        )
    before = found["loss"].cummin().shift(fill_value=np.inf)
    ladder = found[found["loss"] < before]
    if len(ladder) < 2:
        raise TableError(f"no base model of a larger size has a lower loss of {corpus} than the smallest size's")
    slope, level = np.polyfit(np.log(ladder["loss"]), np.log(ladder["params"]), 1)
    return found.assign(equivalent=np.exp(level + slope * np.log(found["loss"])))


def sized_by_base(df: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """The table with `params` replaced by `equivalent_sizes`, and the parameters themselves in `actual_params`.

    How much better an unseen size was predicted so: benchmarks/equivalent_size.py.

    Raises:
      TableError: as `equivalent_sizes`; a size whose base models have no loss of `corpus`; or it was done before.
    """
    if ACTUAL in df:
        raise TableError(f"the column {ACTUAL} is there already: the sizes of this table are told by base models")
    sizes = equivalent_sizes(df, corpus).set_index("params")["equivalent"]
    worth = df["params"].map(sizes)
    if worth.isna().any():
        missing = df.loc[worth.isna(), "params"].iloc[0]
        raise TableError(
            f"no base loss of {corpus} at {count(missing)} parameters: a row at zero tokens gives it; or leave the "
            "size out with --where"
        )
    return df.assign(**{ACTUAL: df["params"], "params": worth})


def undertrained(df: pd.DataFrame) -> list[str]:
    """Warns of sizes whose base models are no better than smaller ones', of the corpus that most mixes hold."""
    shares = corpora(df)
    if ACTUAL in df or not shares or "params" not in df:
        return []
    general = max(shares, key=lambda name: int((df[f"w_{name}"] > 0).sum()))
    loss = _by_size(df, general).set_index("params")["loss"]
    if len(loss) < LEAST_SIZES:
        return []
    least = loss.cummin().shift()
    if not len(worse := loss[loss >= least]):
        return []
    size, better = worse.index[-1], loss[loss.index < worse.index[-1]].idxmin()
    return [
        f"the base model of {count(size)} parameters is no better at {general} ({loss[size]:.3f} nats) than that of "
        f"{count(better)} ({loss[better]:.3f}): it was trained too little for its size, and a law of parameters "
        f"promises too much of it; --size-by-base {general} (runs.sized_by_base) takes sizes by what base models can do"
    ]


def _by_size(df: pd.DataFrame, corpus: str) -> pd.DataFrame:
    """The base models' loss of a corpus, the mean of each size's `bases`, by rising `params`."""
    known = bases(df, corpus)
    if known.empty:
        return pd.DataFrame(columns=["params", "loss", "bases"])
    return known.groupby("params")["loss"].agg(["mean", "size"]).set_axis(["loss", "bases"], axis=1).reset_index()
