"""Usage 1 of the D-CPT Law (Que et al. 2024): the domain share that a ceiling on the general loss allows."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.planning import decision as d
from cptlaw.planning.decision import Decision, DecisionError, Option
from cptlaw.planning.influence import with_influence

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

RULES = {"domain only": 1.0, "5% replay": 0.95, "25% replay": 0.75}
LossAt = Callable[[np.ndarray], np.ndarray]
SAFE_POINTS = 361  # shares among which the surer one is looked for
BINDS = 1e-5  # relative: a predicted loss so near the ceiling is held by it
AGREE = 0.05  # shares closer than this are the same decision


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

    Looks between the shares that runs were fitted at: a law can turn sharply where nothing held it, most of all near
    a share of 0.

    Args:
      general, domain: fits of the two corpora's losses, each a law of its own corpus's share; fitted on one table
        with one seed, so that their resamples pair.
      params, tokens: the planned run, counts.
      base_loss: general loss before continual pre-training, nats per token.
      tolerance: allowed relative rise over `base_loss`.
      ceiling: allowed general loss in nats per token, instead of `tolerance`.
      base_loss_se: standard error of `base_loss`, which moves a ceiling that is relative to it.
      confidence: the ceiling is to hold with this probability at the recommended share; the share at which the predicted
        loss itself meets it then stands among the options. None recommends that one.
      corpus_tokens: available tokens by corpus; adds the mix proportional to them to the rules of thumb.
      level: of every interval.

    Raises:
      DecisionError: a number out of range, or a ceiling that no share meets.
    """
    names = d.corpus(general), d.corpus(domain)
    x = {
        "params": d.check_positive("params", params, "parameters"),
        "tokens": d.check_positive("tokens", tokens, "tokens"),
    }
    d.check_positive("base_loss", base_loss, "nats per token")
    wide = d.expanded(level, general, domain)
    if ceiling is None and tolerance <= -1:
        raise DecisionError(f"tolerance {tolerance:g} leaves no loss at all; 0.03 allows a rise of 3%")
    limit = (1 + tolerance) * base_loss if ceiling is None else d.check_positive("ceiling", ceiling, "nats per token")
    if confidence is not None and not 0 < confidence < 1:
        raise DecisionError(f"confidence {confidence:g} is not a probability between 0 and 1 (0.9 for 90%)")
    if not (np.isfinite(base_loss_se) and base_loss_se >= 0):
        raise DecisionError(f"base_loss_se {base_loss_se:g} is not a standard error in nats")
    d.check_share_law(general, domain)
    (general, domain), warnings = d.paired(general, domain)

    general_loss, domain_loss = loss_functions(general, domain, x)
    tried = _tried(general, domain)
    limits = _limits(limit, 0.0 if ceiling is not None else (1 + tolerance) * base_loss_se, d.draws(general))
    lowest, best = _best_shares(general_loss, domain_loss, limits, tried)
    if np.isnan(best[0]):
        least = float(general_loss(lowest[:1])[0, 0])
        raise DecisionError(
            f"no domain share keeps the {names[0]} loss under {limit:.4f}: at {d.count(params)} parameters and "
            f"{d.count(tokens)} tokens the smallest predicted is {least:.4f}, at a domain share of "
            f"{d.percent(lowest[0])}. Allow at least {least / base_loss - 1:+.1%} over the base model's {base_loss:.4f}"
        )
    infeasible = np.isnan(best[1:])
    shares = np.where(infeasible, lowest[1:], best[1:])
    estimate = float(best[0])
    span = d.interval(shares, wide)
    point = estimate if confidence is None else _safe(general_loss, limits, tried, estimate, confidence)
    at_point = {names[0]: general_loss(np.array([point])), names[1]: domain_loss(np.array([point]))}
    holds = float(np.mean(at_point[names[0]][1:, 0] <= limits[1:, 0]))
    if confidence is not None and holds < confidence:
        warnings += (
            f"no share that was tried keeps the ceiling with a probability of {confidence:.0%}; the one recommended does "
            f"with {holds:.0%}: allow more, or run more",
        )
    each = np.concatenate([[point], shares])[:, None]
    given_up = np.maximum(np.where(infeasible, 0, at_point[names[1]][1:, 0] - domain_loss(each)[1:, 0]), 0)
    # A draw whose ceiling nothing meets is charged only for what the best share would have saved.
    over = np.maximum(at_point[names[0]][1:, 0] - np.maximum(limits[1:, 0], general_loss(each)[1:, 0]), 0)
    regret = d.summarise_regret(given_up + over)
    for what, price in (("given up", given_up), ("over", over)):
        regret |= {f"{what} {key}": value for key, value in d.summarise_regret(price).items()}

    rules = RULES
    if corpus_tokens is not None:
        rules = RULES | {"proportional to size": _proportional(corpus_tokens, names[0], names[1])}
    functions = {names[0]: general_loss, names[1]: domain_loss}
    cautions = [d.cautions(general, x | {"ratio": 1 - point}), d.cautions(domain, x | {"ratio": point})]
    silent = any(one for _, one in cautions)
    warnings += tuple(note for notes, _ in cautions for note in notes)
    supported = span[1] - span[0] < d.WIDE and not silent
    binds = bool(np.isclose(general_loss(np.array([estimate]))[0, 0], limit, rtol=BINDS))
    if infeasible.any():
        warnings += (f"in {np.mean(infeasible):.0%} of draws no share meets the ceiling; they count as their best",)
    options = rules_of_thumb(rules, functions, wide, (names[0], limits))
    if confidence is not None:
        options = rules_of_thumb({"as predicted": estimate}, functions, wide, (names[0], limits)) + options
    return Decision(
        kind="trade-off",
        question=f"Which share of {names[1]} text gives the smallest {names[1]} loss while the {names[0]} "
        f"loss stays at or under {limit:.4f} nats ({limit / base_loss - 1:+.1%} over the base model), at "
        f"{d.count(params)} parameters and {d.count(tokens)} tokens?",
        answer=_silent(names[1], x)
        if silent
        else _answer(names[1], names[0], point, span, level, supported, binds, tried[1], (confidence, holds, estimate)),
        inputs={
            **x,
            "base_loss": base_loss,
            "ceiling": limit,
            "tolerance": limit / base_loss - 1,
            "base_loss_se": base_loss_se,
            "confidence": confidence,
            "general": names[0],
            "domain": names[1],
        },
        point={"share": point},
        interval={"share": span},
        samples={"share": shares},
        level=level,
        agreement=float(np.mean(np.abs(shares - point) <= AGREE)),
        agreement_means=f"their own best share is within {100 * AGREE:.0f} points of it",
        holds=holds,
        regret=regret,
        losses={name: d.banded(value[:, 0], wide) for name, value in at_point.items()},
        supported=supported,
        options=options,
        extrapolation=d.extrapolation(general, x | {"ratio": 1 - point})
        + d.extrapolation(domain, x | {"ratio": point}),
        warnings=warnings,
    )


