"""Figures of a trade-off: what a share of domain text buys and costs, and how sure the recommended one is."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cptlaw.planning.decision import Decision
from cptlaw.planning.numbers import corpus
from cptlaw.report import style
from cptlaw.report.figures.by_share import SHARES, along
from cptlaw.report.figures.drawing import NARROW, Drawing, key, legend, line, percents, subplots
from cptlaw.words import percent

if TYPE_CHECKING:
    from cptlaw.fitting import Fit

NEAR = 0.25  # shares as near as this to the recommended ones are shown in any case
LONGER = 3.0  # times that the whole curve's range must be theirs, for the figure to show theirs alone


def front(general: "Fit", domain: "Fit", decision: Decision, confirm: pd.DataFrame | None, level: float) -> Drawing:
    """General against domain loss along the domain share, at the size and tokens of the question."""
    x = {name: decision.inputs[name] for name in ("params", "tokens")}
    # A decision is about the mean of runs.
    g, d = (
        along(fit, x | {"ratio": share}, level, target="mean" if fit.process else None)
        for fit, share in ((general, 1 - SHARES), (domain, SHARES))
    )
    data = pd.DataFrame({"share": SHARES})
    for fit, found in ((general, g), (domain, d)):
        data[f"{fit.eval} loss"], data[f"{fit.eval} low"], data[f"{fit.eval} high"] = found.point, found.low, found.high
    share, ceiling = decision.point["share"], decision.inputs["ceiling"]
    here = [decision.losses[corpus(fit)] for fit in (general, domain)]
    measured = None if confirm is None else [_measured(confirm, corpus(fit)) for fit in (general, domain)]

    ends = [share, *decision.interval["share"]]
    near = (min(ends) - NEAR <= SHARES) & (max(ends) + NEAR >= SHARES)
    marks = [[loss[name] for name in ("point", "low", "high")] for loss in here]
    marks = [[*values, *(measured[i] if measured else ())] for i, values in enumerate(marks)]
    frame = [
        _frame(found.point, near, [*values, *of]) for found, values, of in ((g, marks[0], [ceiling]), (d, marks[1], []))
    ]
    left = [tick for tick in (0, 100) if not all(a <= f.point[tick] <= b for f, (a, b) in zip((g, d), frame))]

    def draw(narrow: bool) -> Figure:
        figure, (axes,) = subplots(1, narrow, 1, height=4.0 if narrow else 4.4, width=NARROW if narrow else 7.2)
        right = frame[0][1]
        axes.set(xlim=frame[0], ylim=frame[1])
        axes.axvspan(ceiling, right, color=style.RULE, alpha=0.45, lw=0)
        axes.axvline(ceiling, color=style.MUTED, lw=1, ls=(0, (4, 3)))
        axes.plot(g.point, d.point, color=style.INK, lw=1.8)
        span = [np.interp(decision.interval["share"], SHARES, found.point) for found in (g, d)]
        inside = np.clip(SHARES, *decision.interval["share"]) == SHARES
        stretch = [np.r_[ends[0], found.point[inside], ends[1]] for ends, found in zip(span, (g, d))]
        axes.plot(*stretch, color=style.ACCENT, lw=7, alpha=0.35)
        ticks = [t for t in (0, 25, 50, 75, 100) if abs(t - 100 * share) > 6 and t not in left]
        for tick in ticks:
            axes.plot(g.point[tick], d.point[tick], "o", ms=4.5, mfc=style.PAPER, mec=style.INK, mew=1.1)
            axes.annotate(
                f"{tick}%",
                (g.point[tick], d.point[tick]),
                (5, 5),
                textcoords="offset points",
                color=style.MUTED,
                annotation_clip=True,
            )
        errors = [[[loss["point"] - loss["low"]], [loss["high"] - loss["point"]]] for loss in here]
        axes.errorbar(here[0]["point"], here[1]["point"], errors[1], errors[0], "o", ms=8, color=style.ACCENT, lw=1.2)
        handles = [key("o", style.ACCENT, f"recommended, {percent(share)}")]
        if measured is not None and all(measured):
            axes.plot(*measured, "*", ms=14, mfc=style.BAD, mec=style.PAPER, mew=0.8, zorder=4)
            handles.append(key("*", style.BAD, "measured afterwards"))
        legend(figure, handles, figure.get_figwidth(), loc="outside upper left")
        rise = f"ceiling, {decision.inputs['tolerance']:+.1%}"
        where = axes.get_xaxis_transform()
        axes.annotate(
            rise,
            (ceiling, 0.55),
            (3, 0),
            where,
            textcoords="offset points",
            color=style.MUTED,
            rotation=90,
            va="center",
        )
        axes.set(xlabel=f"{general.eval} loss (nats per token)", ylabel=f"{domain.eval} loss (nats per token)")
        return figure

    rest = ""
    if left:
        gone = (f"{tick}% ({g.point[tick]:.2f}, {d.point[tick]:.2f})" for tick in left)
        rest = f" The curve goes on beyond the frame, to {' and '.join(gone)}."
    return Drawing(
        "front",
        f"What {domain.eval} text buys, and what it costs",
        f"Each point of the curve is a mix, labelled with its share of {domain.eval} text: to the right the "
        f"{general.eval} loss rises, downwards the {domain.eval} loss falls. The shaded stretch is the interval of the "
        f"recommended share; bars are {decision.level:.0%} intervals of the expected losses, those of the mean of "
        f"runs.{rest}",
        f"Curve of {domain.eval} loss against {general.eval} loss as the {domain.eval} share goes from 0 to 100%. At "
        f"the recommended {percent(share)} the predicted losses are {here[0]['point']:.3f} ({general.eval}) and "
        f"{here[1]['point']:.3f} ({domain.eval}); the ceiling on {general.eval} is {ceiling:.3f}.",
        data,
        draw,
    )


def _frame(values: np.ndarray, near: np.ndarray, marks: list[float]) -> tuple[float, float]:
    """The range of an axis: of the whole curve, or of its part `near` the answer where the rest would squash it."""
    whole, part = values, values[near]
    shown = np.concatenate([whole if np.ptp(whole) <= LONGER * np.ptp(part) else part, marks])
    margin = 0.08 * np.ptp(shown)
    return float(shown.min() - margin), float(shown.max() + margin)


def share_distribution(decision: Decision) -> Drawing:
    """The share that each draw would have chosen."""
    name, values = next(iter(decision.samples.items()))
    point, span = decision.point.get(name), decision.interval[name]

    def draw(narrow: bool) -> Figure:
        figure, (axes,) = subplots(1, narrow, 1, height=2.3, width=NARROW if narrow else 7.2)
        bins = np.linspace(0, 1, 101).tolist()
        axes.axvspan(span[0], span[1], color=style.ACCENT, alpha=0.15, lw=0)
        axes.hist(values, bins, color=style.ACCENT, alpha=0.75, weights=np.full(len(values), 1 / len(values)))
        if point is not None:
            axes.axvline(point, color=style.INK, lw=1.6)
        for option in decision.options:
            axes.plot(option.point[name], 0, "v", ms=6, color=style.BAD, clip_on=False, zorder=5)
        handles = [line(style.INK, "recommended")]
        if decision.options:
            handles.append(key("v", style.BAD, "rules of thumb"))
        legend(figure, handles, figure.get_figwidth(), loc="outside upper left")
        axes.set(xlim=(0, 1), xlabel=f"share of {decision.inputs['domain']} text", ylabel="of draws")
        percents(axes.xaxis)
        percents(axes.yaxis)
        return figure

    return Drawing(
        "recommended-share",
        "How sure the share is",
        f"The same decision made on {len(values)} draws of the losses. Shaded: the {decision.level:.0%} interval.",
        f"Histogram of the share that each of {len(values)} draws would choose; its {decision.level:.0%} interval is "
        f"{percent(span[0])} to {percent(span[1])}.",
        pd.DataFrame({"draw": np.arange(len(values)), name: values}),
        draw,
    )


def _measured(confirm: pd.DataFrame, corpus: str) -> tuple[float, ...]:
    """The confirming runs' losses of a corpus."""
    return tuple(confirm.loc[confirm["eval"] == corpus].sort_values("run")["loss"].astype(float))
