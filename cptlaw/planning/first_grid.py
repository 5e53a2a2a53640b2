"""Before any run: the cheapest grid of runs that would give a prediction to a wanted precision.

By the law's Fisher information at assumed parameters: checkpoints of one run share its noise, so a run adds J' R^-1 J
with R = run^2 + checkpoint^2 I, and runs add up.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw.planning import linear
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.numbers import check_level, check_positive, check_share
from cptlaw.words import count, percent

if TYPE_CHECKING:  # planning needs no JAX
    from cptlaw.laws import Law

SHARE_COUNTS = (5, 7, 9)  # three would meet the three ratio parameters exactly and leave nothing to check the law with
CHECKPOINTS = (0.1, 0.2, 0.5, 1.0)  # of a run's tokens: where its losses would be read
VAGUE = 10.0  # prior standard deviation of a parameter, in its own size: only keeps the algebra finite
NEAR = 5.0  # grids listed beside the chosen one are at worst this many times less precise than wanted
MOST_SIZES = 8  # every subset of the sizes is tried


def first_grid(
    law: "Law",
    theta: Mapping[str, float],
    *,
    at: Mapping[str, float],
    precision: float,
    sizes: Sequence[float],
    tokens: Sequence[float],
    run_noise: float = 0.003,
    checkpoint_noise: float = 0.001,
    shares: tuple[float, float] = (0.0, 1.0),
    seeds: int = 3,
    level: float = 0.9,
) -> Decision:
    """The cheapest grid (sizes x evenly spaced shares x tokens x seeds) that predicts the loss at `at` well enough.

    Args:
      law: of params, tokens and the corpus's share.
      theta: its assumed parameters, from a paper or another corpus.
      at: params, tokens and ratio of the wanted prediction.
      precision: half the width of its interval, nats.
      sizes, tokens: model sizes and run lengths that could be trained; a grid takes some sizes and one length.
      run_noise, checkpoint_noise: standard deviations, nats: of a run's seed, and of each of its checkpoints.
      shares: range of the shares.
      seeds: most repeats of every run.
      level: of the interval.

    Raises:
      DecisionError: no grid of these is precise enough; says how near they come, and at what cost.
    """
    sizes, tokens, ends = _check(law, theta, at, precision, sizes, tokens, shares, seeds)
    check_positive("run_noise", run_noise, "nats")
    check_positive("checkpoint_noise", checkpoint_noise, "nats")
    half = NormalDist().inv_cdf((1 + check_level(level)) / 2)
    noise = run_noise**2 + np.eye(len(CHECKPOINTS)) * checkpoint_noise**2
    grids = _grids(law, theta, at, sizes, tokens, ends, seeds, noise, half)
    front = [grid for i, grid in enumerate(grids) if all(grid["+/-"] < other["+/-"] for other in grids[:i])]
    enough = [grid for grid in front if grid["+/-"] <= precision]
    if not enough:
        raise DecisionError(
            f"no grid of these sizes and tokens predicts to within {precision:g} nats: the best reaches "
            f"{front[-1]['+/-']:.2g} for {front[-1]['cost']:.3g} FLOPs. Allow larger sizes, more tokens or more seeds"
        )
    best = enough[0]
    where = ", ".join(f"{name} {percent(v) if name == 'ratio' else count(v)}" for name, v in at.items())
    return Decision(
        kind="design",
        question=f"What is the cheapest grid that predicts the loss at {where} to within {precision:g} nats?",
        answer=f"{best['runs']} runs for {best['cost']:.3g} FLOPs: sizes {best['sizes']}, {best['shares']} shares from "
        f"{percent(ends[0])} to {percent(ends[1])}, {count(best['tokens'])} tokens, {best['seeds']} seed(s); "
        f"expected to within {best['+/-']:.2g} nats ({level:.0%}).",
        inputs={**at, "law": law.name, "theta": dict(theta), "precision": precision, "run_noise": run_noise,
                "checkpoint_noise": checkpoint_noise},
        point={key: float(best[key]) for key in ("runs", "cost", "shares", "tokens", "seeds", "+/-")},
        level=level,
        rows=tuple(grid for grid in front if grid["+/-"] <= NEAR * precision),
        warnings=("it takes the law and its assumed parameters as true: fit, check, and plan the grid again",),
    )  # fmt: skip


def _grids(
    law: "Law", theta: Mapping[str, float], at: Mapping[str, float], sizes: Sequence[float], tokens: Sequence[float],
    ends: tuple[float, float], seeds: int, noise: np.ndarray, half: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every grid with its cost and precision, the cheapest first.

    Args:
      noise: covariance of one run's checkpoints, nats^2.
      half: half the interval's width in standard deviations.
    """
    target = linear.jacobian(law, theta, {name: np.array([value]) for name, value in at.items()})[0]  # (P,)
    prior = np.diag(1 / (VAGUE * np.maximum(np.abs([theta[name] for name in law.names]), 0.1)) ** 2)

    def information(size: float, most: float, share: float) -> np.ndarray:
        """(P, P), of one run."""
        x = {"params": np.full(len(CHECKPOINTS), size), "tokens": most * np.array(CHECKPOINTS)}
        slope = linear.jacobian(law, theta, x | {"ratio": np.full(len(CHECKPOINTS), share)})
        return slope.T @ np.linalg.solve(noise, slope)

    grids: list[dict[str, Any]] = []
    for most, shares in itertools.product(tokens, SHARE_COUNTS):
        of_size = {n: sum(information(n, most, share) for share in np.linspace(*ends, shares)) for n in sizes}
        for kept in _subsets(sizes):
            once = sum(of_size[n] for n in kept)
            for repeats in range(1, seeds + 1):
                variance = target @ np.linalg.solve(prior + repeats * once, target)
                grids.append({
                    "sizes": " ".join(count(n) for n in kept), "shares": shares, "tokens": most, "seeds": repeats,
                    "runs": len(kept) * shares * repeats, "cost": float(6 * most * sum(kept) * shares * repeats),
                    "+/-": half * math.sqrt(variance),
                })  # fmt: skip
    return sorted(grids, key=lambda grid: (grid["cost"], grid["+/-"]))


