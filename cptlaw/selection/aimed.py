"""Subsets with a wanted mean and standard deviation of x.

Selection by the distance to an optimum (DOS; Liu et al. 2026, arXiv 2512.21515) minimises

    J(S) = (mean(S) - mu)^2 / s^2 + (var(S) - sigma^2)^2 / s^4,    s the pool's standard deviation.

Two moments leave the shape of the subset open, and the three methods differ in it: see `choose`.

Letters of array names: u unit, s stratum, k feature (0: z, 1: z^2, with z = x in the pool's own mean and deviation).
"""

import dataclasses

import numpy as np
from scipy import special

from cptlaw.selection import landscape
from cptlaw.selection.pool import Pool, Strata, SubsetError, uniform

CLOSE = 1e-4  # of the pool's standard deviation: how near the moments are brought
FAR = 0.05  # of the same: a subset that misses its target by more is refused
RUNS, STEPS = 4096, 20_000  # of the greedy, which takes more than one unit at a time only beyond them
PROPOSALS = 1 << 18  # units of a stratum that are offered for exchange at once


@dataclasses.dataclass(frozen=True)
class Features:
    """The two features of every unit, and their wanted means.

    Attributes:
      z_uk: means over a unit's chunks of z and of z^2, z = (x - the pool's mean) / the pool's deviation.
      target_k: the wanted means of the same over a subset.
    """

    z_uk: np.ndarray
    target_k: np.ndarray

    @classmethod
    def of(cls, pool: Pool, target: tuple[float, float], moments: tuple[float, float] | None = None) -> "Features":
        """The features of a pool whose subset is to have the (mean, std) `target` of x.

        `moments` are those of the whole of which the pool is a part; the pool's own by default.
        """
        centre, width = moments or pool.moments()
        z = (pool.first - centre) / width
        z2 = (pool.second - 2 * centre * pool.first + centre**2) / width**2
        mean = (target[0] - centre) / width
        return cls(np.stack([z, z2], -1), np.array([mean, (target[1] / width) ** 2 + mean**2]))

    def sums(self, count_u: np.ndarray, which: np.ndarray) -> np.ndarray:
        """(3,): chunks, and sums over them of both features, of the units `which`."""
        return np.array([count_u[which].sum(), *(count_u[which] @ self.z_uk[which])])

    def miss(self, sums: np.ndarray) -> np.ndarray:
        """(..., 2): mean and variance less the target's, in units of the pool's, of subsets with `sums` (..., 3)."""
        mean, second = sums[..., 1] / sums[..., 0], sums[..., 2] / sums[..., 0]
        variance = second - mean**2
        return np.stack([mean - self.target_k[0], variance - (self.target_k[1] - self.target_k[0] ** 2)], -1)


def choose(
    pool: Pool, method: str, strata: Strata, target: tuple[float, float], fraction: float, seed: int
) -> np.ndarray:
    """Mask (units,) of a subset with the target's moments, by tilt, swaps or dos_greedy.

    Raises:
      SubsetError: no subset comes near the target; shows the nearest one that can be had.
    """
    region = pool.region(fraction)
    if not (target[1] > 0 and region.holds(*target)):
        raise out_of_reach(pool, target, fraction, region.nearest(*target))
    features = Features.of(pool, target)
    if method == "dos_greedy":
        return _greedy(pool.count, features, strata)
    if method == "tilt":
        mask = _tilt(pool.count, features, strata, fraction, seed)
    else:
        mask = strata.top(uniform(seed, len(pool.count)))
    mask = _swap(mask, pool.count, features, strata, seed)
    if np.abs(features.miss(features.sums(pool.count, mask))).max() > FAR:
        # Far more than the last unit: with these strata, or so few units, there is no such subset.
        raise out_of_reach(pool, target, fraction, pool.moments(mask))
    return mask


def out_of_reach(pool: Pool, target: tuple[float, float], fraction: float, nearest: tuple[float, float]) -> SubsetError:
    """The error for a target that no subset of this share comes near."""
    mean, std = pool.moments()
    return SubsetError(
        f"target mean {target[0]:.4g}, std {target[1]:.4g} ({pool.unit}): no subset of {fraction:.1%} of this pool "
        f"(mean {mean:.4g}, std {std:.4g}) has these; the nearest that has: mean {nearest[0]:.4g}, std "
        f"{nearest[1]:.4g}. Aim there, or take a smaller share"
    )


