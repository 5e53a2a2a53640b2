"""Usage 2 of the D-CPT Law: little domain text, so which share of the mix should it be?

With D_d domain tokens the mix lasts D = D_d / r: a smaller share trains longer. Repetition counts by effective data
(Muennighoff et al. 2023): U unique tokens seen e times are worth U + U R (1 - exp(-(e - 1) / R)).
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from cptlaw.laws.base import BILLION
from cptlaw.laws.chinchilla import effective
from cptlaw.planning.decision import Decision, DecisionError, with_rejections
from cptlaw.planning.identified import check_identified
from cptlaw.planning.influence import with_influence
from cptlaw.planning.numbers import (
    banded,
    check_positive,
    corpus,
    expanded,
    interval,
    losses,
    minimise,
    notes_of_reach,
    paired,
    resamples,
    summarise_regret,
    tabulated,
)
from cptlaw.planning.shares import AGREE, RULES, WIDE, agreement, check_share_law, rules_of_thumb
from cptlaw.words import count, percent, spread

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

# Muennighoff et al.'s R_D. Fitted on one corpus from scratch; in mixtures repeats have paid for longer.
REPETITION = 15.387756


@with_rejections
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
    name = corpus(domain)
    check_positive("params", params, "parameters")
    check_positive("repetition", repetition, "epochs")
    wide = expanded(level, domain)
    text = _Text(check_positive("domain_tokens", domain_tokens, "tokens"), tokens, max_epochs, repetition)
    text.check()
    check_share_law(domain)
    (domain,), warnings = paired(domain)
    asked = f"which share of {name} text to take"
    warnings += check_identified(domain, ("ratio", "tokens"), {"params": params}, asked)

    def exactly(share: np.ndarray) -> np.ndarray:
        share = np.maximum(share, text.smallest_share)
        return losses(domain, {"params": params, "tokens": text.worth(share), "ratio": share})

    loss = tabulated(domain, exactly)
    best = minimise(loss, text.smallest_share, 1.0, resamples(domain) + 1)
    point, shares = float(best[0]), best[1:]
    at_point = loss(np.array([point]))[:, 0]
    span = interval(shares, wide)
    epochs, total = (float(v) for v in text.seen(np.array(point)))
    totals = text.seen(shares)[1]
    supported, answer = _answer(domain, text, point, span)
    return Decision(
        kind="limited-data",
        question=f"With {count(domain_tokens)} tokens of {name} text, which share of the mix gives the "
        f"smallest {name} loss at {count(params)} parameters?",
        answer=f"{answer} ({level:.0%} interval {spread(*span)}).",
        inputs={
            "params": params, "domain_tokens": domain_tokens, "max_epochs": max_epochs, "repetition": repetition,
            "tokens": tokens if math.isfinite(tokens) else None, "domain": name,
            "boundary_tokens": boundary(domain),
        },
        point={"share": point, "tokens": total, "epochs": epochs},
        interval={"share": span, "tokens": interval(totals, wide)},
        samples={"share": shares, "tokens": totals},
        level=level,
        agreement=agreement(point, shares),
        agreement_means=f"their own best share is within {100 * AGREE:.0f} points of it",
        regret=summarise_regret(at_point[1:] - loss(best[:, None])[1:, 0]),
        losses={name: banded(at_point, wide)},
        supported=supported,
        options=rules_of_thumb(RULES, {name: loss}, wide, tried=domain.ranges.get("ratio", (0.0, 1.0))),
        extrapolation=notes_of_reach((domain, {"params": params, "tokens": total, "ratio": point})),
        warnings=warnings,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Text:
    """The domain text there is and how it may be used: unique tokens, most tokens of both corpora, most passes, R."""

    unique: float
    most_tokens: float
    most_epochs: float
    repetition: float

    def check(self) -> None:
        if self.most_tokens != math.inf:
            check_positive("tokens", self.most_tokens, "tokens")
        if not self.most_epochs >= 1:
            raise DecisionError(f"max_epochs {self.most_epochs:g}: at least one pass, so 1 or more")

    @property
    def smallest_share(self) -> float:
        """Without a bound on the tokens a share near 0 trains for ever: none below one in a thousand is considered."""
        return 1e-6 if math.isfinite(self.most_tokens) else 1e-3

    def seen(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, total tokens) of a share: all the domain text as often as allowed, or until the tokens are spent."""
        epochs = np.minimum(self.most_epochs, share * self.most_tokens / self.unique)
        return epochs, epochs * self.unique / share

    def worth(self, share: np.ndarray) -> np.ndarray:
        """Total tokens of a share, with the domain text counted as effective data."""
        epochs, _ = self.seen(share)
        total = epochs * self.unique
        return effective(total, np.minimum(total, self.unique), self.repetition, np) / share


def _answer(domain: "Fit", text: _Text, point: float, span: tuple[float, float]) -> tuple[bool, str]:
    """(whether the data carry an answer, the answer without its interval)."""
    name, total = corpus(domain), float(text.seen(np.array(point))[1])
    only = point > 1 - 1e-6
    reach = forced(domain)
    if reach is not None and text.unique >= reach and only and not math.isfinite(text.most_tokens):
        return False, (
            "This fit cannot say: its constraint (loss falls with the share) allows no other answer than "
            f"{name} text only above {count(reach)} tokens of it. Fit with --law dcpt:constrained=false"
        )
    if point <= text.smallest_share * 1.01:
        return False, (
            f"The law wants ever less {name} text and ever more tokens: give the tokens that can be trained on"
        )
    if span[1] - span[0] >= WIDE:
        return False, f"These runs cannot say which share of {name} text"
    if only:
        return True, f"{name} text only"
    return True, f"{percent(point)} {name} text" + f", {count(total)} tokens in all" * math.isfinite(total)


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
