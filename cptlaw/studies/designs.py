"""Which mixes of any number of corpora to train: designs on the simplex of their shares, within floors and caps.

Shares are whole hundredths, and distances are those of whole numbers: a design is the same on every machine. Letters of
shapes: K corpora, M mixes, P terms of a polynomial.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from cptlaw.fields import ConfigError, OneOf, Seed, at_least, between, unknown
from cptlaw.planning.decision import DecisionError
from cptlaw.planning.mixture import limits

SHARE = between(0, 1, what="a share lies", example="0.25 for a quarter")
Share = Annotated[float, SHARE]
KINDS = ("space_filling", "d_optimal")
UNITS = 100  # a share is a whole number of these parts: a sliver of a corpus tells little more than none of it
POOL = 4096  # mixes that a design is chosen from, besides the corners of what the limits allow
CORNERS = 512  # of those, at most
BLENDED = 8  # corners in a blend, at most
SECOND_ORDER, FLAT = 1.0, 1e-4  # prior variance of a product's coefficient; prior precision of a share's
APART = 10  # units that change hands between two mixes of a D-optimal design, at least: others are repeats in disguise
PASSES = 2  # times that a D-optimal design is gone through for an exchange that betters it


@dataclasses.dataclass(frozen=True)
class Simplex:
    """Mixes of the general corpus and all domains, chosen by a rule.

    Attributes:
      count: how many.
      design: "space_filling": each next mix is as far as can be from those before it (the first is in the middle), so
        a smaller count is the beginning of a larger one. "d_optimal": they tell most of a loss that is a quadratic
        polynomial of the shares (Scheffe 1958), whose products are taken to matter less (DuMouchel & Jones 1994,
        "A simple Bayesian modification of D-optimal designs"), so that any count will do.
      floors, caps: corpus -> its smallest and its largest share, 0 and 1 by default.
      seed: of the mixes that are chosen from.
    """

    count: Annotated[int, at_least(1)]
    design: Annotated[str, OneOf(KINDS)] = "space_filling"
    floors: dict[str, Share] = dataclasses.field(default_factory=dict)
    caps: dict[str, Share] = dataclasses.field(default_factory=dict)
    seed: Seed = 0

    def mixes(self, corpora: Sequence[str]) -> list[dict[str, float]]:
        """The chosen mixes, corpus -> share of each, in the order in which they were chosen.

        Raises:
          ConfigError: a floor or cap of no such corpus, limits that leave no mix, or fewer mixes than are wanted.
        """
        for field in ("floors", "caps"):
            for name in getattr(self, field):
                if name not in corpora:
                    raise unknown(f"simplex.{field}", name, corpora, "corpus")
        try:
            low, high = limits(corpora, self.floors, self.caps)
        except DecisionError as error:
            raise ConfigError("simplex", str(error)) from error
        found = _design(
            self.count, self.design, tuple(np.ceil(low * UNITS - 1e-6)), tuple(np.floor(high * UNITS + 1e-6)), self.seed
        )
        return [dict(zip(corpora, (mix / UNITS).tolist())) for mix in found]


def rounded(mix: dict[str, float]) -> dict[str, float]:
    """A mix in whole thousandths, as a person would type it."""
    parts = 1000
    units = _in_units(parts * np.array([list(mix.values())]), parts)[0]
    return dict(zip(mix, (units / parts).tolist()))


@functools.lru_cache(maxsize=64)
def _design(count: int, kind: str, low: tuple[float, ...], high: tuple[float, ...], seed: int) -> np.ndarray:
    """(count, K) mixes in units."""
    low_K, high_K = np.array(low, int), np.array(high, int)
    if low_K.sum() > UNITS or high_K.sum() < UNITS or (low_K > high_K).any():
        raise ConfigError("simplex", f"no mix of whole {UNITS}ths of shares is within the floors and caps")
    pool_MK = _pool(low_K, high_K, np.random.default_rng(seed))
    if len(pool_MK) < count:
        raise ConfigError(
            "simplex.count", f"the floors and caps leave {len(pool_MK)} different mixes, not {count}; loosen them"
        )
    chosen = _farthest(pool_MK, count) if kind == "space_filling" else _most_telling(pool_MK, count)
    return pool_MK[chosen]


def _pool(low_K: np.ndarray, high_K: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(M, K) different mixes in units: the middle, corners of what the limits allow, and blends of corners."""
    corners = np.unique(
        [_corner(low_K, high_K, order) for order in rng.random((CORNERS, len(low_K))).argsort()], axis=0
    )
    most = min(BLENDED, len(corners))
    several = rng.random((POOL, len(corners))).argsort(axis=1)[:, :most]
    # Exponential weights, normalised, are uniform over the blends of their corners.
    weights = -np.log1p(-rng.random((POOL, most))) * (np.arange(most) <= rng.integers(most, size=POOL)[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    blends = np.einsum("mb,mbk->mk", weights, corners[several])
    found = np.concatenate([corners.mean(axis=0)[None], corners, blends])
    return _unique(_in_units(found))


def _corner(low_K: np.ndarray, high_K: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The mix that gives each corpus in turn as much as may be."""
    mix, left = low_K.copy(), UNITS - low_K.sum()
    for k in order:
        more = min(left, high_K[k] - mix[k])
        mix[k], left = mix[k] + more, left - more
    return mix


def _in_units(mixes_MK: np.ndarray, total: int = UNITS) -> np.ndarray:
    """Rounded to whole units that sum to `total`, by the largest remainders, which crosses no whole limit."""
    whole = np.floor(mixes_MK + 1e-9).astype(int)
    rank = (whole - mixes_MK).round(9).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    return whole + (rank < (total - whole.sum(axis=1))[:, None])


def _unique(mixes_MK: np.ndarray) -> np.ndarray:
    """Each mix once, in the order of the first."""
    _, first = np.unique(mixes_MK, axis=0, return_index=True)
    return mixes_MK[np.sort(first)]


def _farthest(pool_MK: np.ndarray, count: int) -> list[int]:
    """Indices of the first mix, then always of the one whose nearest chosen mix is farthest (maximin, greedily)."""
    chosen = [0]
    nearest_M = ((pool_MK - pool_MK[0]) ** 2).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(nearest_M.argmax()))
        nearest_M = np.minimum(nearest_M, ((pool_MK - pool_MK[chosen[-1]]) ** 2).sum(axis=1))
    return chosen


def _most_telling(pool_MK: np.ndarray, count: int) -> list[int]:
    """Indices of different mixes with the largest determinant of information: greedily, then by exchanges.

    A mix x multiplies the determinant by 1 + x' V x, V being the inverse of the information of the prior and of the
    other mixes.
    """
    terms_MP = _terms(pool_MK / UNITS)
    inverse_PP = np.diag(np.where(np.arange(terms_MP.shape[1]) < pool_MK.shape[1], 1 / FLAT, SECOND_ORDER))
    worth_M = np.einsum("mp,pq,mq->m", terms_MP, inverse_PP, terms_MP, optimize=True)
    near_M = np.zeros(len(pool_MK), int)  # chosen mixes that are no other mix than this one

    def move(which: int, sign: int) -> None:
        """One mix more or, at sign -1, less: Sherman and Morrison's update of V and of x' V x."""
        nonlocal inverse_PP, worth_M, near_M
        step_P = inverse_PP @ terms_MP[which]
        scale = sign / (1 + sign * worth_M[which])
        inverse_PP = inverse_PP - scale * np.outer(step_P, step_P)
        worth_M = worth_M - scale * (terms_MP @ step_P) ** 2
        near_M = near_M + sign * (np.abs(pool_MK - pool_MK[which]).sum(axis=1) < 2 * APART)

    def best() -> int:
        return int(np.where(near_M > 0, -1.0, worth_M.round(6)).argmax())

    chosen: list[int] = []
    while len(chosen) < count:
        if near_M.all():
            raise ConfigError(
                "simplex.count",
                f"the floors and caps leave {len(chosen)} mixes that differ by {APART / UNITS:.0%} of the text, not "
                f"{count}; loosen them",
            )
        chosen.append(best())
        move(chosen[-1], 1)
    for _ in range(PASSES):
        before = list(chosen)
        for i, old in enumerate(before):
            move(old, -1)
            new = best()
            chosen[i] = new if worth_M[new] > worth_M[old] * (1 + 1e-6) else old
            move(chosen[i], 1)
        if chosen == before:
            break
    return chosen


def _terms(mixes_MK: np.ndarray) -> np.ndarray:
    """(M, P) shares and products of two, the latter between 0 and 1: Scheffe's quadratic polynomial."""
    first, second = np.triu_indices(mixes_MK.shape[1], 1)
    return np.concatenate([mixes_MK, 4 * mixes_MK[:, first] * mixes_MK[:, second]], axis=1)
