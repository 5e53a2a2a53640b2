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
    d.check_share_law(general, domain)
    (general, domain), warnings = d.paired(general, domain)

    general_loss, domain_loss = loss_functions(general, domain, x)
    tried = _tried(general, domain)
    lowest, best = _best_shares(general_loss, domain_loss, limit, tried)
    if np.isnan(best[0]):
        least = float(general_loss(lowest[:1])[0, 0])
        raise DecisionError(
            f"no domain share keeps the {names[0]} loss under {limit:.4f}: at {d.count(params)} parameters and "
            f"{d.count(tokens)} tokens the smallest predicted is {least:.4f}, at a domain share of "
            f"{d.percent(lowest[0])}. Allow at least {least / base_loss - 1:+.1%} over the base model's {base_loss:.4f}"
        )
    infeasible = np.isnan(best[1:])
    shares = np.where(infeasible, lowest[1:], best[1:])
    point = float(best[0])
    span = d.interval(shares, wide)

    at_point = {names[0]: general_loss(np.array([point])), names[1]: domain_loss(np.array([point]))}
    each = np.concatenate([[point], shares])[:, None]
    given_up = at_point[names[1]][1:, 0] - domain_loss(each)[1:, 0]
    # A resample whose ceiling nothing meets is charged only for what the best share would have saved.
    over = at_point[names[0]][1:, 0] - np.maximum(limit, general_loss(each)[1:, 0])
    regret = np.maximum(np.where(infeasible, 0, given_up), 0) + np.maximum(over, 0)

    rules = RULES
    if corpus_tokens is not None:
        rules = RULES | {"proportional to size": _proportional(corpus_tokens, names[0], names[1])}
    functions = {names[0]: general_loss, names[1]: domain_loss}
    supported = span[1] - span[0] < d.WIDE
    binds = bool(np.isclose(at_point[names[0]][0, 0], limit, rtol=1e-6))
    if infeasible.any():
        warnings += (f"in {np.mean(infeasible):.0%} of resamples no share meets the ceiling; they count as their best",)
    return Decision(
        kind="trade-off",
        question=f"Which share of {names[1]} text gives the smallest {names[1]} loss while the {names[0]} "
        f"loss stays at or under {limit:.4f} nats ({limit / base_loss - 1:+.1%} over the base model), at "
        f"{d.count(params)} parameters and {d.count(tokens)} tokens?",
        answer=_answer(names[1], names[0], point, span, level, supported, binds, tried[1]),
        inputs={
            **x,
            "base_loss": base_loss,
            "ceiling": limit,
            "tolerance": limit / base_loss - 1,
            "general": names[0],
            "domain": names[1],
        },
        point={"share": point},
        interval={"share": span},
        samples={"share": shares},
        level=level,
        agreement=float(np.mean(np.abs(shares - point) <= AGREE)),
        agreement_means=f"their own best share is within {100 * AGREE:.0f} points of it",
        regret=d.summarise_regret(regret),
        losses={name: d.banded(value[:, 0], wide) for name, value in at_point.items()},
        supported=supported,
        options=rules_of_thumb(rules, functions, wide, (names[0], limit)),
        extrapolation=d.extrapolation(general, x | {"ratio": 1 - point})
        + d.extrapolation(domain, x | {"ratio": point}),
        warnings=warnings,
    )


def base_loss(table: pd.DataFrame, corpus: str, params: float) -> float:
    """The base model's loss of a corpus: the table's row at zero tokens and this size.

    Raises:
      DecisionError: there is none; names the sizes that have one.
    """
    rows = table[runs.finished(table) & (table["eval"] == corpus)]
    rows = rows[rows["tokens"] == 0] if {"params", "tokens"} <= set(rows) else rows[:0]
    found = rows.loc[rows["params"] == params, "loss"]
    if found.empty:
        known = ", ".join(d.count(n) for n in sorted(rows["params"].unique())) if len(rows) else "none"
        raise DecisionError(
            f"no base loss of {corpus} at {d.count(params)} parameters: a row at zero tokens gives it, and there are "
            f"such rows for {known}"
        )
    return float(found.iloc[0])


def loss_functions(general: "Fit", domain: "Fit", x: Mapping[str, float]) -> tuple[LossAt, LossAt]:
    """Both corpora's losses as functions of the domain share, each (K,) or (S + 1, K) -> (S + 1, K)."""

    def of(fit: "Fit", own: Callable[[np.ndarray], np.ndarray]) -> LossAt:
        def at(share: np.ndarray) -> np.ndarray:
            # Laws of several corpora read the shares by name.
            named = {f"w_{general.eval}": 1 - share, f"w_{domain.eval}": share}
            return d.losses(fit, {**x, **named, "ratio": own(share)})

        return at

    return of(general, lambda share: 1 - share), of(domain, lambda share: share)


def rules_of_thumb(
    rules: Mapping[str, float], loss_at: Mapping[str, LossAt], level: float, ceiling: tuple[str, float] | None = None
) -> tuple[Option, ...]:
    """Options at fixed shares: what each predicts for every corpus, and how often it keeps a (corpus, loss) ceiling."""
    options = []
    for name, share in rules.items():
        found = {corpus: at(np.array([share]))[:, 0] for corpus, at in loss_at.items()}
        losses = {corpus: d.banded(values, level) for corpus, values in found.items()}
        holds = None if ceiling is None else float(np.mean(found[ceiling[0]][1:] <= ceiling[1]))
        options.append(Option(name, {"share": share}, losses, holds))
    return tuple(options)


def _tried(general: "Fit", domain: "Fit") -> tuple[float, float]:
    """The domain shares between which runs were fitted; nothing holds a law to sense beyond them."""
    low, high = domain.ranges.get("ratio", (0.0, 1.0))
    general_low, general_high = general.ranges.get("ratio", (0.0, 1.0))
    return max(low, 1 - general_high), min(high, 1 - general_low)


def _best_shares(
    general_loss: LossAt, domain_loss: LossAt, limit: float, tried: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """(share of least general loss, share of least domain loss under the limit or NaN), a value a draw.

    A law whose domain loss falls with the share has its best at the largest share allowed; no law is assumed to.
    """
    draws = len(general_loss(np.zeros(1)))
    lowest = d.minimise(general_loss, *tried, draws)
    best = d.minimise(lambda s: np.where(general_loss(s) <= limit, domain_loss(s), np.inf), *tried, draws)
    # A grid can step over a narrow feasible stretch around the least general loss.
    narrow = np.isnan(best) & (general_loss(lowest[:, None])[:, 0] <= limit)
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
) -> str:
    spread = f"{level:.0%} interval {d.spread(*span)}"
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


def _proportional(corpus_tokens: Mapping[str, float], general: str, domain: str) -> float:
    for name in (general, domain):
        if name not in corpus_tokens:
            raise DecisionError(f"corpus_tokens has no {name}; it has {', '.join(corpus_tokens) or 'none'}")
        d.check_positive(f"corpus_tokens[{name}]", corpus_tokens[name], "tokens")
    return corpus_tokens[domain] / (corpus_tokens[general] + corpus_tokens[domain])
