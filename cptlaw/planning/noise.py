"""How far a run's losses lie from the law: a part its checkpoints share, and a part of each.

Letters of shapes: n rows, Q columns of a matrix over them, G runs; "..." stands for several such matrices.
"""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.planning import linear

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

RATIOS = np.append(0.0, np.geomspace(1e-2, 1e6, 81))  # run over checkpoint variance
FINEST = 1e-4  # nats: the least checkpoint noise, without which the likelihood of repeated losses has no maximum
OFFSET = 0.02  # added to a share before its logarithm
LEAST_FREEDOM = 24  # of repeats, below which variance is taken to be the same at all mixes
SLOPES = 0.7  # prior sd of the slopes of a log variance
MOST = 5.0  # times the usual sd, at most
NEWTON = 30
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


@dataclasses.dataclass(frozen=True)
class ByMix:
    """How the spread between runs of one setting depends on the mix and the tokens, relative to its usual size.

        sd / usual sd = exp(share (log(r + OFFSET) - its mean) + tokens (log D - its mean)) / 2

    Attributes:
      share, tokens: slopes of the log variance against the log of the evaluated corpus's own share, and log tokens.
      centre: the means of those logarithms over the repeats.
      freedom: degrees of freedom of the repeats that it was learned from; 0: no slope was.
    """

    share: float = 0.0
    tokens: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)
    freedom: int = 0

    def relative(self, share: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The sd (K,) at own shares and tokens (K,), over the usual one."""
        x = np.log(np.asarray(share, float) + OFFSET) - self.centre[0]
        z = np.log(np.asarray(tokens, float)) - self.centre[1]
        return np.clip(np.exp((self.share * x + self.tokens * z) / 2), 1 / MOST, MOST)


def by_mix(rows: pd.DataFrame, corpus: str) -> ByMix:
    """Learned from runs that repeat a setting (size, tokens, mix, base), of one corpus's rows.

    Gamma regression of the settings' variances of the log loss, a level for each size, with slopes that are small a
    priori (normal, sd `SLOPES`).

    Args:
      rows: run, tokens, w_<corpus> and loss; params and base where there are.
    """
    share = f"w_{corpus}"
    rows = rows[rows["tokens"] > 0] if "tokens" in rows else rows
    if not {share, "tokens"} <= set(rows):
        return ByMix()
    key = [name for name in ("params", "tokens", "base", *(f"w_{c}" for c in runs.corpora(rows))) if name in rows]
    groups = np.log(rows["loss"]).groupby([rows[name] for name in key], dropna=False)
    spread = pd.DataFrame({"variance": groups.var(ddof=1), "freedom": groups.size() - 1}).reset_index()
    spread = spread[(spread["freedom"] > 0) & (spread["variance"] > 0)]
    weight = spread["freedom"].to_numpy(float) / 2
    if 2 * weight.sum() < LEAST_FREEDOM:
        return ByMix()
    logs = np.log(np.stack([spread[share] + OFFSET, spread["tokens"]], axis=1))
    centre = np.average(logs, axis=0, weights=weight)
    sizes = pd.factorize(spread["params"] if "params" in spread else np.zeros(len(spread)))[0]
    levels = np.eye(sizes.max() + 1)[sizes]
    x = np.column_stack([logs - centre, levels])
    variance = spread["variance"].to_numpy(float)
    ridge = np.diag([1 / SLOPES**2] * 2 + [1e-9] * levels.shape[1])
    pooled = [np.log(np.average(variance[sizes == i], weights=weight[sizes == i])) for i in range(levels.shape[1])]
    theta = np.array([0.0, 0.0, *pooled])
    # Newton's steps of the log likelihood, -weight (log v + variance / v), whose Hessian is that of a convex one.
    for _ in range(NEWTON):
        ratio = variance * np.exp(-x @ theta)
        slope = x.T @ (weight * (ratio - 1)) - ridge @ theta * np.array([1, 1, *[0] * levels.shape[1]])
        step = np.linalg.solve((x.T * (weight * np.maximum(ratio, 0.5))) @ x + ridge, slope)
        theta = theta + np.clip(step, -1, 1)
    return ByMix(float(theta[0]), float(theta[1]), (float(centre[0]), float(centre[1])), int(2 * weight.sum()))


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
