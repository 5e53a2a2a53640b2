"""How far a run's losses lie from the law: a part its checkpoints share, and a part of each.

Letters of shapes: n rows, Q columns of a matrix over them, G runs; "..." stands for several such matrices.
"""

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
    off_n = rows["observed"].to_numpy(dtype=float) - rows["predicted"].to_numpy(dtype=float)
    basis_nQ = _basis(linear.jacobian(fit.law, fit.params, linear.columns(fit, rows), linear.free(fit)))
    run_of_row = pd.factorize(rows["run"])[0]
    freedom = len(off_n) - basis_nQ.shape[1]
    if freedom < 1:
        return 0.0, max(float(np.sqrt(np.mean(off_n**2))), FINEST)
    found = []
    for ratio in RATIOS if np.max(np.bincount(run_of_row)) > 1 else RATIOS[:1]:
        gram, log_det = whitened(np.column_stack([basis_nQ, off_n]), run_of_row, ratio)
        inner, cross, total = gram[:-1, :-1], gram[:-1, -1], gram[-1, -1]
        left = total - cross @ np.linalg.solve(inner, cross)  # what the law's directions cannot take up
        variance = max(left / freedom, FINEST**2)
        # -2 log restricted likelihood, but for a constant
        deviance = log_det + np.linalg.slogdet(inner)[1] + freedom * np.log(variance) + left / variance
        found.append((deviance, ratio * variance, variance))
    _, run, checkpoint = min(found)
    return float(np.sqrt(run)), float(np.sqrt(checkpoint))


def _basis(slopes_nP: np.ndarray) -> np.ndarray:
    """(n, Q) orthonormal basis of the directions in which the parameters move the rows."""
    scaled = slopes_nP / (np.linalg.norm(slopes_nP, axis=0) + 1e-300)
    basis, size, _ = np.linalg.svd(scaled, full_matrices=False)
    return basis[:, size > RANK * size[0]]


def whitened(columns: np.ndarray, run_of_row: np.ndarray, ratio: float) -> tuple[np.ndarray, float]:
    """X' V^-1 X (..., Q, Q) of columns X (..., n, Q) and log det V, V = I + `ratio` where two rows are of one run.

    By Sherman and Morrison, so its cost is linear in the rows.
    """
    size_G = np.bincount(run_of_row)
    sums_GQ = np.eye(len(size_G))[:, run_of_row] @ columns
    shared_G = ratio / (1 + size_G * ratio)
    gram = columns.swapaxes(-1, -2) @ columns - np.einsum("...gp,g,...gq->...pq", sums_GQ, shared_G, sums_GQ)
    return gram, float(np.log1p(size_G * ratio).sum())
