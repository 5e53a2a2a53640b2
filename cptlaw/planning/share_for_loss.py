"""The trade-off, inverted: the share of a corpus that gives it a wanted loss."""

from typing import TYPE_CHECKING

import numpy as np

from cptlaw.planning.decision import Decision, DecisionError, with_rejections
from cptlaw.planning.identified import check_identified
from cptlaw.planning.influence import with_influence
from cptlaw.planning.numbers import (
    banded,
    check_positive,
    check_run,
    corpus,
    expanded,
    interval,
    losses,
    notes_of_reach,
    paired,
    summarise_regret,
    tabulated,
)
from cptlaw.planning.shares import AGREE, RULES, WIDE, LossAt, agreement, check_share_law, rules_of_thumb
from cptlaw.words import count, percent, spread

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

GRID = 401  # shares between which a crossing is looked for
HALVINGS = 50


@with_rejections
@with_influence
def share_for_loss(fit: "Fit", *, loss: float, params: float, tokens: float, level: float = 0.9) -> Decision:
    """The corpus's own share at which its loss is `loss` nats per token.

    Where the law passes the value more than once, the smallest share.

    Raises:
      DecisionError: no share has this loss; gives the range that shares do have.
    """
    name = corpus(fit)
    check_positive("loss", loss, "nats per token")
    x = check_run(params, tokens)
    wide = expanded(level, fit)
    check_share_law(fit)
    (fit,), warnings = paired(fit)
    warnings += check_identified(fit, ("ratio",), x, f"which share of {name} text gives this loss")

    loss_at = tabulated(fit, lambda share: losses(fit, x | {"ratio": share}))
    shares, crosses = _crossings(loss_at, loss)
    if not crosses[0]:
        found = loss_at(np.linspace(0, 1, GRID))[0]
        raise DecisionError(
            f"no share of {name} gives a loss of {loss:.4f} at {count(params)} parameters and "
            f"{count(tokens)} tokens: the law's losses go from {found.min():.4f} to {found.max():.4f}"
        )
    if missed := 1 - crosses[1:].mean():
        warnings += (f"in {missed:.0%} of resamples no share has this loss; the nearest counts",)
    point = float(shares[0])
    span = interval(shares[1:], wide)
    supported = span[1] - span[0] < WIDE
    at_point = loss_at(np.array([point]))[:, 0]
    return Decision(
        kind="share-for-loss",
        question=f"Which share of {name} text gives a {name} loss of {loss:.4f} nats at "
        f"{count(params)} parameters and {count(tokens)} tokens?",
        answer=f"{percent(point)} {name} text ({level:.0%} interval {spread(*span)})."
        if supported
        else f"These runs cannot say which share of {name} text: {level:.0%} interval {spread(*span)}.",
        inputs=x | {"loss": loss, "domain": name},
        point={"share": point},
        interval={"share": span},
        samples={"share": shares[1:]},
        level=level,
        agreement=agreement(point, shares[1:]),
        agreement_means=f"their own share is within {100 * AGREE:.0f} points of it",
        regret=summarise_regret(np.abs(at_point[1:] - loss)),
        losses={name: banded(at_point, wide)},
        supported=supported,
        options=rules_of_thumb(RULES, {name: loss_at}, wide, tried=fit.ranges.get("ratio", (0.0, 1.0))),
        extrapolation=notes_of_reach((fit, x | {"ratio": point})),
        warnings=warnings,
    )


def _crossings(loss_at: LossAt, loss: float) -> tuple[np.ndarray, np.ndarray]:
    """(smallest share at which each draw's loss passes `loss`, whether it does), each (S + 1,), by bisection.

    A draw whose loss never is `loss` gets the share that comes nearest.
    """
    grid = np.linspace(0, 1, GRID)
    found = loss_at(grid)
    over = found > loss
    changes = over[:, 1:] != over[:, :-1]
    first = np.argmax(changes, axis=1)
    low, high = grid[first], grid[first + 1]
    side = over[np.arange(len(over)), first]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        same = (loss_at(middle[:, None])[:, 0] > loss) == side
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    nearest = grid[np.argmin(np.abs(found - loss), axis=1)]
    crosses = changes.any(axis=1)
    return np.where(crosses, (low + high) / 2, nearest), crosses
