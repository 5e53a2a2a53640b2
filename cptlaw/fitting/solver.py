"""Many small robust fits at once: lanes of one compiled program (`newton`), fed from a queue.

A lane is one start or one resample. Lanes that end are replaced from the queue, so a slow lane delays nobody else.

Shapes: L lanes of one pool, P free parameters, R rows, K linear parameters.
"""

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw import cores
from cptlaw.fitting import newton
from cptlaw.fitting.newton import CODES as CODES
from cptlaw.fitting.newton import RUNNING
from cptlaw.fitting.objective import Objective
from cptlaw.laws.base import Law

TOLERANCE, ROUGH = 1e-12, 1e-6  # relative decrease of the objective at which a lane has converged; in early stages
MOST_STEPS, MOST_ROUGH = 400, 100  # of the last stage, and of those before it
LANES = 16
POOL_BYTES = 256 << 20  # of a pool's Jacobians and of what they are made from
SWEEPS = 50
MET = 1e-6  # relative difference of objectives below which two starts on the same rows have met
OfLanes = np.ndarray | Callable[[np.ndarray], np.ndarray] | None


@dataclass(frozen=True)
class Problem:
    """Rows of one fit. `x` columns and `y` (loss) are (rows,); `fixed` are parameters held at a value."""

    law: Law
    objective: Objective
    x: dict[str, np.ndarray]
    y: np.ndarray
    fixed: dict[str, float]

    @property
    def free(self) -> tuple[str, ...]:
        """Parameters solved for, in order."""
        return tuple(name for name in self.law.names if name not in self.fixed)

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds (P,)."""
        chosen = [p for p in self.law.params if p.name in self.free]
        return np.array([p.low for p in chosen], float), np.array([p.high for p in chosen], float)

    def reported(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Solutions (..., P) as the law's reported parameters, fixed ones included."""
        values = dict(zip(self.free, np.moveaxis(theta, -1, 0), strict=True)) | self.fixed
        whole = self.law.expanded(values)
        return {k: np.array(np.broadcast_to(np.asarray(v, float), theta.shape[:-1])) for k, v in whole.items()}


class Solution(NamedTuple):
    """(lanes, P) parameters, (lanes,) objective values, codes into CODES, and steps taken."""

    theta: np.ndarray
    value: np.ndarray
    code: np.ndarray
    steps: np.ndarray


def draw_starts(problem: Problem, count: int, seed: int) -> np.ndarray:
    """A Latin hypercube over the start ranges, (count, P); linear parameters are to be solved for."""
    rng = np.random.default_rng(seed)
    chosen = [p for p in problem.law.params if p.name in problem.free]
    ranks = np.stack([rng.permutation(count) for _ in chosen], axis=1)
    unit = (ranks + rng.random((count, len(chosen)))) / count
    low, high = np.array([p.start for p in chosen]).T
    return low + unit * (high - low)


