"""What the fitted runs can say at all: a column that never varied tells nothing of how the loss changes with it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cptlaw.fitting import FitError
from cptlaw.planning.decision import DecisionError
from cptlaw.words import count, percent

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

OTHERS = {"params": "other sizes", "tokens": "other token counts"}  # what runs to add; of a share: other mixes


def check_identified(fit: "Fit", moves: Sequence[str], x: Mapping[str, float], what: str) -> tuple[str, ...]:
    """Refuses a question that the fitted runs cannot answer.

    Args:
      moves: columns that the question compares values of.
      x: columns that it asks at one value.
      what: what it asks, in words, e.g. "which share is best".

    Returns:
      warnings: the columns that never varied, though the question does not depend on it.

    Raises:
      DecisionError: a column of `moves` never varied in the fitted rows, or one of `x` is asked at another value.
    """
    warnings = []
    for name in (name for name in fit.unmoved if name in fit.law.columns):
        held = f"every run fitted for {fit.eval} has {_named(fit, name)}"
        if name in moves:
            more = OTHERS.get(name, "other mixes" if _is_share(name) else f"other values of {name}")
            raise DecisionError(f"{held}, so these runs cannot say {what}: add runs at {more} and fit again")
        warnings.append(f"{held}, so this answer holds there only")
    try:
        fit.check_moved(x)
    except FitError as error:
        raise DecisionError(f"the fit of {fit.eval} cannot say {what}: {error}") from error
    return tuple(warnings)


def pinned(fits: Sequence["Fit"], corpora: Sequence[str]) -> dict[str, float]:
    """Corpus -> its share in every fitted run, for those whose share never varied.

    Raises:
      DecisionError: fits that hold one corpus at different shares.
    """
    found: dict[str, float] = {}
    for fit in fits:
        for name in fit.unmoved:
            corpus = str(fit.eval) if name == "ratio" else name.removeprefix("w_")
            if name not in fit.law.columns or not _is_share(name) or corpus not in corpora:
                continue
            share = fit.ranges[name][1]
            if abs(found.setdefault(corpus, share) - share) > 1e-3:
                raise DecisionError(
                    f"the fits hold {corpus} at different shares ({percent(found[corpus])} and {percent(share)}), and "
                    "none of them says how the losses change with it: fit them on one table"
                )
    return found


def _is_share(name: str) -> bool:
    return name == "ratio" or name.startswith("w_")


def _named(fit: "Fit", name: str) -> str:
    """A column and its one value, in words."""
    value = fit.ranges[name][1]
    if _is_share(name):
        return f"a share of {percent(value)} of {fit.eval if name == 'ratio' else name.removeprefix('w_')}"
    return f"{name} = {count(value)}" if name in OTHERS else f"{name} = {value:g}"
