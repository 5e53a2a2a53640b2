"""Derivatives of a fit by its data, through the implicit function theorem: d theta = -H^-1 d(gradient)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw.fitting.objective import Objective
from cptlaw.fitting.rows import Rows
from cptlaw.fitting.solver import Problem, solve
from cptlaw.laws import Law

REFITTED = 100  # most runs that are left out one by one by refitting
TOLERANCE = 1e-9  # of those refits
RANK = 1e-10  # relative eigenvalue of the scaled Hessian below which a direction is left unmoved
STEP = 1e-6  # relative step of central differences


@functools.lru_cache(maxsize=64)
def _program(law: Law, objective: Objective, names: tuple[str, ...]) -> Callable[..., Any]:
    def value(t: Any, log_y: Any, w: Any, x: Any, fixed: Any, delta: Any) -> Any:
        predicted = law.predict(law.expanded(dict(zip(names, t, strict=True)) | fixed), x)
        residual = jnp.log(predicted) - log_y if objective.in_log else predicted - jnp.exp(log_y)
        return jnp.sum(objective.terms(jnp.where(w > 0, residual, 0.0), w, delta).value)

    def derivatives(t: Any, log_y: Any, w: Any, *rest: Any) -> tuple[Any, Any, Any]:
        # The objective is symmetric in the order of differentiation: rows first, then the few parameters forward.
        gradients = jax.jacfwd(jax.grad(value, argnums=(0, 1, 2)))(t, log_y, w, *rest)
        hessian, by_loss, by_weight = gradients
        return hessian, by_loss.T, by_weight.T

    return jax.jit(derivatives)


def data_derivatives(problem: Problem, weights: np.ndarray, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives of the free parameters (P,) by each row's weight and by its log loss, two arrays (P, rows).

    Parameters on a bound do not move, nor do directions in which the objective is flat to rounding.
    """
    with jax.enable_x64():
        x = {k: jnp.asarray(v, float) for k, v in problem.x.items()}
        fixed = {k: jnp.asarray(float(v)) for k, v in problem.fixed.items()}
        run = _program(problem.law, problem.objective, problem.free)
        arrays = (jnp.asarray(a, float) for a in (theta, np.log(problem.y), weights))
        found = run(*arrays, x, fixed, jnp.asarray(problem.objective.stages()[-1]))
        hessian, by_loss, by_weight = (np.asarray(a) for a in found)
    low, high = problem.box
    moving = (theta > low) & (theta < high)
    out = np.zeros((2, *by_weight.shape))
    if moving.any():
        block = hessian[np.ix_(moving, moving)]
        scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(block)), 1e-300))
        inverse = np.linalg.pinv(block * np.outer(scale, scale), rcond=RANK, hermitian=True) * np.outer(scale, scale)
        out[0][moving], out[1][moving] = -inverse @ by_weight[moving], -inverse @ by_loss[moving]
    return out[0], out[1]


def run_influence(problem: Problem, rows: Rows, theta: np.ndarray) -> dict[str, dict[str, float]]:
    """Run -> the reported parameters less those fitted without that run.

    Exact, by a refit from `theta`, where there are at most `REFITTED` runs; else to first order, by the derivative by
    the weight of the run's rows (infinitesimal jackknife), which on small tables can be many times too large.
    """
    weights = rows.weights
    runs = np.unique(rows.run[rows.fitted])
    if len(runs) <= REFITTED:
        found = solve(
            problem,
            np.tile(theta, (len(runs), 1)),
            lambda i: weights * (rows.run != runs[i][:, None]),
            stages=problem.objective.stages()[-1:],
            tolerance=TOLERANCE,
        )
        without = np.where(np.isfinite(found.value)[:, None], found.theta, theta)
        whole, parts = problem.reported(theta), problem.reported(without)
        reported = np.stack([np.broadcast_to(whole[n] - parts[n], len(runs)) for n in problem.law.names])
    else:
        by_weight, _ = data_derivatives(problem, weights, theta)
        moved = np.stack([by_weight @ (weights * (rows.run == i)) for i in runs])  # (runs, P)
        reported = reported_jacobian(problem, theta) @ moved.T
    return {rows.runs[i]: dict(zip(problem.law.names, column.tolist())) for i, column in zip(runs, reported.T)}


def reported_jacobian(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Derivative of the reported parameters (law.names) by the free ones, (names, P), by central differences."""
    step = STEP * np.maximum(np.abs(theta), 1e-3)
    around = theta + np.diag(step), theta - np.diag(step)
    high, low = (
        np.stack([np.broadcast_to(problem.reported(t)[n], len(theta)) for n in problem.law.names]) for t in around
    )
    return (high - low) / (2 * step)


def loss_jacobian(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Derivative of the predicted loss by the free parameters, (rows, P), by central differences."""
    step = STEP * np.maximum(np.abs(theta), 1e-3)

    def predict(t: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            values = {k: v[:, None] if v.ndim else v for k, v in problem.reported(t).items()}
            return np.broadcast_to(problem.law.predict(values, problem.x), (len(t), len(problem.y)))

    return ((predict(theta + np.diag(step)) - predict(theta - np.diag(step))) / (2 * step)[:, None]).T