def _subsets(sizes: Sequence[float]) -> list[tuple[float, ...]]:
    """Every choice of at least one size."""
    return [kept for n in range(1, len(sizes) + 1) for kept in itertools.combinations(sizes, n)]


def _check(
    law: "Law", theta: Mapping[str, float], at: Mapping[str, float], precision: float, sizes: Sequence[float],
    tokens: Sequence[float], shares: tuple[float, float], seeds: int,
) -> tuple[list[float], list[float], tuple[float, float]]:  # fmt: skip
    """(sizes, tokens, range of the shares), sorted; refuses what cannot be planned with."""
    if unknown := set(law.columns) - {"params", "tokens", "ratio"}:
        raise DecisionError(
            f"a design is made for laws of params, tokens and ratio; {law.name} reads {', '.join(unknown)}"
        )
    if missing := [name for name in law.names if name not in theta]:
        raise DecisionError(f"assume a value for {', '.join(missing)} too: parameters of the law {law.name}")
    if missing := [name for name in law.columns if name not in at]:
        raise DecisionError(f"say at which {', '.join(missing)} the loss is to be predicted")
    check_positive("precision", precision, "nats")
    if not sizes or not tokens or len(sizes) > MOST_SIZES:
        raise DecisionError(f"give the sizes (at most {MOST_SIZES}) and the run lengths that could be trained")
    if seeds < 1:
        raise DecisionError(f"seeds {seeds}: at least 1")
    if "ratio" in at:
        check_share("ratio", at["ratio"])
    for name, unit in (("params", "parameters"), ("tokens", "tokens")):
        if name in at:
            check_positive(name, at[name], unit)
    low, high = (check_share("shares", share) for share in shares)
    if not low < high:
        raise DecisionError(f"shares: from {low:g} to {high:g} is no range")
    return (
        sorted(check_positive("sizes", n, "parameters") for n in set(sizes)),
        sorted(check_positive("tokens", n, "tokens") for n in set(tokens)),
        (low, high),
    )
