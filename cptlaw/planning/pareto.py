"""The whole front of general against domain loss over the share."""

from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw.planning.decision import Decision, DecisionError, with_rejections
from cptlaw.planning.identified import check_identified
from cptlaw.planning.numbers import banded, check_run, expanded, notes_of_reach, paired
from cptlaw.planning.shares import check_share_law, loss_functions
from cptlaw.words import count, percent

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

FINE = 20  # shares between two points of the front among which a better one is looked for


@with_rejections
def pareto(
    general: "Fit", domain: "Fit", *, params: float, tokens: float, points: int = 21, level: float = 0.9
) -> Decision:
    """Both losses at evenly spaced domain shares, with bands; no single share is recommended.

    A row's "beaten in" is the share of resamples in which some other share is better for both corpora.
    """
    x = check_run(params, tokens)
    wide = expanded(level, general, domain)
    check_share_law(general, domain)
    if points < 2:
        raise DecisionError(f"points {points}: a front needs at least 2")
    (general, domain), warnings = paired(general, domain)
    moves = ("ratio", f"w_{general.eval}", f"w_{domain.eval}")
    for fit in (general, domain):
        warnings += check_identified(fit, moves, x, "what a share costs")
    shares = np.linspace(0, 1, FINE * (points - 1) + 1)
    of_general, of_domain = (at(shares) for at in loss_functions(general, domain, x))
    beaten = _beaten(of_general, of_domain)
    rows: list[dict[str, Any]] = []
    for i in range(0, len(shares), FINE):
        row: dict[str, Any] = {"share": float(shares[i])}
        for fit, found in ((general, of_general), (domain, of_domain)):
            row |= {f"{fit.eval} {key}": value for key, value in banded(found[:, i], wide).items()}
        rows.append(row | {"beaten in": float(beaten[1:, i].mean())})
    first, last = np.flatnonzero(~beaten[0])[[0, -1]]
    low, high = float(shares[first]), float(shares[last])
    gain, cost = of_domain[0, first] - of_domain[0, last], of_general[0, last] - of_general[0, first]
    return Decision(
        kind="pareto",
        question=f"What does a lower {domain.eval} loss cost in {general.eval} loss, at {count(params)} parameters "
        f"and {count(tokens)} tokens?",
        answer=f"From {percent(low)} to {percent(high)} {domain.eval} text the {domain.eval} loss "
        f"falls by {gain:.3f} nats and the {general.eval} loss rises by {cost:.3f}.",
        inputs={**x, "general": general.eval, "domain": domain.eval},
        point={},
        level=level,
        extrapolation=notes_of_reach(
            (general, x | {"ratio": 1 - low}),
            (domain, x | {"ratio": low}),
            (general, x | {"ratio": 1 - high}),
            (domain, x | {"ratio": high}),
        ),
        rows=tuple(rows),
        warnings=warnings,
    )


def _beaten(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where some other share has less of both losses; losses and result are (S + 1, K), K shares."""
    beaten = np.zeros(first.shape, dtype=bool)
    for i in range(first.shape[1]):
        better = (first < first[:, i : i + 1]) & (second < second[:, i : i + 1])
        beaten[:, i] = better.any(axis=1)
    return beaten
