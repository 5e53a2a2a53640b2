"""The perplexity law's optimum: which mean and spread of perplexity a subset of the domain text should have.

The best subset maximises g(mu, sigma) = (a0 + a1 sigma) ln mu + (b0 + b1 mu) ln sigma, whatever its size, by the law's
own form (Liu et al. 2026, arXiv 2512.21515). A stationary point of g is often a saddle, and the law knows nothing of
what was not sampled: so the point is the best that can be reached, and the answer says what the Hessian there shows.

Choosing must pay against not choosing, which is random text of the same size: it has the mean and the spread of the
pool. Where the lower bound of the predicted gain is not above zero, random text is the recommendation.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cptlaw.planning.decision import Decision, DecisionError, Option, with_rejections
from cptlaw.planning.identified import check_identified
from cptlaw.planning.influence import with_influence
from cptlaw.planning.numbers import (
    banded,
    check_positive,
    corpus,
    expanded,
    interval,
    losses,
    notes_of_reach,
    paired,
    summarise_regret,
)
from cptlaw.words import count

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

GRID = 61
SAME = 1e-3  # nats: a resample agrees if the recommended subset is this near to its own best
STEP = 1e-3  # of the logarithms of mean and spread, for second derivatives
FORMS = ("perplexity", "perplexity_no_interaction", "perplexity_quadratic")
BEST, RANDOM = "smallest predicted loss", "random text"
TO_STD = math.sqrt(math.pi / 2)  # a normal variable's standard deviation over its mean absolute value


@with_rejections
@with_influence
def best_subset(
    fit: "Fit", *, tokens: float, random: tuple[float, float],
    reachable: Sequence[tuple[float, float]] | None = None, miss: float | None = None, level: float = 0.9,
) -> Decision:  # fmt: skip
    """The (mu, sigma) with the smallest predicted loss, or random text where it does not surely gain on that.

    Args:
      fit: of a perplexity law.
      tokens: of the planned run.
      random: mean and spread of the pool, and so of random text, in the law's unit.
      reachable: (mean, spread) pairs a subset of the pool can have; None: the fitted runs' box.
      miss: mean absolute error in nats of predicted losses of subsets that were left out (`fitting.compare` with fold
        "subset" gives it). The gain is a difference of two predictions, and its interval holds both their errors. None:
        what the fit's own residuals show, by run.
      level: of every interval.

    Returns:
      A Decision; its options hold BEST, whose point is the law's best whether or not it is recommended, and RANDOM.
      `inputs["gain"]` is what BEST gains on RANDOM: {"point", "low", "high"}, nats.

    Raises:
      DecisionError: a law of something else, or pairs that are not positive.
    """
    name = corpus(fit)
    if fit.law.name not in FORMS:
        raise DecisionError(f"the law {fit.law.name} knows no perplexity: fit one of {', '.join(FORMS)}")
    check_positive("tokens", tokens, "tokens")
    if miss is not None and not (math.isfinite(miss) and miss >= 0):
        raise DecisionError(f"miss {miss:g}: an error in nats, 0 or more")
    # The process knows no miss along perplexity, so its draws would be surer of a subset than the resamples are.
    fit = fit.alone()
    wide = expanded(level, fit)
    (fit,), warnings = paired(fit)
    warnings += check_identified(fit, ("ppl_mean", "ppl_std"), {}, "which mean and spread to choose")
    pairs = _pairs("reachable", reachable) if reachable is not None else _box(fit)
    pairs = np.vstack([pairs, _pairs("random", [random])])  # random text is the last, and may be the best
    found = losses(fit, {"tokens": tokens, "ppl_mean": pairs[:, 0], "ppl_std": pairs[:, 1]})
    best = np.argmin(found, axis=1)
    at, own = int(best[0]), found[np.arange(len(found)), best]
    gain = _gain(found[:, -1] - found[:, at], _miss(fit) if miss is None else TO_STD * miss, wide)
    verdict = _verdict(fit, tokens, pairs[at], pairs)
    options = [
        Option(rule, _named(pairs[near]), {name: banded(found[:, near], wide)})
        for rule, near in {BEST: at, RANDOM: len(pairs) - 1, **_rules(pairs[:-1])}.items()
    ]
    supported = gain["low"] > 0
    taken = at if supported else len(pairs) - 1
    said = (
        f"A mean of {pairs[at, 0]:.4g} and a spread of {pairs[at, 1]:.4g} is {verdict}. Against random text of the "
        f"same size it gains {gain['point']:.3f} nats ({level:.0%} interval {gain['low']:.3f} to {gain['high']:.3f})"
    )
    samples = {"mean": pairs[best[1:], 0], "spread": pairs[best[1:], 1]}
    regret = found[1:, taken] - own[1:]
    return Decision(
        kind="subset",
        question=f"Which mean and spread of perplexity should the chosen {name} text have, at {count(tokens)} tokens?",
        answer=f"{said}." if supported else f"Random text. {said}: no gain is sure.",
        inputs={"tokens": tokens, "domain": name, "law": fit.law.title, "verdict": verdict, "gain": gain},
        point=_named(pairs[taken]),
        # Of the law's best, so beside random text it would be taken for another thing.
        interval={key: interval(values, wide) for key, values in samples.items()} if supported else {},
        samples=samples,
        level=level,
        agreement=float(np.mean(regret <= SAME)),
        agreement_means=f"for them it is within {SAME:g} nats of their own best",
        regret=summarise_regret(regret),
        losses={name: banded(found[:, taken], wide)},
        supported=supported,
        options=tuple(options),
        extrapolation=notes_of_reach(
            (fit, {"tokens": tokens, "ppl_mean": pairs[taken, 0], "ppl_std": pairs[taken, 1]})
        ),
        warnings=warnings,
    )


def option(decision: Decision, name: str) -> tuple[float, float]:
    """(mean, spread) of one of a subset decision's options: BEST, RANDOM, or a rule of thumb."""
    (point,) = (option.point for option in decision.options if option.name == name)
    return point["mean"], point["spread"]


