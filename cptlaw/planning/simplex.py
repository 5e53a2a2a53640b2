"""Search over mixes, in JAX: the shares with the smallest weighted sum, or smallest worst, of several laws' losses.

Letters of shapes: M draws, R starts of each, L lanes (a lane is one start of one draw), K corpora, T targets.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw import cores

if TYPE_CHECKING:
    from cptlaw.laws import Law

STEPS = 300
LANES = 256  # descended together: one compiled program for any number of draws
PENALTY = 20.0  # nats charged for each nat over a ceiling: more than any trade of one loss for another
Theta = dict[str, Any]  # a law's parameters: name -> (L,) or (M,)


@dataclasses.dataclass(frozen=True)
class Targets:
    """What a search is compiled for.

    Attributes:
      laws, names: the target corpora's laws and names, T of each.
      corpora: the training corpora, K.
      run: (column, value) of the planned run's params and tokens, as far as they are given.
      worst: minimise the largest weighted loss instead of the sum.
    """

    laws: tuple["Law", ...]
    names: tuple[str, ...]
    corpora: tuple[str, ...]
    run: tuple[tuple[str, float], ...]
    worst: bool


@dataclasses.dataclass(frozen=True)
class Search:
    """The numbers of a search: `weights` and `ceilings` (T,), nats; smallest and largest shares `low`, `high` (K,)."""

    targets: Targets
    weights: np.ndarray
    ceilings: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def judge(self, theta: Sequence[Theta], mix_MK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(objective, nats over the ceilings), each (M,), of one mix a draw."""
        return _parts(np, self.targets, theta, mix_MK, self.weights[None], self.ceilings[None])

    def best(self, theta: Sequence[Theta], starts_MRK: np.ndarray) -> np.ndarray:
        """Each draw's best mix (M, K), of descents from its starts."""
        draws, restarts, corpora = starts_MRK.shape
        lanes = [{name: np.repeat(value, restarts) for name, value in own.items()} for own in theta]
        mix_LK, value_L = self._descend_all(lanes, starts_MRK.reshape(draws * restarts, corpora))
        pick = np.argmin(value_L.reshape(draws, restarts), axis=1)
        return mix_LK.reshape(draws, restarts, corpora)[np.arange(draws), pick]

    def _descend_all(self, theta: Sequence[Theta], starts_LK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shares (L, K), penalised value (L,)) of any number of lanes, `LANES` at a time, on every core."""
        count = len(starts_LK)
        chunks = np.resize(np.arange(count), -(-count // LANES) * LANES).reshape(-1, LANES)
        numbers = self.weights[None], self.ceilings[None], self.low[None], self.high[None]

        def run(lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with jax.enable_x64(True):  # a setting of this thread only
                own = [{name: value[lanes] for name, value in one.items()} for one in theta]
                mix, value = _descend(self.targets, own, starts_LK[lanes], *numbers)
                return np.asarray(mix), np.asarray(value)

        with concurrent.futures.ThreadPoolExecutor(min(len(chunks), cores.usable())) as pool:
            mixes, values = zip(*pool.map(run, chunks))
        return np.concatenate(mixes)[:count], np.concatenate(values)[:count]


def _parts(xp: Any, targets: Targets, theta: Sequence[Theta], mix_LK: Any, weights_1T: Any, ceilings_1T: Any) -> Any:
    """(objective, nats over the ceilings), each (L,)."""
    shares = {f"w_{name}": mix_LK[:, k] for k, name in enumerate(targets.corpora)}
    losses = []
    for law, name, own in zip(targets.laws, targets.names, theta):
        given = {**dict(targets.run), **shares, "ratio": shares.get(f"w_{name}")}
        losses.append(law.predict(own, {c: given[c] for c in law.columns}) + 0 * mix_LK[:, 0])
    losses_LT = xp.stack(losses, axis=-1)
    weighted_LT = losses_LT * weights_1T
    objective_L = weighted_LT.max(axis=-1) if targets.worst else weighted_LT.sum(axis=-1)
    return objective_L, xp.maximum(losses_LT - ceilings_1T, 0.0).sum(axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def _descend(
    targets: Targets, theta: Any, starts_LK: Any, weights_1T: Any, ceilings_1T: Any, low_1K: Any, high_1K: Any
) -> Any:
    """Mirror descent, w <- w exp(-step gradient), projected onto the limits; (shares, penalised value), the best seen.

    The gradient is scaled to a largest element of 1 and the step falls from 1 to 1e-5, so that the kinks of a worst
    case or a ceiling are met as closely as smooth optima.
    """

    def value(mix_LK: Any) -> Any:
        objective_L, over_L = _parts(jnp, targets, theta, mix_LK, weights_1T, ceilings_1T)
        each_L = objective_L + PENALTY * over_L
        return each_L.sum(), each_L

    slope = jax.value_and_grad(value, has_aux=True)

    def step(i: Any, state: Any) -> Any:
        mix_LK, best_LK, least_L = state
        (_, found_L), gradient_LK = slope(mix_LK)
        better_L = found_L < least_L
        best_LK, least_L = jnp.where(better_L[:, None], mix_LK, best_LK), jnp.where(better_L, found_L, least_L)
        gradient_LK = gradient_LK - gradient_LK.mean(axis=-1, keepdims=True)
        largest_L1 = jnp.abs(gradient_LK).max(axis=-1, keepdims=True) + 1e-12
        size = 10.0 ** (-5.0 * i.astype(mix_LK.dtype) / STEPS)
        return _project(mix_LK * jnp.exp(-size * gradient_LK / largest_L1), low_1K, high_1K), best_LK, least_L

    mix_LK = _project(starts_LK, low_1K, high_1K)
    return jax.lax.fori_loop(0, STEPS, step, (mix_LK, mix_LK, jnp.full(len(starts_LK), jnp.inf)))[1:]


def _project(mix_LK: Any, low_1K: Any, high_1K: Any) -> Any:
    """The nearest mix by relative entropy: clip(c w, low, high) with c such that shares sum to 1, by bisection."""
    mix_LK = jnp.maximum(mix_LK / mix_LK.sum(axis=-1, keepdims=True), 1e-12)

    def halve(_: Any, ends: Any) -> Any:
        small_L1, large_L1 = ends
        middle_L1 = jnp.sqrt(small_L1 * large_L1)
        over_L1 = jnp.clip(mix_LK * middle_L1, low_1K, high_1K).sum(axis=-1, keepdims=True) > 1
        return jnp.where(over_L1, small_L1, middle_L1), jnp.where(over_L1, middle_L1, large_L1)

    ends_L1 = jnp.full((*mix_LK.shape[:-1], 1), 1e6)
    small_L1, large_L1 = jax.lax.fori_loop(0, 32, halve, (1 / ends_L1, ends_L1))
    return jnp.clip(mix_LK * jnp.sqrt(small_L1 * large_L1), low_1K, high_1K)
