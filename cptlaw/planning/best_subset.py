"""The perplexity law's optimum: which mean and spread of perplexity a subset of the domain text should have.

The best subset maximises g(mu, sigma) = (a0 + a1 sigma) ln mu + (b0 + b1 mu) ln sigma, whatever its size, by the law's
own form (Liu et al. 2026, arXiv 2512.21515). A stationary point of g is often a saddle, and the law knows nothing of
what was not sampled: so the answer is the best point that can be reached, and says what the Hessian there shows.
"""

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


@with_rejections
@with_influence
def best_subset(
    fit: "Fit", *, tokens: float, reachable: Sequence[tuple[float, float]] | None = None, level: float = 0.9
) -> Decision:
    """The (mu, sigma) with the smallest predicted loss.

    Args:
      fit: of a perplexity law.
      tokens: of the planned run.
      reachable: (mean, spread) pairs a subset of the pool can have, in the law's unit; None: the fitted runs' box.
      level: of every interval.

    Raises:
      DecisionError: a law of something else, or pairs that are not positive.
    """
    name = corpus(fit)
    if fit.law.name not in FORMS:
        raise DecisionError(f"the law {fit.law.name} knows no perplexity: fit one of {', '.join(FORMS)}")
    check_positive("tokens", tokens, "tokens")
    # The process knows no miss along perplexity, so its draws would be surer of a subset than the resamples are.
    fit = fit.alone()
    wide = expanded(level, fit)
    (fit,), warnings = paired(fit)
    warnings += check_identified(fit, ("ppl_mean", "ppl_std"), {}, "which mean and spread to choose")
    pairs = _pairs(fit, reachable)
    found = losses(fit, {"tokens": tokens, "ppl_mean": pairs[:, 0], "ppl_std": pairs[:, 1]})
    best = np.argmin(found, axis=1)
    at, own = int(best[0]), found[np.arange(len(found)), best]
    regret = found[1:, at] - own[1:]
    point = _named(pairs[at])
    verdict = _verdict(fit, tokens, pairs[at], pairs)
    samples = {"mean": pairs[best[1:], 0], "spread": pairs[best[1:], 1]}
    gain = banded(np.median(found, axis=1) - found[:, at], wide)
    options = [
        Option(rule, _named(pairs[near]), {name: banded(found[:, near], wide)}) for rule, near in _rules(pairs).items()
    ]
    return Decision(
        kind="subset",
        question=f"Which mean and spread of perplexity should the chosen {name} text have, at {count(tokens)} tokens?",
        answer=f"A mean of {point['mean']:.4g} and a spread of {point['spread']:.4g}: {verdict}. Against the median of "
        f"what can be chosen it gains {gain['point']:.3f} nats ({level:.0%} interval {gain['low']:.3f} to "
        f"{gain['high']:.3f}).",
        inputs={"tokens": tokens, "domain": name, "law": fit.law.title, "verdict": verdict},
        point=point,
        interval={key: interval(values, wide) for key, values in samples.items()},
        samples=samples,
        level=level,
        agreement=float(np.mean(regret <= SAME)),
        agreement_means=f"for them it is within {SAME:g} nats of their own best",
        regret=summarise_regret(regret),
        losses={name: banded(found[:, at], wide)},
        supported=gain["low"] > 0,
        options=tuple(options),
        extrapolation=notes_of_reach((fit, {"tokens": tokens, "ppl_mean": point["mean"], "ppl_std": point["spread"]})),
        warnings=warnings,
    )


def _pairs(fit: "Fit", reachable: Sequence[tuple[float, float]] | None) -> np.ndarray:
    """The (mean, spread) pairs to choose from, (K, 2)."""
    if reachable is None:
        mu, sigma = (np.geomspace(*fit.ranges[column], GRID) for column in ("ppl_mean", "ppl_std"))
        return np.array([(m, s) for m in mu for s in sigma])
    pairs = np.array(reachable, dtype=float)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not (np.isfinite(pairs) & (pairs > 0)).all():
        raise DecisionError("reachable: give (mean, spread) pairs of positive numbers")
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
