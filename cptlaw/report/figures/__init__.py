"""Every static figure: of a trade-off, of losses by share, of checks, of mixes, of one fit, of a selection study."""

from cptlaw.report.figures.by_share import follows_the_mix, loss_by_share
from cptlaw.report.figures.checks import predicted_observed, residuals
from cptlaw.report.figures.drawing import Drawing
from cptlaw.report.figures.mixes import measured, shares
from cptlaw.report.figures.one_fit import curves
from cptlaw.report.figures.trade_off import front, share_distribution

__all__ = [
    "Drawing",
    "curves",
    "follows_the_mix",
    "front",
    "loss_by_share",
    "measured",
    "predicted_observed",
    "residuals",
    "share_distribution",
    "shares",
]
