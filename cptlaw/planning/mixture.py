"""The best mix of any number of corpora: the smallest weighted sum, or the smallest worst, of target losses."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cptlaw.planning.decision import Decision, DecisionError, Option, with_rejections
from cptlaw.planning.identified import check_identified, pinned
from cptlaw.planning.influence import with_influence
from cptlaw.planning.numbers import (
    banded,
    cautions,
    check_confidence,
    check_positive,
    check_share,
    conditioned,
    corpus,
    expanded,
    interval,
    losses,
    notes_of_reach,
    paired,
    stacked,
    summarise_regret,
)
from cptlaw.planning.shares import AGREE, WIDE, check_share_law
from cptlaw.words import percent, spread

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit
    from cptlaw.planning.simplex import Search

STARTS, RESTARTS = 64, 2  # of the fitted parameters, and of each resample beside the fitted parameters' optimum
BLENDS, BLENDED, BLEND_STAGES = 2000, 4, 3  # blends a stage, measured mixes in one, stages
SURER_STAGES = 4  # of the search for a mix that keeps the ceilings surely
PENALTY = 20.0  # nats charged for each nat over a ceiling, as in `simplex`
CONVEX = ("mixing",)  # laws whose every descent ends in the one optimum
LISTED = 8  # names that a question spells out, at most
# Of how far draws' own best mixes lie below the prediction there, this part is missing at the recommended mix when it
# is measured: .58 on mixes of five domains, .67 on RegMix's (`python -m benchmarks.winners_curse`).
CURSE = 0.6
SLACK = 1e-3  # nats over a ceiling that count as meeting it


@with_rejections
@with_influence
def mixture(
    *fits: "Fit",
    weights: Mapping[str, float] | None = None,
    worst: bool = False,
    params: float | None = None,
    tokens: float | None = None,
    floors: Mapping[str, float] | None = None,
    caps: Mapping[str, float] | None = None,
    corpus_tokens: Mapping[str, float] | None = None,
    max_epochs: float | Mapping[str, float] = 1.0,
    ceilings: Mapping[str, float] | None = None,
    confidence: float | None = None,
    beyond: bool = False,
    level: float = 0.9,
) -> Decision:
    """The shares with the smallest weighted sum (or the smallest worst) of the fits' losses.

    The losses predicted at the recommended mix are raised by what choosing it as the best has made them too low
    (`inputs["raised"]`, nats).

    Under the predictive distribution the mixes looked at are the measured ones and blends of them: nothing is known
    outside their hull.

    Args:
      fits: one for each target corpus, laws of `w_<corpus>` or of the corpus's own share.
      weights: target -> weight, 1 each by default.
      worst: minimise the largest weighted loss instead of the sum.
      params, tokens: of the planned run, for laws that read them and for `corpus_tokens`.
      floors, caps: corpus -> smallest and largest share.
      corpus_tokens, max_epochs: unique tokens there are of a corpus, and the most passes over them.
      ceilings: target -> largest loss allowed, nats per token.
      confidence: all ceilings together are to hold with this probability at the recommended mix; the best mix whose
        predicted losses meet them then stands among the options. None recommends that one.
      beyond: look outside the hull of the measured mixes too.
      level: of every interval.

    Raises:
      DecisionError: an unknown corpus or target, limits that leave no mix, a ceiling that no mix meets.
    """
    wide = expanded(level, *fits)
    check_confidence(confidence)
    check_share_law(*fits)
    targets, corpora = [corpus(fit) for fit in fits], _corpora(fits)
    held = pinned(fits, corpora)
    # What is told of the first coordinate, such as the influential runs, is to be of a share that can move.
    corpora.sort(key=lambda name: name in held)
    scale = _by_name("weights", weights or dict.fromkeys(targets, 1.0), targets)
    if not (np.isfinite(scale) & (scale >= 0)).all() or not scale.any():
        raise DecisionError("weights: give each target a weight of 0 or more, and one of them more than 0")
    limit = _by_name("ceilings", ceilings or {}, targets, missing=np.inf)
    low, high = limits(corpora, floors or {}, caps or {}, corpus_tokens or {}, max_epochs, tokens)
    x = _planned(fits, params, tokens)
    kept, warnings = paired(*fits)
    low, high, notes = _held(held, corpora, low, high)
    warnings += notes
    for fit in kept:
        check_identified(fit, (), x, "which mix to take at this size and these tokens")
    judge = _Judge(kept, targets, corpora, x, scale, limit, worst)
    if conditioned(kept[0]):
        around = blends(_measured(kept, corpora), low, high, beyond)
        point, own, at_own, own_over = _among(around, judge)
    else:
        point, own, at_own, own_over = _descended(judge, low, high)
        around = own

    rules = _rules(corpora, corpus_tokens or {}, held)
    if ceilings and confidence is not None:
        rules = {"as predicted": point, **rules}
        point, holds = _surer(np.concatenate([point[None], own, around]), judge, confidence)
        if holds < confidence:
            warnings += (
                f"no mix that was looked at keeps the ceilings with a probability of {confidence:.0%}; the recommended "
                f"one does with {holds:.0%}",
            )
    raised = _optimism(judge, own) if conditioned(kept[0]) else {}
    predicted = judge.predicted(point, wide)
    for name, nats in raised.items():
        predicted[name] = {end: value + nats for end, value in predicted[name].items()}
    if told := ", ".join(f"{name} {nats:.3f}" for name, nats in raised.items() if abs(nats) >= SLACK):
        warnings += (f"the best of many predicted mixes is predicted too well: its losses are raised by {told} nats",)
    at_point, over = (value[:, 0] for value in judge(point[None]))
    named = {f"w_{name}": float(share) for name, share in zip(corpora, point)}
    for fit in kept:
        check_identified(fit, (), named, "which mix to take")
    if over[0] > SLACK:
        near = ", ".join(f"{name} {predicted[name]['point']:.4f}" for name in ceilings or {})
        raise DecisionError(
            f"no mix within the limits meets the ceilings: the nearest is over by {over[0]:.4f} nats in all. It gives "
            f"{near}: raise the ceilings to there"
        )
    spans = {name: interval(own[:, i], wide) for i, name in enumerate(corpora)}
    supported = max(end - start for start, end in spans.values()) < WIDE
    moved = np.abs(own - point).sum(axis=1) / 2  # (S,) shares that change hands
    for name, fit in zip(targets, kept):
        notes, silent = cautions(fit, judge.columns(name, point))
        warnings, supported = warnings + notes, supported and not silent
    what = "largest" if worst else "weighted sum of the"
    return Decision(
        kind="mixture",
        question=f"Which mix of {_listed(corpora)} gives the smallest {what} "
        f"{_listed([name for name, weight in zip(targets, scale) if weight])} loss"
        + "".join(f", with the {name} loss at or under {most:.4f}" for name, most in (ceilings or {}).items()) + "?",
        answer=", ".join(f"{percent(share)} {name}" for name, share in zip(corpora, point)) + "."
        if supported
        else f"These runs cannot say which mix: {', '.join(f'{n} {spread(*s)}' for n, s in spans.items())}.",
        inputs={
            **x, "weights": dict(zip(targets, scale.tolist())), "worst": worst, "ceilings": dict(ceilings or {}),
            "confidence": confidence, "raised": raised,
            "low": dict(zip(corpora, low.tolist())), "high": dict(zip(corpora, high.tolist())), "beyond": beyond,
        },
        holds=float((over[1:] <= 0).mean()) if ceilings else None,
        point=dict(zip(corpora, point.tolist())),
        interval=spans,
        samples={name: own[:, i] for i, name in enumerate(corpora)},
        level=level,
        agreement=float(np.mean(moved <= AGREE)),
        agreement_means=f"their own mix moves at most {100 * AGREE:.0f} points of share",
        regret=summarise_regret(np.maximum(at_point[1:] - at_own, 0) + np.maximum(over[1:] - own_over, 0)),
        losses=predicted,
        supported=supported,
        options=tuple(judge.option(name, mix, wide) for name, mix in rules.items()),
        extrapolation=notes_of_reach(*((fit, x | named) for fit in kept)),
        warnings=warnings,
    )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= LISTED else f"{', '.join(names[:2])}, ... ({len(names)} in all)"


@dataclasses.dataclass(frozen=True)
class _Judge:
    """What a mix is worth: targets' fits and names, corpora, the planned run, weights and ceilings (targets,)."""

    fits: Sequence["Fit"]
    targets: list[str]
    corpora: list[str]
    run: dict[str, float]
    weights: np.ndarray
    ceilings: np.ndarray
    worst: bool

    def __call__(self, mixes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(objective, nats over the ceilings) of mixes (K, corpora) in every draw, (S + 1, K) each."""
        add = np.maximum if self.worst else np.add
        total, over = np.array(-np.inf if self.worst else 0.0), np.array(0.0)
        # One target after the other: of twenty, all draws of all mixes would be a third of a gigabyte.
        for name, fit, weight, ceiling in zip(self.targets, self.fits, self.weights, self.ceilings):
            found = losses(fit, self.columns(name, mixes))
            total, over = add(total, weight * found), over + np.maximum(found - ceiling, 0.0)
        return total, over

    def columns(self, target: str, mixes: np.ndarray) -> dict[str, Any]:
        """What the law of a target reads of the planned run with mixes (..., corpora)."""
        named = {f"w_{name}": mixes[..., i] for i, name in enumerate(self.corpora)}
        return {**self.run, **named, "ratio": named.get(f"w_{target}", np.nan)}

    def predicted(self, mix: np.ndarray, level: float) -> dict[str, dict[str, float]]:
        """Each target's loss at one mix (corpora,), with its interval."""
        each = zip(self.targets, self.fits)
        return {name: banded(losses(fit, self.columns(name, mix))[:, 0], level) for name, fit in each}

    def option(self, name: str, mix: np.ndarray, level: float) -> Option:
        """A mix (corpora,) to compare with the best, and how often it keeps the ceilings, if there are any."""
        holds = float((self(mix[None])[1][1:] <= 0).mean()) if np.isfinite(self.ceilings).any() else None
        return Option(name, dict(zip(self.corpora, mix.tolist())), self.predicted(mix, level), holds)


def _among(mixes: np.ndarray, judged: _Judge) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best of the mixes and, around what the draws choose, of blends of their choices with each other and the rest.

    Returns:
      shares (corpora,) at the prediction, of each draw (S, corpora), and each draw's objective and nats over (S,).
    """
    rng, first = np.random.default_rng(0), mixes
    for stage in range(BLEND_STAGES):
        total, over = judged(mixes)
        pick = np.argmin(total + PENALTY * over, axis=1)
        if stage < BLEND_STAGES - 1:
            chosen = mixes[np.unique(pick)]
            # Of many corpora all draws may choose one mix, which leaves nothing to blend but it and the first ones.
            ends = np.concatenate([each[rng.integers(len(each), size=BLENDS // 2)] for each in (chosen, first)])
            part = rng.beta(1, 3, BLENDS)[:, None]
            mixes = np.concatenate([chosen, (1 - part) * chosen[rng.integers(len(chosen), size=BLENDS)] + part * ends])
    draws = np.arange(1, len(pick))
    return mixes[pick[0]], mixes[pick[1:]], total[draws, pick[1:]], over[draws, pick[1:]]


def _optimism(judge: _Judge, own: np.ndarray) -> dict[str, float]:
    """Target -> nats by which its predicted loss at the best mix is too low, for having been chosen as the best.

    The best of many predictions is where they err on the low side (Smith & Winkler 2006, "the optimizer's curse"). A
    draw that stands for what was learned is as much too low at its own best mix as it lies below the prediction there;
    the mean over draws, times `CURSE`, is what the prediction itself is too low by. Of laws alone nothing is taken: on
    the same tables they promised too little.

    Args:
      own: best mix of each draw (S, corpora).
    """
    mixes, which = np.unique(own, axis=0, return_inverse=True)
    draws, which, raised = np.arange(1, len(own) + 1), which.ravel(), {}
    for name, fit in zip(judge.targets, judge.fits):
        found = losses(fit, judge.columns(name, mixes))
        raised[name] = CURSE * float(np.mean(found[0, which] - found[draws, which]))
    return raised


def _surer(mixes: np.ndarray, judge: _Judge, confidence: float) -> tuple[np.ndarray, float]:
    """The best predicted mix at which all ceilings hold with `confidence`, else the surest; and how surely they do.

    Looked for among mixes (K, corpora), the best one by the prediction first, and blends of them.
    """
    rng = np.random.default_rng(0)
    for stage in range(SURER_STAGES):
        total, over = judge(mixes)
        holds = (over[1:] <= 0).mean(axis=0)
        sure = holds >= confidence
        pick = int(np.argmin(np.where(sure, total[0], np.inf)) if sure.any() else np.argmax(holds))
        best, probability = mixes[pick], float(holds[pick])
        if stage < SURER_STAGES - 1:
            # Blends of any two mixes look around, blends with the best one close in.
            ends = mixes[rng.integers(len(mixes), size=(2, BLENDS))]
            ends[0, BLENDS // 2 :] = best
            part = rng.beta(1, 3, BLENDS)[:, None]
            mixes = np.concatenate([best[None], mixes[:1], (1 - part) * ends[0] + part * ends[1]])
    return best, probability


def _measured(fits: Sequence["Fit"], corpora: list[str]) -> np.ndarray:
    """The mixes of the fits' rows (M, corpora)."""
    names = [f"w_{name}" for name in corpora]
    rows = pd.concat([fit.residuals for fit in fits], ignore_index=True)
    if missing := [name for name in names if name not in rows]:
        raise DecisionError(f"the fitted rows lack {', '.join(missing)}: it is not known which mixes were measured")
    return rows[names].to_numpy(float)


def blends(measured: np.ndarray, low: np.ndarray, high: np.ndarray, beyond: bool = False) -> np.ndarray:
    """Measured mixes (M, corpora) within the limits and blends of them (K, corpora); `beyond`: of all mixes there are.

    Raises:
      DecisionError: no blend of measured mixes is within the limits.
    """
    rng = np.random.default_rng(0)
    measured = np.unique(measured.round(6), axis=0)
    ends = np.concatenate([measured, np.eye(len(low))]) if beyond else measured
    count = min(BLENDED, len(ends))
    several = np.array([rng.choice(len(ends), count, replace=False) for _ in range(BLENDS)])
    weights = rng.dirichlet(np.full(count, 0.7), BLENDS)
    found = np.concatenate([measured, np.einsum("kb,kbc->kc", weights, ends[several])])
    found = found / found.sum(axis=1, keepdims=True)
    inside = ((found >= low - 1e-9) & (found <= high + 1e-9)).all(axis=1)
    if not inside.any():
        raise DecisionError(
            "no blend of the measured mixes is within the limits: loosen them, or look outside the measured mixes "
            "(--beyond)"
        )
    return found[inside]


def _descended(
    judge: _Judge, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `_among` returns, by mirror descent under the laws alone."""
    from cptlaw.planning.simplex import Search, Targets  # needs JAX

    laws = tuple(fit.law for fit in judge.fits)
    asked = Targets(laws, tuple(judge.targets), tuple(judge.corpora), tuple(judge.run.items()), judge.worst)
    search = Search(asked, judge.weights, judge.ceilings, low, high)
    mixes = _best_mixes(search, judge.fits)
    total, over = search.judge([stacked(fit) for fit in judge.fits], mixes)
    return mixes[0], mixes[1:], total[1:], over[1:]


def _best_mixes(search: "Search", fits: Sequence["Fit"]) -> np.ndarray:
    """Each draw's best mix, (S + 1, K): the fit's from many starts, a resample's from there and a few others."""
    rng = np.random.default_rng(0)
    draws = [stacked(fit) for fit in fits]
    corpora, resamples = len(search.low), len(next(iter(draws[0].values()))) - 1
    cold = rng.dirichlet(np.ones(corpora), (1, STARTS))
    point = search.best([{name: values[:1] for name, values in own.items()} for own in draws], cold)
    others = 0 if all(fit.law.name in CONVEX for fit in fits) else RESTARTS
    fresh = rng.dirichlet(np.ones(corpora), (resamples, others))
    warm = np.concatenate([np.broadcast_to(point[0], (resamples, 1, corpora)), fresh], axis=1)
    own = search.best([{name: values[1:] for name, values in own.items()} for own in draws], warm)
    return np.concatenate([point, own])


def _rules(corpora: list[str], corpus_tokens: Mapping[str, float], held: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Rules of thumb: name -> mix (K,). Corpora that are held keep their share; the others share the rest."""
    sizes = {"equal shares": np.ones(len(corpora))}
    if set(corpus_tokens) == set(corpora):
        sizes["proportional to size"] = np.array([corpus_tokens[name] for name in corpora])
    fixed = np.array([held.get(name, 0.0) for name in corpora])
    free = np.array([name not in held for name in corpora])
    return {rule: fixed + (1 - fixed.sum()) * free * size / size[free].sum() for rule, size in sizes.items()}


def _held(
    held: Mapping[str, float], corpora: list[str], low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Limits (K,) that keep the corpora whose share never varied at that share, and warnings that say so.

    Raises:
      DecisionError: no two shares varied, or a floor or cap moves one that did not.
    """
    if len(held) > len(corpora) - 2:
        shown = ", ".join(f"{percent(share)} {name}" for name, share in held.items())
        raise DecisionError(
            f"every fitted run has the same mix ({shown}), so these runs cannot say which mix to take: add runs of "
            "other mixes and fit again"
        )
    low, high = low.copy(), high.copy()
    for name, share in held.items():
        i = corpora.index(name)
        if not low[i] - 1e-9 <= share <= high[i] + 1e-9:
            raise DecisionError(
                f"{name}: every fitted run has a share of {percent(share)} of it, so the losses at another share are "
                f"not known, and the limits allow {percent(low[i])} to {percent(high[i])}"
            )
        low[i] = high[i] = share
    notes = tuple(
        f"every fitted run has a share of {percent(share)} of {name}, so it is kept there: what more or less of it "
        "would do is not known"
        for name, share in held.items()
    )
    return low, high, notes


def _planned(fits: Sequence["Fit"], params: float | None, tokens: float | None) -> dict[str, float]:
    """The columns of the planned run that are given; refuses what a law reads and is not given."""
    x = {}
    for name, value, unit in (("params", params, "parameters"), ("tokens", tokens, "tokens")):
        if value is not None:
            x[name] = check_positive(name, value, unit)
        elif any(name in fit.law.columns for fit in fits):
            raise DecisionError(f"these laws depend on {name}: give the planned run's")
    return x


def _corpora(fits: Sequence["Fit"]) -> list[str]:
    """The training corpora the laws read, in their order."""
    names = [c[2:] for fit in fits for c in fit.law.columns if c.startswith("w_")]
    names += [corpus(fit) for fit in fits if "ratio" in fit.law.columns]
    found = list(dict.fromkeys(names))
    if len(found) < 2:
        raise DecisionError("a mixture needs laws of two corpora or more, e.g. --law mixing")
    return found


def _by_name(what: str, given: Mapping[str, float], known: Sequence[str], missing: float = 0.0) -> np.ndarray:
    """The given numbers in the order of `known`, `missing` for those left out."""
    if unknown := [name for name in given if name not in known]:
        raise DecisionError(f"{what}: there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return np.array([given.get(name, missing) for name in known], dtype=float)


def limits(
    corpora: Sequence[str],
    floors: Mapping[str, float],
    caps: Mapping[str, float],
    there: Mapping[str, float] | None = None,
    max_epochs: float | Mapping[str, float] = 1.0,
    tokens: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest share of each corpus, (K,) each; `there` are the unique tokens of the corpora.

    Raises:
      DecisionError: an unknown corpus, a number out of range, or limits that leave no mix.
    """
    for what, given in (("floors", floors), ("caps", caps)):
        for name, value in given.items():
            check_share(f"{what}[{name}]", value)
    low, high = _by_name("floors", floors, corpora), _by_name("caps", caps, corpora, missing=1.0)
    size = _by_name("corpus_tokens", there or {}, corpora, missing=np.inf)
    if there:
        if tokens is None:
            raise DecisionError("corpus_tokens limits the shares of a run of known tokens: give tokens")
        for name, value in there.items():
            check_positive(f"corpus_tokens[{name}]", value, "tokens")
        epochs = max_epochs if isinstance(max_epochs, Mapping) else dict.fromkeys(corpora, max_epochs)
        if bad_epochs := [name for name, value in epochs.items() if not value > 0]:
            raise DecisionError(f"max_epochs of {bad_epochs[0]}: more than 0, e.g. 1 for a single pass")
        high = np.minimum(high, size * _by_name("max_epochs", epochs, corpora, missing=1.0) / tokens)
    if (bad := low > high).any():
        i = int(np.argmax(bad))
        raise DecisionError(f"{corpora[i]}: its floor {low[i]:.3g} is over its largest share {high[i]:.3g}")
    if low.sum() > 1 or high.sum() < 1:
        raise DecisionError(
            f"the limits leave no mix: floors sum to {low.sum():.3g}, largest shares to {high.sum():.3g}"
        )
    return low, high
