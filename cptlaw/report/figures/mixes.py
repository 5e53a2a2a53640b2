"""Figures of a mix of any number of corpora: how sure each share is, and predictions beside what was measured."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cptlaw.planning.decision import Decision
from cptlaw.report import style
from cptlaw.report.figures.drawing import NARROW, Drawing, key, legend, subplots
from cptlaw.words import percent, spread

MARKERS = ("v", "s", "D", "^")


def shares(decision: Decision) -> Drawing:
    """The recommended share of every corpus with its interval, and the rules of thumb."""
    names = sorted(decision.interval, key=lambda name: -decision.point[name])
    rows = [
        {"corpus": name, "mix": "recommended", "share": decision.point[name], "low": low, "high": high}
        for name in names
        for low, high in (decision.interval[name],)
    ]
    for option in decision.options:
        rows += [{"corpus": name, "mix": option.name, "share": option.point[name]} for name in names]
    data = pd.DataFrame(rows)

    def draw(narrow: bool) -> Figure:
        figure, (axes,) = subplots(1, narrow, 1, height=_height(names), width=NARROW if narrow else 7.2)
        own = data[data["mix"] == "recommended"]
        place = np.arange(len(names))
        axes.hlines(place, own["low"], own["high"], color=style.ACCENT, lw=7, alpha=0.35)
        axes.plot(own["share"], place, "o", ms=8, color=style.ACCENT)
        handles = [key("o", style.ACCENT, "recommended")]
        for option, marker in zip(decision.options, MARKERS):
            axes.plot([option.point[name] for name in names], place, marker, ms=6, mfc="none", mec=style.BAD)
            handles.append(key(marker, style.BAD, option.name, hollow=True))
        _named(axes, names)
        axes.set(xlim=(0, min(1.0, 1.08 * float(data[["share", "high"]].max().max()))), xlabel="share of the tokens")
        axes.xaxis.set_major_formatter(lambda value, _: percent(value))
        legend(figure, handles, figure.get_figwidth(), loc="outside upper left")
        return figure

    sure = ", ".join(f"{name} {percent(decision.point[name])} ({spread(*decision.interval[name])})" for name in names)
    return Drawing(
        "recommended-mix",
        "How sure the mix is",
        f"Dots are the recommended shares; bars the {decision.level:.0%} interval of the shares that "
        f"{len(next(iter(decision.samples.values())))} draws of the losses would choose.",
        f"Recommended share of each corpus with its {decision.level:.0%} interval: {sure}.",
        data,
        draw,
    )


def measured(checked: pd.DataFrame, confirm: pd.DataFrame, level: float) -> Drawing:
    """Every corpus's measured losses against the prediction for one run, relative to it."""
    names = list(checked["eval"])
    of = checked.set_index("eval")
    last = confirm[confirm["eval"].isin(names)]
    relative = last["loss"].to_numpy() / of.loc[last["eval"], "predicted"].to_numpy() - 1
    points = pd.DataFrame({"eval": last["eval"], "run": last["run"], "loss": last["loss"], "relative": relative})
    data = points.merge(checked[["eval", "predicted", "low", "high"]], on="eval")

    def draw(narrow: bool) -> Figure:
        figure, (axes,) = subplots(1, narrow, 1, height=_height(names), width=NARROW if narrow else 7.2)
        place = {name: i for i, name in enumerate(names)}
        ends = [of[end].to_numpy() / of["predicted"].to_numpy() - 1 for end in ("low", "high")]
        axes.hlines(list(place.values()), *ends, color=style.ACCENT, lw=7, alpha=0.35)
        axes.axvline(0, color=style.MUTED, lw=1)
        axes.plot(data["relative"], data["eval"].map(place), "*", ms=11, mfc=style.BAD, mec=style.PAPER, mew=0.6)
        _named(axes, names)
        axes.set_xlabel("loss against the prediction")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g}%")
        axes.xaxis.get_major_locator().set_params(nbins=5)  # type: ignore[call-arg]
        handles = [key("*", style.BAD, "measured, a run each")]
        legend(figure, handles, figure.get_figwidth(), loc="outside upper left")
        return figure

    inside = f"{int(checked['inside'].sum())} of {int(checked['runs'].sum())}"
    return Drawing(
        "measured",
        "Predicted and measured, every corpus",
        f"The line at 0 is the prediction, a bar its {level:.0%} interval for one run; {inside} measured losses lie "
        "within theirs.",
        f"Measured losses of {', '.join(names)} against their predictions: {inside} lie inside the intervals.",
        data,
        draw,
    )


def _height(names: Sequence[str]) -> float:
    return 0.9 + 0.3 * len(names)


def _named(axes: Axes, names: Sequence[str]) -> None:
    """A line for each corpus, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
