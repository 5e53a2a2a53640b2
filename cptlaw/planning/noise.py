"""How far a run's losses lie from the law: a part its checkpoints share, and a part of each."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.planning import linear

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

RATIOS = np.append(0.0, np.geomspace(1e-2, 1e6, 81))  # run over checkpoint variance
FINEST = 1e-4  # nats: the least checkpoint noise, without which the likelihood of repeated losses has no maximum
RANK = 1e-7  # relative singular value below which a direction of the parameters is no direction


def of_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Spread between runs that differ in the seed alone.

    Returns:
      a row for each evaluated corpus with repeats: eval, sd (nats per token, pooled), relative, settings.
    """
    rows = table[runs.finished(table)]
    if "tokens" in rows:
        rows = rows[rows["tokens"] > 0]
    key = [name for name in ("params", "tokens", *(f"w_{c}" for c in runs.corpora(table))) if name in rows]
    found = []
    for corpus, some in rows.groupby("eval", sort=False):
        groups = some.groupby(key, dropna=False)["loss"]
        freedom = groups.size() - 1
        if key and freedom.sum():
            sd = float(np.sqrt((groups.var(ddof=1).fillna(0) * freedom).sum() / freedom.sum()))
            relative, settings = sd / float(some["loss"].mean()), int((freedom > 0).sum())
            found.append({"eval": corpus, "sd": sd, "relative": relative, "settings": settings})
    return pd.DataFrame(found, columns=["eval", "sd", "relative", "settings"])


def of_fit(fit: "Fit") -> tuple[float, float]:
    """(run, checkpoint) standard deviations of a run's losses about the law, nats per token.

    Restricted maximum likelihood (Patterson & Thompson 1971) with the law linear in its parameters: what the fit has
    taken up of the noise is allowed for, which in a small table is most of it. Runs of one row each have checkpoint
    noise alone.
    """
    rows = fit.residuals[~fit.residuals["held_out"].astype(bool)]
    off = rows["observed"].to_numpy(dtype=float) - rows["predicted"].to_numpy(dtype=float)
    slopes = linear.jacobian(fit.law, fit.params, linear.columns(fit, rows), linear.free(fit))
    basis, size, _ = np.linalg.svd(slopes / (np.linalg.norm(slopes, axis=0) + 1e-300), full_matrices=False)
    basis = basis[:, size > RANK * size[0]]
    group = pd.factorize(rows["run"])[0]
    freedom = len(off) - basis.shape[1]
    if freedom < 1:
        return 0.0, max(float(np.sqrt(np.mean(off**2))), FINEST)
    found = []
    for ratio in RATIOS if np.max(np.bincount(group)) > 1 else RATIOS[:1]:
        matrix, log_det = whitened(np.column_stack([basis, off]), group, ratio)
        left = matrix[-1, -1] - matrix[-1, :-1] @ np.linalg.solve(matrix[:-1, :-1], matrix[:-1, -1])
        variance = max(left / freedom, FINEST**2)
        surprise = log_det + np.linalg.slogdet(matrix[:-1, :-1])[1] + freedom * np.log(variance) + left / variance
        found.append((surprise, ratio * variance, variance))
    _, run, checkpoint = min(found)
    return float(np.sqrt(run)), float(np.sqrt(checkpoint))


def whitened(columns: np.ndarray, group: np.ndarray, ratio: float) -> tuple[np.ndarray, float]:
    """X' V^-1 X of columns X (..., rows, Q) and log det V, V = I + `ratio` where two rows are of one run.

    By Sherman and Morrison, so its cost is linear in the rows.
    """
    size = np.bincount(group)
    sums = np.eye(len(size))[:, group] @ columns
    shared = ratio / (1 + size * ratio)
    matrix = columns.swapaxes(-1, -2) @ columns - np.einsum("...rp,r,...rq->...pq", sums, shared, sums)
    return matrix, float(np.log1p(size * ratio).sum())
