"""Intervals from bootstrap samples: percentile and BCa (Efron & Tibshirani 1993, ch. 14), and Student's t."""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from cptlaw.errors import UserError

METHODS = ("percentile", "bca")
LEAST_DF = 3
STEP = 1e-4  # of the jackknife displacement, for the derivative along it


def expanded(level: float, units: int, parameters: int) -> float:
    """The level whose plain percentile interval covers `level` when only `units` were resampled.

    A bootstrap over few runs is narrow by sqrt(n / (n - 1)), and its quantiles are normal where Student's t is due: the
    expanded percentile interval (Hesterberg 2015, arXiv 1411.5279), with the degrees of freedom that the law's
    parameters leave, and at least `LEAST_DF`, since the rows within a run say something too.
    """
    t = student(level, max(units - parameters, LEAST_DF))
    return min(2 * NormalDist().cdf(t * math.sqrt(units / max(units - 1, 1))) - 1, 1 - 1e-9)


def student(level: float, df: float) -> float:
    """Half the central interval of `level` of Student's t, in units of its scale.

    Wallace's approximation (1959), within 1% up to a level of 90%: a saved fit predicts without SciPy.
    """
    if not 0 < level < 1:
        raise UserError(f"level {level} is not in (0, 1)")
    z = NormalDist().inv_cdf((1 + level) / 2) * (8 * df + 3) / (8 * df + 1)
    return math.sqrt(df * math.expm1(z * z / df))


def bounds(
    point: np.ndarray, samples: np.ndarray, level: float, method: str = "percentile", acceleration: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds (...) from samples (S, ...); failed (NaN) resamples are left out."""
    if method not in METHODS:
        raise UserError(f"no interval method {method!r}; there are {', '.join(METHODS)}")
    tail = (1 - level) / 2
    if method == "percentile":
        low, high = np.nanquantile(samples, [tail, 1 - tail], axis=0)
        return low, high
    normal = NormalDist()
    below = np.nanmean(np.where(np.isnan(samples), np.nan, (samples < point) + 0.5 * (samples == point)), axis=0)
    edges = 1 / (2 * len(samples))
    bias = np.vectorize(normal.inv_cdf, otypes=[float])(np.clip(below, edges, 1 - edges))
    out = []
    for z in (normal.inv_cdf(tail), normal.inv_cdf(1 - tail)):
        shifted = bias + (bias + z) / (1 - acceleration * (bias + z))
        at = np.vectorize(normal.cdf, otypes=[float])(shifted)
        flat = samples.reshape(len(samples), -1)
        values = [np.nanquantile(flat[:, i], q) if q == q else np.nan for i, q in enumerate(at.ravel())]
        out.append(np.array(values).reshape(point.shape))
    return out[0], out[1]


def acceleration(
    params: Mapping[str, float], influence: Mapping[str, Mapping[str, float]], at: Callable[[Mapping[str, Any]], Any]
) -> np.ndarray:
    """BCa's acceleration of `at(theta)`: skewness of its derivatives along each run's influence."""
    base = np.asarray(at(params), float)
    if not influence:
        return np.zeros(base.shape)
    slopes = []
    for run in influence.values():
        moved = {k: v + STEP * run.get(k, 0.0) for k, v in params.items()}
        with np.errstate(over="ignore", invalid="ignore"):  # a run may move a parameter out of what the law can take
            slopes.append((np.asarray(at(moved), float) - base) / STEP)
    slope = np.array(slopes)
    return np.sum(slope**3, axis=0) / (6 * np.maximum(np.sum(slope**2, axis=0), 1e-200) ** 1.5)
