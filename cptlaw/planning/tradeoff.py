"""Usage 1 of the D-CPT Law (Que et al. 2024): the domain share that a ceiling on the general loss allows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.planning.decision import Decision, DecisionError, with_rejections
from cptlaw.planning.identified import check_identified
from cptlaw.planning.influence import with_influence
from cptlaw.planning.numbers import (
    banded,
    cautions,
    check_confidence,
    check_positive,
    check_run,
    corpus,
    expanded,
    interval,
    minimise,
    notes_of_reach,
    paired,
    resamples,
    summarise_regret,
)
from cptlaw.planning.shares import (
    AGREE,
    RULES,
    WIDE,
    LossAt,
    agreement,
    check_share_law,
    loss_functions,
    rules_of_thumb,
)
from cptlaw.words import count, percent, spread

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit


SAFE_POINTS = 361  # shares among which the surer one is looked for
SAME_BASE = 1e-3  # relative: base losses that are one, but for how they were rounded
BINDS = 1e-5  # relative: a predicted loss so near the ceiling is held by it


@with_rejections
@with_influence
def trade_off(
    general: "Fit",
    domain: "Fit",
    *,
    params: float,
    tokens: float,
    base_loss: float,
    tolerance: float = 0.03,
    ceiling: float | None = None,
    base_loss_se: float = 0.0,
    confidence: float | None = None,
    corpus_tokens: Mapping[str, float] | None = None,
    level: float = 0.9,
) -> Decision:
    """The domain share with the smallest domain loss whose general loss stays under a ceiling.

    Only shares between those of the fitted runs are considered: a law can turn sharply where no run held it, most of
    all near a share of 0.

    Args:
      general, domain: fits of the two corpora's losses, each a law of its own corpus's share; fitted on one table
        with one seed, so that their resamples pair.
      params, tokens: the planned run, counts.
      base_loss: general loss before continual pre-training, nats per token.
      tolerance: allowed relative rise over `base_loss`.
      ceiling: allowed general loss in nats per token, instead of `tolerance`.
      base_loss_se: standard error of `base_loss`, which moves a ceiling that is relative to it.
      confidence: the ceiling is to hold with this probability at the recommended share; the share at which the
        predicted loss itself meets it then stands among the options. None recommends that one.
      corpus_tokens: available tokens by corpus; adds the mix proportional to them to the rules of thumb.
      level: of every interval.

    Raises:
      DecisionError: a number out of range, or a ceiling that no share meets.
    """
    general_name, domain_name = corpus(general), corpus(domain)
    x = check_run(params, tokens)
    limit = _ceiling(base_loss, tolerance, ceiling)
    if _rebased(general, base_loss):
        base_loss_se = 0.0  # the losses are known relative to the base's, of the same text
    check_confidence(confidence)
    _check_error(base_loss_se)
    wide = expanded(level, general, domain)
    check_share_law(general, domain)
    (general, domain), warnings = paired(general, domain)
    moves = ("ratio", f"w_{general.eval}", f"w_{domain.eval}")
    for fit in (general, domain):
        warnings += check_identified(fit, moves, x, f"which share of {domain_name} text to take")

    general_loss, domain_loss = loss_functions(general, domain, x)
    tried = tried_shares(general, domain)
    limits = _limits(limit, 0.0 if ceiling is not None else (1 + tolerance) * base_loss_se, resamples(general))
    lowest, best = _best_shares(general_loss, domain_loss, limits, tried)
    if np.isnan(best[0]):
        raise _impossible(general_name, lowest[0], float(general_loss(lowest[:1])[0, 0]), x, base_loss, limit)
    infeasible = np.isnan(best[1:])
    if infeasible.any():
        warnings += (f"in {np.mean(infeasible):.0%} of draws no share meets the ceiling; they count as their best",)
    estimate, shares = float(best[0]), np.where(infeasible, lowest[1:], best[1:])
    point = estimate if confidence is None else _safe(general_loss, limits, tried, estimate, confidence)
    span = interval(shares, wide)
    at_point = {name: at(np.array([point]))[:, 0] for name, at in
                ((general_name, general_loss), (domain_name, domain_loss))}  # fmt: skip

    holds = float(np.mean(at_point[general_name][1:] <= limits[1:, 0]))
    if confidence is not None and holds < confidence:
        warnings += (
            f"no share that was tried keeps the ceiling with a probability of {confidence:.0%}; the recommended one "
            f"does with {holds:.0%}: allow more, or run more",
        )
    notes, silent = _cautions((general, x | {"ratio": 1 - point}), (domain, x | {"ratio": point}))
    rules = ({} if confidence is None else {"as predicted": estimate}) | RULES
    if corpus_tokens is not None:
        rules |= {"proportional to size": _proportional(corpus_tokens, general_name, domain_name)}
    supported = span[1] - span[0] < WIDE and not silent
    binds = bool(np.isclose(general_loss(np.array([estimate]))[0, 0], limit, rtol=BINDS))
    return Decision(
        kind="trade-off",
        question=_question(domain_name, general_name, x, base_loss, limit),
        answer=_silent(domain_name, x)
        if silent
        else _answer(
            domain_name, general_name, point, span, level, supported, binds, tried[1], (confidence, holds, estimate)
        ),
        inputs={
            **x,
            "base_loss": base_loss,
            "ceiling": limit,
            "tolerance": limit / base_loss - 1,
            "base_loss_se": base_loss_se,
            "confidence": confidence,
            "general": general_name,
            "domain": domain_name,
        },
        point={"share": point},
        interval={"share": span},
        samples={"share": shares},
        level=level,
        agreement=agreement(point, shares),
        agreement_means=f"their own best share is within {100 * AGREE:.0f} points of it",
        holds=holds,
        regret=_regret(general_loss, domain_loss, limits, point, shares, infeasible),
        losses={name: banded(values, wide) for name, values in at_point.items()},
        supported=supported,
        options=rules_of_thumb(
            rules, {general_name: general_loss, domain_name: domain_loss}, wide, (general_name, limits), tried
        ),
        extrapolation=notes_of_reach((general, x | {"ratio": 1 - point}), (domain, x | {"ratio": point})),
        warnings=warnings + notes,
    )


def _question(domain: str, general: str, x: Mapping[str, float], base_loss: float, limit: float) -> str:
    return (
        f"Which share of {domain} text gives the smallest {domain} loss while the {general} loss stays at or under "
        f"{limit:.4f} nats ({limit / base_loss - 1:+.1%} over the base model), at {count(x['params'])} parameters and "
        f"{count(x['tokens'])} tokens?"
    )


def _impossible(
    general: str, share: float, least: float, x: Mapping[str, float], base_loss: float, limit: float
) -> DecisionError:
    """The error of a ceiling that no share meets; the general loss is smallest, `least`, at `share`."""
    return DecisionError(
        f"no domain share keeps the {general} loss under {limit:.4f}: at {count(x['params'])} parameters and "
        f"{count(x['tokens'])} tokens the smallest predicted is {least:.4f}, at a domain share of {percent(share)}. "
        f"Allow at least {least / base_loss - 1:+.1%} over the base model's {base_loss:.4f}"
    )


def base_loss(table: pd.DataFrame, corpus: str, params: float) -> float:
    """The base model's loss of a corpus (`measured_base` without its error)."""
    return measured_base(table, corpus, params)[0]