def base_loss(table: pd.DataFrame, corpus: str, params: float) -> float:
    """The base model's loss of a corpus (`measured_base` without its error)."""
    return measured_base(table, corpus, params)[0]


def measured_base(table: pd.DataFrame, corpus: str, params: float) -> tuple[float, float]:
    """The base model's loss of a corpus and its standard error: the table's row at zero tokens and this size.

    The error is of the rows' `loss_se`, 0 where the table has none.

    Raises:
      DecisionError: there is none; names the sizes that have one.
    """
    rows = table[runs.finished(table) & (table["eval"] == corpus)]
    rows = rows[rows["tokens"] == 0] if {"params", "tokens"} <= set(rows) else rows[:0]
    found = rows[rows["params"] == params]
    if found.empty:
        known = ", ".join(d.count(n) for n in sorted(rows["params"].unique())) if len(rows) else "none"
        raise DecisionError(
            f"no base loss of {corpus} at {d.count(params)} parameters: a row at zero tokens gives it, and there are "
            f"such rows for {known}"
        )
    error = float(found["loss_se"].iloc[0]) if "loss_se" in found else 0.0
    return float(found["loss"].iloc[0]), error if np.isfinite(error) else 0.0


def loss_functions(general: "Fit", domain: "Fit", x: Mapping[str, float]) -> tuple[LossAt, LossAt]:
    """Both corpora's losses as functions of the domain share, each (K,) or (S + 1, K) -> (S + 1, K)."""

    def of(fit: "Fit", own: Callable[[np.ndarray], np.ndarray]) -> LossAt:
        def at(share: np.ndarray) -> np.ndarray:
            # Laws of several corpora read the shares by name.
            named = {f"w_{general.eval}": 1 - share, f"w_{domain.eval}": share}
            return d.losses(fit, {**x, **named, "ratio": own(share)})

        return d.tabulated(fit, at)

    return of(general, lambda share: 1 - share), of(domain, lambda share: share)