def objectives_at(problem: Problem, theta: np.ndarray, weights: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The objective (L,) at one point (P,), rows weighted by each of `weights` (L, R); `y` is (R,) or (L, R)."""
    with jax.enable_x64():
        predicted_R = problem.law.predict(problem.reported(theta), problem.x)
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.log(predicted_R) - np.log(y) if problem.objective.in_log else predicted_R - y
        delta = jnp.asarray(problem.objective.stages()[-1])
        terms = jax.vmap(lambda r, w: problem.objective.terms(r, w, delta).value.sum())
        return np.asarray(terms(jnp.asarray(np.where(weights > 0, off, 0.0)), jnp.asarray(weights)))


def solve(
    problem: Problem,
    starts: np.ndarray,
    weights: OfLanes = None,
    y: OfLanes = None,
    project: bool | np.ndarray = False,
    stages: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
    alike: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> Solution:
    """Minimises from each of `starts` (lanes, P).

    Args:
      weights: (lanes, rows) row weights, or a function of lane indices giving them; None is ones.
      y: (lanes, rows) loss of each lane, or such a function; None is the problem's.
      project: lanes whose linear parameters are first solved for by least squares (bool or (lanes,) bool).
      stages: thresholds of the objective in turn; None is the objective's own.
      tolerance: relative decrease of the objective at which the last stage has converged.
      alike: all lanes have the same rows, so those that have met after a stage go on as one.
      progress: called with the number of lanes ended.
    """
    theta = np.asarray(starts, float)
    todo = np.broadcast_to(np.asarray(project), len(theta)).copy()
    stages = problem.objective.stages() if stages is None else stages
    steps = np.zeros(len(theta), int)
    own = np.arange(len(theta))  # the start whose path a lane shares
    for delta in stages:
        last = delta == stages[-1]
        level = (delta, tolerance if last else ROUGH, MOST_STEPS if last else MOST_ROUGH)
        going = np.unique(own)
        found = _Stage(problem, theta, going, weights, y, todo, level, progress if last else None).run()
        finite = np.isfinite(found.theta).all(axis=1, keepdims=True)
        theta, todo, steps = np.where(finite, found.theta, theta), np.zeros_like(todo), steps + found.steps
        if alike and not last:
            own = own[_met(found.value)[own]]
    if progress is not None and len(theta) > len(going):
        progress(len(theta) - len(going))
    return Solution(found.theta[own], found.value[own], found.code[own], steps[own])


def _met(value: np.ndarray) -> np.ndarray:
    """(lanes,) the lowest lane of those that each lane has met."""
    order = np.argsort(value, kind="stable")
    ranked = value[order]
    apart = ~(np.diff(ranked, prepend=np.nan) <= MET * np.abs(ranked))
    out = np.empty(len(value), int)
    out[order] = order[np.maximum.accumulate(np.where(apart, np.arange(len(value)), 0))]
    return out


class _Stage:
    """The starts `going` through one stage: one pool of lanes for each core, fed from one queue."""

    def __init__(
        self,
        problem: Problem,
        starts: np.ndarray,
        going: np.ndarray,
        weights: OfLanes,
        y: OfLanes,
        project: np.ndarray,
        level: tuple[float, float, int],
        progress: Callable[[int], Any] | None,
    ):
        count, size = starts.shape
        self.problem, self.starts, self.weights, self.y = problem, starts, weights, y
        self.project, self.level, self.progress = project, level, progress
        self.rows = len(problem.y)
        self.padded = bucket(self.rows)
        # The same number of lanes for few starts and for many: it is a shape, so another would be compiled again.
        self.lanes = min(LANES, max(1, POOL_BYTES // (8 * self.padded * 4 * (size + 6))))
        self.out = Solution(np.full((count, size), np.nan), np.full(count, np.nan), np.full(count, RUNNING),
                            np.zeros(count, int))  # fmt: skip
        self.count, self.queue, self.lock = len(going), iter(going), threading.Lock()

    def run(self) -> Solution:
        """Solves every start."""
        pools = max(1, min(cores.usable(), self.count // self.lanes))
        if pools == 1:
            self._work()
        else:
            with concurrent.futures.ThreadPoolExecutor(pools) as executor:
                for done in [executor.submit(self._work) for _ in range(pools)]:
                    done.result()
        return self.out

    def _work(self) -> None:
        """One pool: fills free lanes from the queue, advances all, stores those that ended, until no start is left."""
        problem = self.problem
        advance = newton.program(problem.law, problem.objective, problem.free)
        with jax.enable_x64():  # a setting of this thread only: training elsewhere keeps its float32
            common = self._common()
            owner_L = np.full(self.lanes, -1)  # which start each lane is solving
            held: tuple[newton.State, newton.Lane] | None = None
            while True:
                free = np.flatnonzero(owner_L < 0)
                with self.lock:
                    fresh = np.array([start for _, start in zip(free, self.queue)], int)
                if len(fresh):
                    taken = free[: len(fresh)]
                    owner_L[taken] = fresh
                    held = self._refill(held, taken, fresh)
                elif (owner_L < 0).all():
                    return
                assert held is not None
                state = advance(*held, common)
                held = (state, held[1])
                self._store(state, owner_L)

    def _common(self) -> newton.Common:
        low, high = self.problem.box
        return newton.Common(
            x={name: jnp.asarray(_pad(np.asarray(v, float), self.padded)) for name, v in self.problem.x.items()},
            fixed={name: jnp.asarray(float(v)) for name, v in self.problem.fixed.items()},
            low=jnp.asarray(low),
            high=jnp.asarray(high),
            delta=jnp.asarray(self.level[0]),
            tolerance=jnp.asarray(self.level[1]),
            most=jnp.asarray(self.level[2]),
        )

    def _refill(
        self, held: tuple[newton.State, newton.Lane] | None, taken: np.ndarray, fresh: np.ndarray
    ) -> tuple[newton.State, newton.Lane]:
        """The pool with the `fresh` starts in the lanes `taken`. Where a pool is new, its other lanes idle."""
        start_L = np.full(self.lanes, fresh[0])
        start_L[taken] = fresh
        taken_L = np.zeros(self.lanes, bool)
        taken_L[taken] = True
        weight_LR = self._of_lanes(self.weights, start_L, np.ones(self.rows), fill=0.0)
        y_LR = self._of_lanes(self.y, start_L, self.problem.y, fill=1.0)
        begin_LP = self.starts[start_L]
        if (cold_L := self.project[start_L] & taken_L).any():
            begin_LP[cold_L] = project_linear(
                self.problem, begin_LP[cold_L], weight_LR[cold_L, : self.rows], y_LR[cold_L, : self.rows]
            )
        new = jax.tree.map(jnp.asarray, (newton.fresh(begin_LP, taken_L), newton.Lane(weight_LR, y_LR)))
        return new if held is None else newton.merge(jnp.asarray(taken_L), new, held)

    def _of_lanes(self, source: OfLanes, start_L: np.ndarray, default: np.ndarray, fill: float) -> np.ndarray:
        """Weights or losses of these starts, padded with `fill`: (L, padded rows)."""
        chosen = default if source is None else source(start_L) if callable(source) else source[start_L]
        values = np.full((self.lanes, self.padded), fill)
        values[:, : self.rows] = chosen
        return values

    def _store(self, state: newton.State, owner_L: np.ndarray) -> None:
        """Keeps what has ended and frees its lanes."""
        code_L = np.asarray(state.code)
        ended = np.flatnonzero((owner_L >= 0) & (code_L != RUNNING))
        to, owner_L[ended] = owner_L[ended], -1
        self.out.theta[to], self.out.value[to] = np.asarray(state.theta)[ended], np.asarray(state.value)[ended]
        self.out.code[to], self.out.steps[to] = code_L[ended], np.asarray(state.steps)[ended]
        if self.progress is not None and len(ended):
            self.progress(len(ended))


def bucket(n: int, smallest: int = 32) -> int:
    """A size of at least n from a short list, so that few shapes are compiled."""
    size = smallest
    while size < n:
        size += max(smallest, 2 ** int(np.log2(size)) // 4)
    return size


def _pad(column: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([column, np.repeat(column[:1], size - len(column))])


def project_linear(problem: Problem, theta: np.ndarray, weights: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Starts (lanes, P) with the linear parameters solved for, given the others: least squares in their box.

    Residuals are relative where the objective is of log loss. `weights` and `y` are (lanes, rows).
    """
    low, high = problem.box
    linear = [i for i, name in enumerate(problem.free) if problem.law[name].linear]
    if not linear:
        return theta
    theta = np.clip(theta, low, high)
    theta[:, linear] = 0.0

    def predict(theta_LP: np.ndarray) -> np.ndarray:
        values = {name: theta_LP[:, i, None] for i, name in enumerate(problem.free)} | problem.fixed
        with np.errstate(all="ignore"):
            predicted = problem.law.predict(problem.law.expanded(values), problem.x)
        return np.nan_to_num(np.broadcast_to(predicted, weights.shape), nan=0.0, posinf=0.0, neginf=0.0)

    # The law is offset + coefficients @ basis: each basis row is what a linear parameter of 1 adds.
    offset_LR = predict(theta)
    unit = np.eye(len(problem.free))
    basis_LKR = np.stack([predict(theta + unit[i]) - offset_LR for i in linear], axis=1)
    weight_LR = weights / y**2 if problem.objective.in_log else weights
    gram_LKK = np.einsum("lkr,lr,lmr->lkm", basis_LKR, weight_LR, basis_LKR, optimize=True)
    right_LK = np.einsum("lkr,lr,lr->lk", basis_LKR, weight_LR, y - offset_LR, optimize=True)
    diagonal_LK = np.einsum("lkk->lk", gram_LKK) + 1e-300
    gram_LKK = gram_LKK + (1e-10 * diagonal_LK + 1e-30)[:, :, None] * np.eye(len(linear))
    theta[:, linear] = _box_least_squares(gram_LKK, right_LK, low[linear], high[linear])
    return theta


def _box_least_squares(gram_LKK: np.ndarray, right_LK: np.ndarray, low_K: np.ndarray, high_K: np.ndarray) -> np.ndarray:
    """Coefficients (L, K) in their box: the free solution, clipped, then coordinate descent on which bounds hold."""
    found_LK = np.clip(np.nan_to_num(np.linalg.solve(gram_LKK, right_LK[..., None])[..., 0]), low_K, high_K)
    for _ in range(SWEEPS):
        for k in range(len(low_K)):
            slack_L = right_LK[:, k] - np.einsum("lm,lm->l", gram_LKK[:, k], found_LK)
            found_LK[:, k] = np.clip(found_LK[:, k] + slack_L / gram_LKK[:, k, k], low_K[k], high_K[k])
    return found_LK
