"""Intervals from bootstrap samples: percentile and BCa (Efron & Tibshirani 1993, ch. 14), and the lack-of-fit term."""

from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from cptlaw.errors import UserError

METHODS = ("percentile", "bca")
STEP = 1e-4  # of the jackknife displacement, for the derivative along it


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
        values = [np.nanquantile(flat[:, i], q) for i, q in enumerate(at.ravel())]
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
        slopes.append((np.asarray(at(moved), float) - base) / STEP)
    slope = np.array(slopes)
    return np.sum(slope**3, axis=0) / (6 * np.maximum(np.sum(slope**2, axis=0), 1e-300) ** 1.5)


def lack_of_fit(
    scores: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]], x: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Standard deviation of log loss to add at `x` (...), from how far the law missed when it extrapolated before.

    The miss of the forward fold (root mean square log error) grows with the logarithmic distance outside the fitted
    range in the column the fold extrapolated, in units of the distance the fold itself had to go; within the range it
    is the rms residual of the fit.
    """
    held = scores["held_out"]
    if not held["n"]:
        raise UserError(f"no lack-of-fit term: the fit has no held-out score ({held['what']}); fit with rows held out")
    inside = scores["fit"]["rms_log"]
    reach = np.zeros(np.broadcast_shapes(*(np.shape(v) for v in x.values())))
    for name, step in held["steps"].items():
        low, high = ranges[name]
        outside = np.maximum(np.log(np.maximum(x[name], 1e-300) / high), np.log(low / np.maximum(x[name], 1e-300)))
        reach = np.maximum(reach, np.maximum(outside, 0) / step)
    return np.hypot(inside * (reach <= 0), held["law"]["rms_log"] * reach)