def rules_of_thumb(
    rules: Mapping[str, float],
    loss_at: Mapping[str, LossAt],
    level: float,
    ceiling: tuple[str, np.ndarray] | None = None,
) -> tuple[Option, ...]:
    """Options at fixed shares: what each predicts for every corpus, and how often it keeps a ceiling.

    `ceiling`: a corpus, and its limit in every draw (S + 1, 1).
    """
    options = []
    for name, share in rules.items():
        found = {corpus: at(np.array([share]))[:, 0] for corpus, at in loss_at.items()}
        losses = {corpus: d.banded(values, level) for corpus, values in found.items()}
        holds = None if ceiling is None else float(np.mean(found[ceiling[0]][1:] <= ceiling[1][1:, 0]))
        options.append(Option(name, {"share": share}, losses, holds))
    return tuple(options)


def _tried(general: "Fit", domain: "Fit") -> tuple[float, float]:
    """The domain shares between which runs were fitted; nothing holds a law to sense beyond them."""
    low, high = _own_shares(domain)
    general_low, general_high = _own_shares(general)
    return max(low, 1 - general_high), min(high, 1 - general_low)


def _own_shares(fit: "Fit") -> tuple[float, float]:
    return fit.ranges.get("ratio", fit.ranges.get(f"w_{fit.eval}", (0.0, 1.0)))


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
    """(share of least general loss, share of least domain loss under the limit or NaN), a value a draw.

    A law whose domain loss falls with the share has its best at the largest share allowed; no law is assumed to.
    """
    draws = len(general_loss(np.zeros(1)))
    lowest = d.minimise(general_loss, *tried, draws)
    best = d.minimise(lambda s: np.where(general_loss(s) <= limit, domain_loss(s), np.inf), *tried, draws)
    # A grid can step over a narrow feasible stretch around the least general loss.
    narrow = np.isnan(best) & (general_loss(lowest[:, None])[:, 0] <= limit[:, 0])
    return lowest, np.where(narrow, lowest, best)


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
    spread = f"{level:.0%} interval {d.spread(*span)}"
    if confidence is not None and supported and point < estimate - 1e-9:
        return (
            f"{d.percent(point)} {domain} text, {d.percent(1 - point)} {general} text: the ceiling on the {general} loss "
            f"holds there with a probability of {holds:.0%}. The predicted loss meets it at {d.percent(estimate)} ({spread})."
        )
    if not supported:
        return f"These runs cannot say which share of {domain} text: {spread}."
    if point == 1:
        return f"{domain} text only ({spread}): the ceiling on the {general} loss never binds."
    if point == largest and not binds:
        return (
            f"{d.percent(point)} {domain} text, {d.percent(1 - point)} {general} text ({spread}), the largest share "
            f"that any run tried: the ceiling on the {general} loss allows it, and larger ones are unknown."
        )
    why = "" if binds else f", where the {domain} loss is least; the ceiling on the {general} loss does not bind"
    return f"{d.percent(point)} {domain} text, {d.percent(1 - point)} {general} text ({spread}){why}."


def _silent(domain: str, x: Mapping[str, float]) -> str:
    return (
        f"These runs say nothing about {d.count(x['params'])} parameters and {d.count(x['tokens'])} tokens: no share of "
        f"{domain} text can be recommended from so far away."
    )


def _proportional(corpus_tokens: Mapping[str, float], general: str, domain: str) -> float:
    for name in (general, domain):
        if name not in corpus_tokens:
            raise DecisionError(f"corpus_tokens has no {name}; it has {', '.join(corpus_tokens) or 'none'}")
        d.check_positive(f"corpus_tokens[{name}]", corpus_tokens[name], "tokens")
    return corpus_tokens[domain] / (corpus_tokens[general] + corpus_tokens[domain])
