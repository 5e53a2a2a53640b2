"""The ratio of two ladders' losses at a target, from the rungs (sizes and tokens) that both hold.

    log(L_candidate / L_baseline) = a + b (ln N - ln N_target) + c (ln D - ln D_target) + walks in ln N and in ln D
                                    + what one size shares + noise

The slopes b and c are small a priori and the walks go on from the largest rung, so the ratio there is carried to the
target unless the rungs show a trend, and the interval grows with the distance. Scales are the mode under a prior, which
grows with the ratio: recipes that are far apart at one rung are further from being so alike at another.
"""

import math

import numpy as np
import pandas as pd

DF = 5.0  # degrees of freedom of the ratio's distribution
# Medians of the prior of the scales: slopes and walks an e-fold in size and in tokens, one size, noise. The first four
# are times the root mean square ratio over `USUAL`, where that is more than 1.
MEDIANS = np.array([0.005, 0.005, 0.02, 0.005, 0.003, 0.002])
USUAL = 0.05
LEVEL = 5.0  # prior sd of the constant


def ratio(rungs: pd.DataFrame, params: float, tokens: float) -> tuple[float, float]:
    """(mean, scale) of the log ratio of mean runs at the target, Student's t with `DF` degrees of freedom.

    Args:
      rungs: params, tokens, and the losses `baseline` and `candidate`, two rows or more.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    y = np.log(rungs["candidate"].to_numpy(float) / rungs["baseline"].to_numpy(float))
    n = len(y)
    size, data = (
        np.log(np.append(rungs[name].to_numpy(float), target)) - math.log(target)
        for name, target in (("params", params), ("tokens", tokens))
    )
    same = (np.abs(np.subtract.outer(size, size)) < 1e-3).astype(float)
    same[n, :] = same[:, n] = 0.0  # the mean of runs has no run's effect
    terms = [np.outer(size, size), np.outer(data, data), _walk(size), _walk(data), same, np.diag(np.arange(n + 1) < n)]
    times = max(1.0, float(np.sqrt(np.mean(y**2))) / USUAL)
    centre = np.log(MEDIANS * np.array([times, times, times, times, 1.0, 1.0]))

    def covariance(scales: np.ndarray) -> np.ndarray:
        return LEVEL**2 + np.tensordot(np.exp(2 * scales), np.array(terms, float), axes=1)

    def deviance(scales: np.ndarray) -> float:
        try:
            factor = cho_factor(covariance(scales)[:n, :n], lower=True)
        except np.linalg.LinAlgError:
            return 1e9
        fit = y @ cho_solve(factor, y) + 2 * np.log(np.diag(factor[0])).sum()
        return float(fit + ((scales - centre) ** 2).sum())

    found = minimize(deviance, centre, method="Nelder-Mead", options={"maxiter": 150, "xatol": 0.05, "fatol": 0.05}).x
    total = covariance(found)
    weights = np.linalg.solve(total[:n, :n], total[:n, n])
    return float(weights @ y), math.sqrt(max(float(total[n, n] - weights @ total[:n, n]), 1e-10))


def draws(mean: float, scale: float, count: int, seed: int = 0) -> np.ndarray:
    """(count + 1,) of the log ratio, the mean first."""
    return np.append(mean, mean + scale * np.random.default_rng(seed).standard_t(DF, count))


def _walk(at: np.ndarray) -> np.ndarray:
    """Covariance of a random walk of one unit an e-fold that begins at the smallest."""
    return np.minimum.outer(at - at.min(), at - at.min())
