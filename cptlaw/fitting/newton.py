"""One robust fit's path to its minimum: damped Newton on rows' Huber terms, compiled for many lanes at once.

A step solves (J' diag(rho'') J + lam (J' diag(rho'/r) J + diag)) d = -J' rho'(r). It is Newton in the residuals, which
ends after finitely many steps where the objective is piecewise quadratic (reweighting crawls there). It is damped by
the matrix of reweighted least squares, so that the path does not depend on how parameters are scaled. Geodesic
acceleration (Transtrum & Sethna 2012) adds the second-order bend of the curved valleys that such laws have: on D-CPT
tables it takes the median number of steps from 98 to 38 for cold starts and from 19 to 13 for resamples. Boxes are kept
by an active set, so a bound is reached exactly.

Shapes: P free parameters, R rows (padded); a leading L is lanes. Names without a suffix are scalars.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw.fitting.objective import Objective, Terms
from cptlaw.laws.base import Law

CODES = ("converged", "on a bound", "stalled", "non-finite")
CONVERGED, ON_BOUND, STALLED, NON_FINITE = range(4)
RUNNING = -1
BURST = 4  # steps between looks at which lanes have ended
LAM_START, LAM_MAX, LAM_MIN = 1e-2, 1e12, 1e-12
WORSE, GOOD, FAIR = 3.0, (0.75, 0.2), (0.25, 0.5)  # lam grows by WORSE; it shrinks by a factor where the gain is higher
MAX_TURN = 0.4  # longest bend of a step, relative to its Newton part


class State(NamedTuple):
    """A lane: parameters, the objective and its derivatives there, the damping, steps taken, and a code or RUNNING."""

    theta: Any  # (P,)
    value: Any
    gradient: Any  # (P,)
    curvature: Any  # (P, P): J' diag(rho'') J
    metric: Any  # (P, P): J' diag(rho'/r) J
    lam: Any
    steps: Any
    code: Any


class Lane(NamedTuple):
    """What differs between lanes: row weights and losses, (R,) each. Padded rows have weight 0."""

    weight: Any
    y: Any


class Common(NamedTuple):
    """What all lanes share: columns of the rows, fixed parameters, the box, and how to solve."""

    x: dict[str, Any]  # (R,) each
    fixed: dict[str, Any]
    low: Any  # (P,)
    high: Any  # (P,)
    delta: Any  # threshold of the objective
    tolerance: Any  # relative decrease of the objective at which a lane has converged
    most: Any  # steps after which it is given up


def fresh(theta_LP: np.ndarray, running_L: np.ndarray) -> State:
    """Lanes not yet measured: their first step stays in place and is accepted, which measures them."""
    lanes, size = theta_LP.shape
    eye_LPP = np.broadcast_to(np.eye(size), (lanes, size, size))
    return State(
        theta=theta_LP,
        value=np.full(lanes, np.inf),
        gradient=np.zeros((lanes, size)),
        curvature=0 * eye_LPP,
        metric=eye_LPP,
        lam=np.full(lanes, LAM_START),
        steps=np.zeros(lanes, np.int64),
        code=np.where(running_L, RUNNING, CONVERGED),
    )


@jax.jit
def merge(taken_L: jax.Array, new: Any, old: Any) -> Any:
    """Lanes of `new` where taken, else of `old`; two trees of arrays (L, ...)."""
    return jax.tree.map(lambda a, b: jnp.where(taken_L.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old)


class Proposal(NamedTuple):
    """Where a lane would step to (P,), the Newton part of the step (P,), and which parameters stay on their bound."""

    theta: Any
    move: Any
    held: Any


@functools.lru_cache(maxsize=64)
def program(law: Law, objective: Objective, names: tuple[str, ...]) -> Callable[[State, Lane, Common], State]:
    """Up to BURST steps of every running lane of one law and objective, with free parameters `names`.

    A step is three compiled programs, called in turn. As one program it takes twice as long, because XLA's CPU code
    derives the Jacobian again for every product that it is in, and within a compiled loop ten times as long.
    """
    residuals = _Residuals(law, objective, names)
    propose = jax.jit(_of_lanes(functools.partial(_propose, residuals)))
    differentiate = jax.jit(_of_lanes(residuals.differentiated))
    accept = jax.jit(_of_lanes(functools.partial(_accept, residuals)))

    def advance(lanes: State, own: Lane, common: Common) -> State:
        for _ in range(BURST):
            proposal = propose((lanes,), own, common)
            rows = differentiate((proposal.theta,), own, common)
            lanes = accept((lanes, proposal, *rows), own, common)
            if not (np.asarray(lanes.code) == RUNNING).any():  # waits, so that no two steps hold memory
                break
        return lanes

    return advance


def _of_lanes(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step(*of_lane, own, common)` of one lane, mapped over lanes."""
    return jax.vmap(lambda of_lane, own, common: step(*of_lane, own, common), in_axes=(0, 0, None))


