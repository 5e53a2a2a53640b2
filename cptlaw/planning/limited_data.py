"""Usage 2 of the D-CPT Law: little domain text, so which share of the mix should it be?

With D_d domain tokens the mix lasts D = D_d / r: a smaller share trains longer. Repetition counts by effective data
(Muennighoff et al. 2023): U unique tokens seen e times are worth U + U R (1 - exp(-(e - 1) / R)).
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from cptlaw.planning import decision as d
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.influence import with_influence
from cptlaw.planning.tradeoff import AGREE, RULES, rules_of_thumb

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

BILLION = 1e9
# Muennighoff et al.'s R_D. Fitted on one corpus from scratch; in mixtures repeats have paid for longer.
REPETITION = 15.387756


@with_influence
def limited_data(
    domain: "Fit",
    *,
    params: float,
    domain_tokens: float,
    tokens: float = math.inf,
    max_epochs: float = 1.0,
    repetition: float = REPETITION,
    level: float = 0.9,
) -> Decision:
    """The share that makes the most of `domain_tokens` unique tokens of domain text.

    Args:
      domain: fit of the domain loss, a law of params, tokens and the domain's share.
      params: size of the planned model.
      domain_tokens: unique tokens there are.
      tokens: most tokens that can be trained on, both corpora together.
      max_epochs: most passes over the domain text.
      repetition: R above, in epochs.
      level: of every interval.

    Raises:
      DecisionError: a number out of range.
    """
    name = d.corpus(domain)
    d.check_positive("params", params, "parameters")
    d.check_positive("domain_tokens", domain_tokens, "tokens")
    d.check_positive("repetition", repetition, "epochs")
    wide = d.expanded(level, domain)
    if tokens != math.inf:
        d.check_positive("tokens", tokens, "tokens")
    if not max_epochs >= 1:
        raise DecisionError(f"max_epochs {max_epochs:g}: at least one pass, so 1 or more")
    d.check_share_law(domain)
    (domain,), warnings = d.paired(domain)
    # Without a bound on the tokens a share near 0 trains for ever: nothing below one in a thousand is considered.
    lowest = 1e-6 if math.isfinite(tokens) else 1e-3

    def seen(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, total tokens) of a share: all the domain text as often as allowed, or until the tokens are spent."""
        epochs = np.minimum(max_epochs, share * tokens / domain_tokens)
        return epochs, epochs * domain_tokens / share

    def exactly(share: np.ndarray) -> np.ndarray:
        epochs, _ = seen(share)
        return d.losses(domain, {"params": params, "tokens": effective(epochs) / share, "ratio": share})

    def effective(epochs: np.ndarray) -> np.ndarray:
        beyond = repetition * (1 - np.exp(-np.maximum(epochs - 1, 0) / repetition))
        return domain_tokens * (np.minimum(epochs, 1) + beyond)

    loss = d.tabulated(domain, lambda share: exactly(np.maximum(share, lowest)))
    best = d.minimise(loss, lowest, 1.0, d.draws(domain) + 1)
    point, shares = float(best[0]), best[1:]
    at_point = loss(np.array([point]))[:, 0]
    span = d.interval(shares, wide)
    epochs, total = (float(v) for v in seen(np.array(point)))

    supported, answer = True, f"{d.percent(point)} {name} text"
    if point <= lowest * 1.01:
        supported = False
        answer = f"The law wants ever less {name} text and ever more tokens: give the tokens that can be trained on"
    elif point > 1 - 1e-6:
        answer = f"{name} text only"
    elif math.isfinite(total):
        answer += f", {d.count(total)} tokens in all"
    if supported and span[1] - span[0] >= d.WIDE:
        supported, answer = False, f"These runs cannot say which share of {name} text"
    if (
        (reach := forced(domain)) is not None
        and domain_tokens >= reach
        and point > 1 - 1e-6
        and not math.isfinite(tokens)
    ):
        supported = False
        answer = (
            "This fit cannot say: its constraint (loss falls with the share) allows no other answer than "
            f"{name} text only above {d.count(reach)} tokens of it. Fit with --law dcpt:constrained=false"
        )
    x = {"params": params, "tokens": total, "ratio": point}
    return Decision(
        kind="limited-data",
        question=f"With {d.count(domain_tokens)} tokens of {name} text, which share of the mix gives the "
        f"smallest {name} loss at {d.count(params)} parameters?",
        answer=f"{answer} ({level:.0%} interval {d.spread(*span)}).",
        inputs={
            "params": params, "domain_tokens": domain_tokens, "max_epochs": max_epochs, "repetition": repetition,
            "tokens": tokens if math.isfinite(tokens) else None, "domain": name,
            "boundary_tokens": boundary(domain),
        },
        point={"share": point, "tokens": total, "epochs": epochs},
        interval={"share": span, "tokens": d.interval(seen(shares)[1], wide)},
        samples={"share": shares, "tokens": seen(shares)[1]},
        level=level,
        agreement=float(np.mean(np.abs(shares - point) <= AGREE)),
        agreement_means=f"their own best share is within {100 * AGREE:.0f} points of it",
        regret=d.summarise_regret(at_point[1:] - loss(best[:, None])[1:, 0]),
        losses={name: d.banded(at_point, wide)},
        supported=supported,
        options=rules_of_thumb(RULES, {name: loss}, wide),
        extrapolation=d.extrapolation(domain, x),
        warnings=warnings,
    )  # fmt: skip


def boundary(fit: "Fit") -> float | None:
    """Domain tokens below which, seen once and with tokens unbounded, the best share is inside (0, 1) [closed form].

    d/dr of B r^(eta+beta)/D_d^beta + C/(r+eps)^gamma at r = 1 is positive exactly below it. None for other laws.
    """
    p = fit.params
    if fit.law.name != "dcpt" or not p["B"] > 0 or not p["C"] > 0:
        return None
    slope = p["B"] * (p["eta"] + p["beta"]) * (1 + p["eps"]) ** (p["gamma"] + 1) / (p["gamma"] * p["C"])
    return float(BILLION * slope ** (1 / p["beta"]))


def forced(fit: "Fit") -> float | None:
    """Domain tokens from which on a constrained fit (C > C0) can only answer 1; None if the fit is free."""
    p = fit.params
    if "D_min" not in p:
        return None
    return float(BILLION * p["D_min"] * (1 + p["beta"] / p["eta"]) ** (1 / p["beta"]))
