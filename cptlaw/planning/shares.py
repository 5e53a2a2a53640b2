"""What the questions about one corpus's share have in common: rules of thumb, and losses as functions of the share."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cptlaw.planning.decision import DecisionError, Option
from cptlaw.planning.numbers import banded, corpus, losses, tabulated

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

RULES = {"domain only": 1.0, "5% replay": 0.95, "25% replay": 0.75}  # rules of thumb: name -> domain share
AGREE = 0.05  # shares closer than this are the same decision
UNTRIED = 1e-3  # a corpus whose largest fitted share is at most this was not trained on
WIDE = 0.8  # an interval of a share this wide or wider settles nothing
LossAt = Callable[[np.ndarray], np.ndarray]


def check_share_law(*fits: "Fit") -> None:
    """Refuses two fits of one corpus, and laws that do not read the mix."""
    names = [corpus(fit) for fit in fits]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DecisionError(f"{len(fits)} fits, but {len(twice)} of them of {twice[0]}: give one of each corpus")
    for fit in fits:
        if not any(name == "ratio" or name.startswith("w_") for name in fit.law.columns):
            raise DecisionError(f"the law {fit.law.name} of {fit.eval} does not read the mix, so no share follows")


def absent(fit: "Fit") -> dict[str, float]:
    """`w_<corpus>` -> 0 of the corpora that the law reads and no fitted run trained on: a question leaves them out."""
    return {name: 0.0 for name in fit.unmoved if name.startswith("w_") and fit.ranges[name][1] <= UNTRIED}


def loss_functions(general: "Fit", domain: "Fit", x: Mapping[str, float]) -> tuple[LossAt, LossAt]:
    """Both corpora's losses as functions of the domain share, each (K,) or (S + 1, K) -> (S + 1, K)."""

    def of(fit: "Fit", own: Callable[[np.ndarray], np.ndarray]) -> LossAt:
        def at(share: np.ndarray) -> np.ndarray:
            # Laws of several corpora read the shares by name.
            named = {f"w_{general.eval}": 1 - share, f"w_{domain.eval}": share}
            return losses(fit, {**absent(fit), **x, **named, "ratio": own(share)})

        return tabulated(fit, at)

    return of(general, lambda share: 1 - share), of(domain, lambda share: share)


ROUNDING = 1e-9  # of a share


def rules_of_thumb(
    rules: Mapping[str, float],
    loss_at: Mapping[str, LossAt],
    level: float,
    ceiling: tuple[str, np.ndarray] | None = None,
    tried: tuple[float, float] = (0.0, 1.0),
) -> tuple[Option, ...]:
    """Options at fixed shares: what each predicts for every corpus, and how often it keeps a ceiling.

    Args:
      ceiling: a corpus, and its limit in every draw, (S + 1, 1).
      tried: smallest and largest share of the fitted runs; an option beyond them says so.
    """
    options = []
    for name, share in rules.items():
        found = {corpus: at(np.array([share]))[:, 0] for corpus, at in loss_at.items()}
        bands = {corpus: banded(values, level) for corpus, values in found.items()}
        holds = None if ceiling is None else float(np.mean(found[ceiling[0]][1:] <= ceiling[1][1:, 0]))
        options.append(
            Option(name, {"share": share}, bands, holds, not tried[0] - ROUNDING <= share <= tried[1] + ROUNDING)
        )
    return tuple(options)


def agreement(point: float, shares: np.ndarray) -> float:
    """Part of the resamples' own shares (S,) that are within `AGREE` of the recommended one."""
    return float(np.mean(np.abs(shares - point) <= AGREE))