@dataclass(frozen=True)
class _Residuals:
    """Residuals of one lane's rows at its parameters, and what a step needs of their derivatives."""

    law: Law
    objective: Objective
    names: tuple[str, ...]

    def at(self, theta_P: jax.Array, own: Lane, common: Common) -> jax.Array:
        """Predicted less observed (R,), of log loss or of loss."""
        values = {name: theta_P[i] for i, name in enumerate(self.names)} | common.fixed
        predicted_R = self.law.predict(self.law.expanded(values), common.x)
        if self.objective.in_log:
            positive_R = predicted_R > 0
            return jnp.where(positive_R, jnp.log(jnp.where(positive_R, predicted_R, 1.0)), jnp.nan) - jnp.log(own.y)
        return predicted_R - own.y

    def terms(self, residual_R: jax.Array, own: Lane, common: Common) -> Terms:
        """The objective's summands. A row of weight zero must not spoil a sum by a non-finite value."""
        return self.objective.terms(jnp.where(own.weight > 0, residual_R, 0.0), own.weight, common.delta)

    def differentiated(self, theta_P: jax.Array, own: Lane, common: Common) -> tuple[jax.Array, jax.Array]:
        """Residuals (R,) and their derivatives by the parameters (P, R)."""
        residual_R, push = jax.linearize(lambda t: self.at(t, own, common), theta_P)
        return residual_R, jnp.where(own.weight[None] > 0, jax.vmap(push)(jnp.eye(len(self.names))), 0.0)

    def measure(
        self, residual_R: jax.Array, jacobian_PR: jax.Array, own: Lane, common: Common
    ) -> tuple[jax.Array, ...]:
        """Value, gradient (P,), curvature (P, P) and metric (P, P) of the objective."""
        size, terms = len(self.names), self.terms(residual_R, own, common)
        # One product for both matrices: XLA's CPU code for it is three times as fast as for two.
        weighted_2PR = jnp.concatenate([jacobian_PR * terms.curvature[None], jacobian_PR * terms.secant[None]])
        both_2PP = weighted_2PR @ jacobian_PR.T
        return jnp.sum(terms.value), jacobian_PR @ terms.slope, both_2PP[:size], both_2PP[size:]

    def bend(self, lane: State, move_P: jax.Array, own: Lane, common: Common) -> jax.Array:
        """J' W r'' (P,): r'' is the residuals' second derivative along `move`, W the row weights of the damped step."""

        def along(t: jax.Array) -> jax.Array:
            return jax.jvp(lambda u: self.at(u, own, common), (t,), (move_P,))[1]

        residual_R, back = jax.vjp(lambda t: self.at(t, own, common), lane.theta)
        second_R = jax.jvp(along, (lane.theta,), (move_P,))[1]
        terms = self.terms(residual_R, own, common)
        weighted_R = second_R * (terms.curvature + lane.lam * terms.secant)
        return back(jnp.where(own.weight > 0, weighted_R, 0.0))[0]


