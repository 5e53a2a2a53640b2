"""Other scores than perplexity to choose by: `Pool.of(rows, chunk, x=..., unit="excess")`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from cptlaw import units
from cptlaw.selection.landscape import LandscapeError


def excess(rows: pd.DataFrame, reference: pd.DataFrame) -> np.ndarray:
    """Excess loss of every chunk: its nats per token under the base less those under a reference model, (rows,).

    It is high where the reference, trained on text one likes, knows what the base could still learn. It is near zero
    for noise, which neither predicts (Rho-1: Lin et al. 2024, arXiv 2404.07965, equation 3, summed to chunks).

    Raises:
      LandscapeError: the two tables do not score the same chunks.
    """
    _same_chunks(rows, [reference])
    return ((rows["nats"] - reference["nats"]) / rows["tokens"]).to_numpy()


def correlation(scores: Sequence[pd.DataFrame], quality: Sequence[float], groups: np.ndarray) -> np.ndarray:
    """How well a group's bits-per-byte, over many models, tells which of them are good: (rows,), in [-1, 1].

    Perplexity correlations (Thrush et al. 2024, arXiv 2409.05816, equation 4): for each pair of models, the sign of
    their difference in quality times their difference in rank among the models' losses on the group; text whose
    low loss goes with quality scores high. A chunk has the value of its group (source, document).

    Args:
      scores: one table a model, of the same chunks.
      quality: of each model; higher is better.
      groups: (rows,) labels; single chunks are too noisy to rank models by.

    Raises:
      LandscapeError: tables of different chunks, fewer than three models, or models that are all as good.
    """
    y = np.asarray(quality, float)
    if len(scores) < 3 or len(scores) != len(y):
        raise LandscapeError(f"{len(scores)} models and {len(y)} qualities: give at least three, one quality each")
    _same_chunks(scores[0], scores[1:])
    _, codes = np.unique(groups, return_inverse=True)
    size = np.bincount(codes, scores[0]["bytes"])
    loss = np.array([np.bincount(codes, rows["nats"]) / np.maximum(size, 1) for rows in scores])
    # Equal losses, and equal qualities, share the mean of their ranks: else their order in the input would decide.
    rank = stats.rankdata(loss, axis=0)
    beats = np.sign(y[:, None] - y[None, :]).sum(axis=1)
    if not beats.any():
        raise LandscapeError(f"all {len(y)} models have the quality {y[0]:g}: nothing to correlate a loss with")
    gamma = -(beats @ rank) / (beats @ stats.rankdata(y))
    return gamma[codes]


def _same_chunks(rows: pd.DataFrame, others: Sequence[pd.DataFrame]) -> None:
    key = ["document", "chunk", "tokens"]
    for other in others:
        if len(other) != len(rows) or (other[key].to_numpy() != rows[key].to_numpy()).any():
            raise LandscapeError(
                "the tables score different chunks; score one corpus with one chunk length under every model, "
                f"then choose a unit of {', '.join(units.PERPLEXITY)} or these scores"
            )
