"""The whole front of general against domain loss over the share, and the share that gives one wanted loss."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw.planning import decision as d
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.influence import with_influence
from cptlaw.planning.tradeoff import AGREE, RULES, loss_functions, rules_of_thumb

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit


def pareto(
    general: "Fit", domain: "Fit", *, params: float, tokens: float, points: int = 21, level: float = 0.9
) -> Decision:
    """Both losses at evenly spaced domain shares, with bands; no single share is recommended.

    A row's "beaten in" is the share of resamples in which some other share is better for both corpora.
    """
    d.check_positive("params", params, "parameters")
    d.check_positive("tokens", tokens, "tokens")
    wide = d.expanded(level, general, domain)
    d.check_share_law(general, domain)
    if points < 2:
        raise DecisionError(f"points {points}: a front needs at least 2")
    (general, domain), warnings = d.paired(general, domain)
    shares = np.linspace(0, 1, points)
    fine = np.linspace(0, 1, 20 * (points - 1) + 1)
    both = [at(fine) for at in loss_functions(general, domain, {"params": params, "tokens": tokens})]
    worse = np.zeros(both[0].shape, dtype=bool)
    for i in range(len(fine)):
        better = (both[0] < both[0][:, i : i + 1]) & (both[1] < both[1][:, i : i + 1])
        worse[:, i] = better.any(axis=1)
    rows: list[dict[str, Any]] = []
    for share, i in zip(shares, range(0, len(fine), 20)):
        row: dict[str, Any] = {"share": float(share)}
        for fit, found in zip((general, domain), both):
            row |= {f"{fit.eval} {key}": value for key, value in d.banded(found[:, i], wide).items()}
        rows.append(row | {"beaten in": float(worse[1:, i].mean())})
    kept = fine[~worse[0]]
    reach = tuple(
        dict.fromkeys(
            note
            for share in (kept.min(), kept.max())
            for fit, own in ((general, 1 - share), (domain, share))
            for note in d.extrapolation(fit, {"params": params, "tokens": tokens, "ratio": float(own)})
        )
    )
    first, last = (np.argmin(np.abs(fine - end)) for end in (kept.min(), kept.max()))
    gain, cost = both[1][0, first] - both[1][0, last], both[0][0, last] - both[0][0, first]
    return Decision(
        kind="pareto",
        question=f"What does a lower {domain.eval} loss cost in {general.eval} loss, at {d.count(params)} parameters "
        f"and {d.count(tokens)} tokens?",
        answer=f"From {d.percent(kept.min())} to {d.percent(kept.max())} {domain.eval} text the {domain.eval} loss "
        f"falls by {gain:.3f} nats and the {general.eval} loss rises by {cost:.3f}.",
        inputs={"params": params, "tokens": tokens, "general": general.eval, "domain": domain.eval},
        point={},
        level=level,
        extrapolation=reach,
        rows=tuple(rows),
        warnings=warnings,
    )


@with_influence
def share_for_loss(fit: "Fit", *, loss: float, params: float, tokens: float, level: float = 0.9) -> Decision:
    """The corpus's own share at which its loss is `loss` nats per token: the trade-off, inverted.

    Where the law passes the value more than once, the smallest share.

    Raises:
      DecisionError: no share has this loss; gives the range that shares do have.
    """
    name = d.corpus(fit)
    d.check_positive("loss", loss, "nats per token")
    d.check_positive("params", params, "parameters")
    d.check_positive("tokens", tokens, "tokens")
    wide = d.expanded(level, fit)
    d.check_share_law(fit)
    (fit,), warnings = d.paired(fit)
    x = {"params": params, "tokens": tokens}

    def exactly(share: np.ndarray) -> np.ndarray:
        return d.losses(fit, x | {"ratio": share})

    loss_at = d.tabulated(fit, exactly)
    grid = np.linspace(0, 1, 401)
    found = loss_at(grid)
    over = found > loss
    crosses = over[:, 1:] != over[:, :-1]
    if not crosses[0].any():
        raise DecisionError(
            f"no share of {name} gives a loss of {loss:.4f} at {d.count(params)} parameters and "
            f"{d.count(tokens)} tokens: the law's losses go from {found[0].min():.4f} to {found[0].max():.4f}"
        )
    first = np.argmax(crosses, axis=1)
    low, high = grid[first], grid[first + 1]
    side = over[np.arange(len(over)), first]
    for _ in range(50):
        middle = (low + high) / 2
        same = (loss_at(middle[:, None])[:, 0] > loss) == side
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    # A resample that never has this loss comes nearest to it at an end.
    nearest = grid[np.argmin(np.abs(found - loss), axis=1)]
    shares = np.where(crosses.any(axis=1), (low + high) / 2, nearest)
    missed = 1 - crosses[1:].any(axis=1).mean()
    if missed:
        warnings += (f"in {missed:.0%} of resamples no share has this loss; the nearest counts",)
    point = float(shares[0])
    span = d.interval(shares[1:], wide)
    supported = span[1] - span[0] < d.WIDE
    at_point = loss_at(np.array([point]))[:, 0]
    return Decision(
        kind="share-for-loss",
        question=f"Which share of {name} text gives a {name} loss of {loss:.4f} nats at "
        f"{d.count(params)} parameters and {d.count(tokens)} tokens?",
        answer=f"{d.percent(point)} {name} text ({level:.0%} interval {d.spread(*span)})."
        if supported
        else f"These runs cannot say which share of {name} text: {level:.0%} interval {d.spread(*span)}.",
        inputs=x | {"loss": loss, "domain": name},
        point={"share": point},
        interval={"share": span},
        samples={"share": shares[1:]},
        level=level,
        agreement=float(np.mean(np.abs(shares[1:] - point) <= AGREE)),
        agreement_means=f"their own share is within {100 * AGREE:.0f} points of it",
        regret=d.summarise_regret(np.abs(at_point[1:] - loss)),
        losses={name: d.banded(at_point, wide)},
        supported=supported,
        options=rules_of_thumb(RULES, {name: loss_at}, wide),
        extrapolation=d.extrapolation(fit, x | {"ratio": point}),
        warnings=warnings,
    )