def measured_base(table: pd.DataFrame, corpus: str, params: float) -> tuple[float, float]:
    """The base model's loss of a corpus and its standard error: the table's row at zero tokens and this size.

    Of several base models (column `base`) it is their mean. The error is of the rows' `loss_se`, 0 where the table has
    none: all bases are scored on the same text, so their number does not lessen it.

    Raises:
      DecisionError: there is none; names the sizes that have one.
    """
    rows = runs.bases(table, corpus)
    found = runs.at_size(rows, params) if len(rows) else rows
    if found.empty:
        known = ", ".join(count(n) for n in sorted(rows["params"].unique())) if len(rows) else "none"
        raise DecisionError(
            f"no base loss of {corpus} at {count(params)} parameters: a row at zero tokens gives it, and there are "
            f"such rows for {known}"
        )
    error = float(pd.to_numeric(found["loss_se"]).iloc[0]) if "loss_se" in found else 0.0
    return float(found["loss"].mean()), error if np.isfinite(error) else 0.0


def _ceiling(base_loss: float, tolerance: float, ceiling: float | None) -> float:
    """The largest general loss allowed, nats per token."""
    check_positive("base_loss", base_loss, "nats per token")
    if ceiling is not None:
        return check_positive("ceiling", ceiling, "nats per token")
    if tolerance <= -1:
        raise DecisionError(f"tolerance {tolerance:g} leaves no loss at all; 0.03 allows a rise of 3%")
    return (1 + tolerance) * base_loss


def _rebased(general: "Fit", base_loss: float) -> bool:
    """Whether the fit's losses are relative to the base's (`runs.rebased`); DecisionError if to another base's."""
    to = general.settings.get("rebased_to", {}).get(general.eval)
    if to is not None and abs(to / base_loss - 1) > SAME_BASE:
        raise DecisionError(
            f"the fit of {general.eval} is rebased to a base model whose loss is {to:.4f}, and the question is of one "
            f"with {base_loss:.4f}: fit again with --rebase and the size that is asked of"
        )
    return to is not None


def tried_shares(general: "Fit", domain: "Fit") -> tuple[float, float]:
    """Smallest and largest domain share of the fitted runs: outside them nothing keeps a law from odd values."""
    (low, high), (general_low, general_high) = (
        fit.ranges.get("ratio", fit.ranges.get(f"w_{fit.eval}", (0.0, 1.0))) for fit in (domain, general)
    )
    return max(low, 1 - general_high), min(high, 1 - general_low)


