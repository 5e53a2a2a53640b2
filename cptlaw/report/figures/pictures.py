"""What `fit.plot()` and `decision.plot()` show: figures of the report by themselves."""

from typing import TYPE_CHECKING

from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.report.figures import mixes, one_fit, trade_off
from cptlaw.report.figures.drawing import Drawing

if TYPE_CHECKING:
    from cptlaw.fitting import Fit


def fit(of: "Fit", level: float = 0.9) -> Drawing:
    """Loss against each column that the law reads, with its intervals and the rows."""
    return one_fit.curves(of, level)


def decision(of: Decision) -> Drawing:
    """How sure the recommended share, or every share of a mixture, is.

    Raises:
      DecisionError: the question's answer is no share.
    """
    if of.kind == "mixture" and of.interval:
        return mixes.shares(of)
    if "share" not in of.interval or not len(of.samples.get("share", ())):
        raise DecisionError(f"a decision of {of.kind} has no picture of its own; print it, or write the report")
    return trade_off.share_distribution(of)