def _gain(gains: np.ndarray, miss: float, level: float) -> dict[str, float]:
    """What is gained, (S + 1,) over draws, with an interval that also holds the misses of both predictions."""
    noise = np.random.default_rng(0).normal(scale=math.sqrt(2) * miss, size=len(gains) - 1)
    return banded(gains + np.append(0.0, noise), level)


def _miss(fit: "Fit") -> float:
    """Standard deviation in nats of what the law misses whole runs by, from its residuals."""
    rows = fit.residuals[~fit.residuals["held_out"]]
    of_run = (rows["observed"] - rows["predicted"]).groupby(rows["run"]).mean()
    return math.sqrt(float((of_run**2).sum()) / max(len(of_run) - len(fit.params), 1))


def _box(fit: "Fit") -> np.ndarray:
    """The (mean, spread) pairs between those of the fitted runs, (K, 2)."""
    mu, sigma = (np.geomspace(*fit.ranges[column], GRID) for column in ("ppl_mean", "ppl_std"))
    return np.array([(m, s) for m in mu for s in sigma])


def _pairs(field: str, given: Sequence[tuple[float, float]]) -> np.ndarray:
    """Given (mean, spread) pairs, (K, 2)."""
    pairs = np.array(given, dtype=float)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not (np.isfinite(pairs) & (pairs > 0)).all():
        raise DecisionError(f"{field}: give (mean, spread) pairs of positive numbers")
    return pairs


def _rules(pairs: np.ndarray) -> dict[str, int]:
    """Rules of thumb: name -> index of the pair (K, 2) nearest to it in logarithms."""
    middle = np.median(pairs, axis=0)
    targets = {
        "low perplexity": (pairs[:, 0].min(), middle[1]),
        "middle": tuple(middle),
        "high perplexity": (pairs[:, 0].max(), middle[1]),
    }
    return {
        rule: int(np.argmin(((np.log(pairs) - np.log(target)) ** 2).sum(axis=1))) for rule, target in targets.items()
    }


def _named(pair: np.ndarray) -> dict[str, float]:
    return {"mean": float(pair[0]), "spread": float(pair[1])}


def _verdict(fit: "Fit", tokens: float, point: np.ndarray, pairs: np.ndarray) -> str:
    """Whether the loss has a minimum at `point` (2,), or only the edge of what can be reached."""
    offsets = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) * STEP
    around = np.exp(np.log(point) + offsets)
    x = {"tokens": tokens, "ppl_mean": around[:, 0], "ppl_std": around[:, 1]}
    z = losses(fit, x)[0].reshape(3, 3)  # mean down the rows, spread along them
    cross = (z[2, 2] - z[2, 0] - z[0, 2] + z[0, 0]) / 4
    hessian = np.array([[z[2, 1] - 2 * z[1, 1] + z[0, 1], cross], [cross, z[1, 2] - 2 * z[1, 1] + z[1, 0]]]) / STEP**2
    slope = np.hypot(z[2, 1] - z[0, 1], z[1, 2] - z[1, 0]) / (2 * STEP)
    spacing = np.ptp(np.log(pairs), axis=0).max() / np.sqrt(len(pairs))
    lowest, highest = np.linalg.eigvalsh(hessian)
    if lowest > 0 and slope < 2 * highest * spacing:
        return "a minimum of the law inside what can be reached"
    shape = "a saddle" if lowest < 0 < highest else "no minimum"
    return f"the best that can be reached, at its edge (there the law has {shape})"