def _check_error(base_loss_se: float) -> None:
    if not (np.isfinite(base_loss_se) and base_loss_se >= 0):
        raise DecisionError(f"base_loss_se {base_loss_se:g} is not a standard error in nats")


def _cautions(*asked: tuple["Fit", Mapping[str, float]]) -> tuple[tuple[str, ...], bool]:
    """What stands against believing the predictions, and whether there are none."""
    found = [cautions(fit, x) for fit, x in asked]
    return tuple(note for notes, _ in found for note in notes), any(silent for _, silent in found)


def _limits(limit: float, error: float, draws: int) -> np.ndarray:
    """The ceiling of every draw (S + 1, 1), the stated one first: a measured base loss is not known exactly."""
    moved = error * np.random.default_rng(0).standard_normal(draws) if error else np.zeros(draws)
    return limit + np.concatenate([[0.0], moved])[:, None]


def _safe(
    general_loss: LossAt, limits: np.ndarray, tried: tuple[float, float], estimate: float, confidence: float
) -> float:
    """The largest share up to the estimate at which the ceiling holds with `confidence`; else the surest."""
    shares = np.linspace(tried[0], estimate, SAFE_POINTS)
    holds = np.mean(general_loss(shares)[1:] <= limits[1:], axis=0)
    good = np.flatnonzero(holds >= confidence)
    return float(shares[good[-1] if len(good) else np.argmax(holds)])


def _best_shares(
    general_loss: LossAt, domain_loss: LossAt, limit: np.ndarray, tried: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """(share of least general loss, share of least domain loss under the limit or NaN), each (S + 1,).

    A law whose domain loss falls with the share has its best at the largest share allowed; no law is assumed to.
    """
    draws = len(general_loss(np.zeros(1)))
    lowest = minimise(general_loss, *tried, draws)
    best = minimise(lambda s: np.where(general_loss(s) <= limit, domain_loss(s), np.inf), *tried, draws)
    # A grid can step over a narrow feasible stretch around the least general loss.
    narrow = np.isnan(best) & (general_loss(lowest[:, None])[:, 0] <= limit[:, 0])
    return lowest, np.where(narrow, lowest, best)


def _regret(
    general_loss: LossAt, domain_loss: LossAt, limits: np.ndarray, point: float, shares: np.ndarray,
    infeasible: np.ndarray,
) -> dict[str, float]:  # fmt: skip
    """What the recommended share costs against each draw's own: domain nats given up, nats over the ceiling, both.

    A draw in which nothing meets its ceiling is charged only for what its best share would have saved.
    """
    own, recommended = np.concatenate([[point], shares])[:, None], np.array([point])
    given_up = np.maximum(np.where(infeasible, 0, (domain_loss(recommended) - domain_loss(own))[1:, 0]), 0)
    over = np.maximum((general_loss(recommended) - np.maximum(limits, general_loss(own)))[1:, 0], 0)
    regret = summarise_regret(given_up + over)
    for what, price in (("given up", given_up), ("over", over)):
        regret |= {f"{what} {key}": value for key, value in summarise_regret(price).items()}
    return regret


def _answer(
    domain: str,
    general: str,
    point: float,
    span: tuple[float, float],
    level: float,
    supported: bool,
    binds: bool,
    largest: float,
    safe: tuple[float | None, float, float],
) -> str:
    confidence, holds, estimate = safe
    within = f"{level:.0%} interval {spread(*span)}"
    if confidence is not None and supported and point < estimate - 1e-9:
        return (
            f"{percent(point)} {domain} text, {percent(1 - point)} {general} text: the ceiling on the {general} loss "
            f"holds there with a probability of {holds:.0%}. The predicted loss meets it at {percent(estimate)} "
            f"({within})."
        )
    if not supported:
        return f"These runs cannot say which share of {domain} text: {within}."
    if point == 1:
        return f"{domain} text only ({within}): the ceiling on the {general} loss never binds."
    mix = f"{percent(point)} {domain} text, {percent(1 - point)} {general} text ({within})"
    if point == largest and not binds:
        return (
            f"{mix}, the largest share that any run tried: the ceiling on the {general} loss allows it, and larger "
            "ones are unknown."
        )
    why = "" if binds else f", where the {domain} loss is least; the ceiling on the {general} loss does not bind"
    return f"{mix}{why}."


def _silent(domain: str, x: Mapping[str, float]) -> str:
    return (
        f"These runs say nothing about {count(x['params'])} parameters and {count(x['tokens'])} tokens: no share of "
        f"{domain} text can be recommended from so far away."
    )


def _proportional(corpus_tokens: Mapping[str, float], general: str, domain: str) -> float:
    """The domain share of a mix proportional to the tokens there are."""
    for name in (general, domain):
        if name not in corpus_tokens:
            raise DecisionError(f"corpus_tokens has no {name}; it has {', '.join(corpus_tokens) or 'none'}")
        check_positive(f"corpus_tokens[{name}]", corpus_tokens[name], "tokens")
    return corpus_tokens[domain] / (corpus_tokens[general] + corpus_tokens[domain])