def _tilt(count_u: np.ndarray, features: Features, strata: Strata, fraction: float, seed: int) -> np.ndarray:
    """Mask of the units with the largest tilt . z + Gumbel noise, the tilt such that they have the target's moments.

    The first tilt gives the moments in expectation (`expected_tilt`). Then it is corrected by the realised ones, while
    the noise stays the same.
    """
    tilt_k, jacobian_kk = expected_tilt(count_u, features, strata, fraction)
    noise_u = -np.log(-np.log(uniform(seed, len(count_u))))
    best, mask = np.inf, np.zeros(0, bool)
    for _ in range(10):
        tried = strata.top(features.z_uk @ tilt_k + noise_u)
        sums = features.sums(count_u, tried)
        miss = np.abs(features.miss(sums)).max()
        if miss < best:
            best, mask = miss, tried
        if best < CLOSE:
            break
        tilt_k = tilt_k + np.linalg.solve(jacobian_kk, features.target_k - sums[1:] / sums[0])
    return mask


@dataclasses.dataclass(frozen=True)
class _Expected:
    """Which tilt gives the target's moments in expectation, as the minimum of a convex function.

    A unit of stratum s is kept if its Gumbel noise exceeds -eta, with eta = level_s + tilt . z. So it is kept with
    probability p = 1 - exp(-exp(eta)). Two conditions must hold, with z less the target's means:

        sum over the units of a stratum of  count p    =  the stratum's quota        (one equation for each level)
        sum over all units of               count p z  =  0                          (one equation for each feature)

    They are the gradient of  sum count A(eta) - sum quota level,  where A' = p, which is convex: Newton's method finds
    its one minimum.

    Attributes:
      z_uk: the features less the target's means.
      code_u: the stratum of each unit.
      count_u: chunks of each unit; of a sample, so scaled that their sum is that of all units.
      quota_s: chunks that are wanted of each stratum.
    """

    z_uk: np.ndarray
    code_u: np.ndarray
    count_u: np.ndarray
    quota_s: np.ndarray

    @classmethod
    def of(cls, count_u: np.ndarray, features: Features, strata: Strata) -> "_Expected":
        """Of all units, or of a systematic sample of a large pool."""
        z_uk, code_u, weight_u = features.z_uk, strata.code_u, count_u
        if count_u.size > landscape.SAMPLE:
            keep = np.argsort(z_uk[:, 0], kind="stable")[:: count_u.size // landscape.SAMPLE]
            scale = float(count_u.sum()) / float(count_u[keep].sum())
            z_uk, code_u, weight_u = z_uk[keep], code_u[keep], count_u[keep] * scale
        return cls(z_uk - features.target_k, code_u, weight_u, strata.quota_s)

    def eta(self, level_s: np.ndarray, tilt_k: np.ndarray) -> np.ndarray:
        return level_s[self.code_u] + self.z_uk @ tilt_k

    def value(self, level_s: np.ndarray, tilt_k: np.ndarray) -> float:
        """The convex function, with A(eta) = eta + Euler's constant + E1(exp(eta))."""
        eta_u = self.eta(level_s, tilt_k)
        antiderivative_u = eta_u + np.euler_gamma + special.exp1(np.exp(np.minimum(eta_u, 50)))
        return float(self.count_u @ antiderivative_u) - self.quota_s @ level_s

    def newton(self, level_s: np.ndarray, tilt_k: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """(largest entry of the gradient, Newton step of the levels (s,), of the tilt (k,), Schur complement (k, k)).

        The Hessian is [[diag(d_s), b_sk], [b_sk', c_kk]]. Its large block is diagonal, so that the levels are
        eliminated first: what remains is their Schur complement, a system of two equations.
        """
        strata, total = len(self.quota_s), self.quota_s.sum()
        rate_u = np.exp(np.minimum(self.eta(level_s, tilt_k), 50))
        kept_u = -np.expm1(-rate_u) * self.count_u  # count p
        slope_u = rate_u * np.exp(-rate_u) * self.count_u  # count dp/deta
        gradient_s = np.bincount(self.code_u, kept_u, strata) - self.quota_s
        gradient_k = kept_u @ self.z_uk
        d_s = np.bincount(self.code_u, slope_u, strata) + 1e-12 * total
        b_sk = np.stack([np.bincount(self.code_u, slope_u * self.z_uk[:, k], strata) for k in (0, 1)], -1)
        c_kk = (self.z_uk * slope_u[:, None]).T @ self.z_uk
        schur_kk = c_kk - (b_sk / d_s[:, None]).T @ b_sk
        ridge = 1e-12 * total * np.eye(2)
        step_k = -np.linalg.solve(schur_kk + ridge, gradient_k - b_sk.T @ (gradient_s / d_s))
        step_s = -(gradient_s + b_sk @ step_k) / d_s
        return max(np.abs(gradient_s).max(), np.abs(gradient_k).max()), step_s, step_k, schur_kk


def expected_tilt(
    count_u: np.ndarray, features: Features, strata: Strata, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """The tilt (k,) whose subset has the target's moments in expectation, and the Jacobian (k, k) of these by it."""
    problem = _Expected.of(count_u, features, strata)
    total = strata.quota_s.sum()
    # Without a tilt every unit is kept with probability `fraction`.
    level_s, tilt_k = np.full(len(strata.quota_s), np.log(-np.log1p(-fraction))), np.zeros(2)
    value = problem.value(level_s, tilt_k)
    for _ in range(100):
        slope, step_s, step_k, schur_kk = problem.newton(level_s, tilt_k)
        if slope < 1e-7 * total:
            break
        for halving in range(30):
            size = 0.5**halving
            tried = level_s + size * step_s, tilt_k + size * step_k
            if (then := problem.value(*tried)) < value:
                break
        else:
            break  # no step lowers it: it is as low as rounding lets it be
        (level_s, tilt_k), value = tried, then
    return tilt_k, schur_kk / total


def _swap(mask: np.ndarray, count_u: np.ndarray, features: Features, strata: Strata, seed: int) -> np.ndarray:
    """Exchanges chosen units for others of their stratum, in random pairs, while that lowers J and keeps the size.

    In each round every pair is judged alone. Of those that help, the first so many are exchanged that lower the cost
    most together; if none do, the one that helps most.
    """
    mask = mask.copy()
    sums = features.sums(count_u, mask)
    size, idle = sums[0], 0

    def cost(sums: np.ndarray) -> np.ndarray:
        """(...,) of sums (..., 3): J, and how far the size is off."""
        return (features.miss(sums) ** 2).sum(axis=-1) + (sums[..., 0] / size - 1) ** 2

    def of_units(units: np.ndarray) -> np.ndarray:
        """(n, 3): what each unit adds to the sums."""
        return count_u[units, None] * np.column_stack([np.ones(units.size), features.z_uk[units]])

    for round_ in range(200):
        if np.abs(features.miss(sums)).max() < CLOSE or idle == 3:
            break
        out, new = _pairs(mask, strata, (seed, round_))
        change = of_units(new) - of_units(out)
        alone = cost(sums + change)
        helps = np.flatnonzero(alone < cost(sums))
        if not helps.size:
            idle += 1
            continue
        together = cost(sums + change[helps].cumsum(axis=0))
        best = int(np.argmin(together))
        took = helps[: best + 1] if together[best] <= alone[helps].min() else [helps[np.argmin(alone[helps])]]
        mask[out[took]], mask[new[took]] = False, True
        sums, idle = sums + change[took].sum(axis=0), 0
    return mask


def _pairs(mask: np.ndarray, strata: Strata, seed: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(chosen, other): units (n,) each, in random disjoint pairs of one stratum, at most PROPOSALS of each stratum."""
    out, new = [], []
    for number, members in enumerate(strata.members):
        noise = uniform((*seed, number), min(members.size, PROPOSALS))
        # A large stratum is sampled (with the few repeats dropped), a small one shuffled.
        large = members.size > PROPOSALS
        drawn = members[np.unique((noise * members.size).astype(np.int64))] if large else members
        shuffled = drawn[np.argsort(noise[: drawn.size], kind="stable")]
        inside, outside = shuffled[mask[shuffled]], shuffled[~mask[shuffled]]
        n = min(inside.size, outside.size)
        out.append(inside[:n])
        new.append(outside[:n])
    return np.concatenate(out), np.concatenate(new)


def _greedy(count_u: np.ndarray, features: Features, strata: Strata) -> np.ndarray:
    """Adds, step by step, the unit after which J is smallest.

    Units are sorted by stratum and x into at most RUNS runs, whose units count as equal; a pool that would need more
    than STEPS steps takes several units in a step.
    """
    order = np.lexsort((features.z_uk[:, 0], strata.code_u))
    runs = np.array_split(order, min(RUNS, order.size))
    mean = np.array([features.sums(count_u, run) / run.size for run in runs])  # (runs, 3): what a unit of it adds
    stratum = np.array([strata.code_u[run[0]] for run in runs])
    left, room_s = np.array([run.size for run in runs]), strata.quota_s.copy()
    block = max(1, int(count_u.size * strata.quota_s.sum() / count_u.sum() / STEPS))
    sums = np.zeros(3)
    while (open_ := (left > 0) & (room_s[stratum] >= mean[:, 0] / 2)).any():
        j = (features.miss(sums + mean) ** 2).sum(axis=1)
        best = int(np.argmin(np.where(open_, j, np.inf)))
        fits = int(room_s[stratum[best]] / mean[best, 0] + 0.5)
        took = max(1, min(block, left[best], fits))
        left[best] -= took
        sums += took * mean[best]
        room_s[stratum[best]] -= took * mean[best, 0]
    mask = np.zeros(count_u.size, bool)
    for run, rest in zip(runs, left):
        mask[run[: run.size - rest]] = True
    return mask