def _accept(
    residuals: _Residuals,
    lane: State,
    proposal: Proposal,
    residual_R: jax.Array,
    jacobian_PR: jax.Array,
    own: Lane,
    common: Common,
) -> State:
    """The lane after one proposed step: moved if the objective did not grow, else with more damping."""
    theta_P, move_P, held_P = proposal
    moved_P, free_P = theta_P - lane.theta, jnp.where(held_P, 0.0, lane.gradient)
    expected = -(free_P @ moved_P) - 0.5 * moved_P @ lane.curvature @ moved_P  # decrease of the quadratic model
    value, gradient_P, curvature_PP, metric_PP = residuals.measure(residual_R, jacobian_PR, own, common)

    finite = jnp.isfinite(value) & jnp.isfinite(metric_PP).all() & jnp.isfinite(move_P).all()
    better = finite & (value <= lane.value)
    gain = (lane.value - value) / jnp.maximum(expected, 1e-300)
    shrink = jnp.where(gain > GOOD[0], GOOD[1], jnp.where(gain > FAIR[0], FAIR[1], 1.0))
    first = jnp.isinf(lane.value)  # it only measures
    lam = jnp.where(first, LAM_START, lane.lam * jnp.where(better, shrink, WORSE))

    enough = common.tolerance * jnp.abs(lane.value)
    small = finite & (jnp.abs(lane.value - value) <= enough) & (expected <= 100 * enough)
    perfect = (lane.value >= 0) & (lane.value <= 1e-28 * jnp.sum(own.weight))  # a likelihood may be negative
    converged = (small | perfect | jnp.all(free_P == 0)) & ~first
    exhausted = (lane.steps + 1 >= common.most) | (lam > LAM_MAX)
    code = jnp.where(converged, CONVERGED, jnp.where(exhausted, STALLED, RUNNING))
    code = jnp.where(first & ~finite, NON_FINITE, code)

    new = State(theta_P, value, gradient_P, curvature_PP, metric_PP, lam, lane.steps, code)
    out = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, lane._replace(lam=lam, code=code))
    on_bound = (out.code == CONVERGED) & jnp.any((out.theta <= common.low) | (out.theta >= common.high))
    stepped = out._replace(
        lam=jnp.maximum(out.lam, LAM_MIN), steps=lane.steps + 1, code=jnp.where(on_bound, ON_BOUND, out.code)
    )
    return jax.tree.map(lambda a, b: jnp.where(lane.code == RUNNING, a, b), stepped, lane)


def _propose(residuals: _Residuals, lane: State, own: Lane, common: Common) -> Proposal:
    """Where to step, within the box. Parameters that a descent would push out of it stay on their bound."""
    held_P = ((lane.theta <= common.low) & (lane.gradient > 0)) | ((lane.theta >= common.high) & (lane.gradient < 0))
    diagonal_P = jnp.diag(lane.metric)
    damping_PP = lane.lam * (lane.metric + jnp.diag(diagonal_P))
    matrix_PP = lane.curvature + damping_PP + jnp.diag(1e-14 * diagonal_P + 1e-300)
    matrix_PP = jnp.where(held_P[:, None] | held_P[None, :], 0.0, matrix_PP) + jnp.diag(jnp.where(held_P, 1.0, 0.0))
    root_P = jnp.sqrt(jnp.where(held_P, 1.0, jnp.diag(matrix_PP)))
    factor_PP = jnp.linalg.cholesky(matrix_PP / root_P[:, None] / root_P[None, :])

    def newton(right_P: jax.Array) -> jax.Array:
        """The damped matrix's solution, with rows and columns scaled to a unit diagonal."""
        return jax.scipy.linalg.cho_solve((factor_PP, True), jnp.where(held_P, 0.0, right_P) / root_P) / root_P

    def length(step_P: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.sum(step_P**2 * diagonal_P))

    move_P = -newton(lane.gradient)
    turn_P = -0.5 * newton(residuals.bend(lane, move_P, own, common))
    gentle = length(turn_P) <= MAX_TURN * length(move_P)  # false for a non-finite turn
    step_P = jnp.where(gentle, move_P + turn_P, move_P)
    return Proposal(jnp.clip(lane.theta + step_P, common.low, common.high), move_P, held_P)
