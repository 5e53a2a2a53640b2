"""Whether a law can be trusted: predictions beside observations, and what is left over."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cptlaw.report import style
from cptlaw.report.figures.by_share import LEVELS, rows_of
from cptlaw.report.figures.drawing import Drawing, axis_of, key, legend, spread, subplots
from cptlaw.words import count

if TYPE_CHECKING:
    from cptlaw.fitting import Fit


def predicted_observed(fits: Mapping[str, "Fit"]) -> Drawing:
    """Every row's prediction beside its observation."""
    data = _residuals(fits)
    sizes = spread(data["params"], LEVELS) if "params" in data else []

    def draw(narrow: bool) -> Figure:
        figure, panels = subplots(len(fits), narrow, 1 if narrow else min(len(fits), 3), height=3.0 if narrow else 3.6)
        for axes, (name, rows) in zip(panels, data.groupby("eval", sort=False)):
            both = rows[["observed", "predicted"]]
            low, high = both.min().min(), both.max().max()
            axes.plot([low, high], [low, high], color=style.MUTED, lw=1)
            _dots(axes, rows, "observed", "predicted", sizes)
            axes.set(title=f"{name} loss", xlabel="observed (nats per token)", ylabel="predicted", aspect="equal")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_locator(MaxNLocator(5))
        _size_legend(figure, sizes, data["held_out"])
        return figure

    return Drawing(
        "predicted-observed",
        "Predicted against observed",
        "On the line, prediction and observation agree. Hollow points were held out of the fit.",
        f"Scatter of predicted against observed loss for {', '.join(fits)}: {_typical(data)}",
        data,
        draw,
    )


def residuals(fits: Mapping[str, "Fit"]) -> Drawing:
    """Relative residuals against tokens and share, where a law's misfit shows its shape."""
    data = _residuals(fits)
    axes_of = [
        (n, label)
        for n, label in (("tokens", "tokens"), ("ratio", "own share of the mix"), ("params", "parameters"))
        if n in data
    ]
    sizes = spread(data["params"], LEVELS) if "params" in data else []
    used = axes_of[:2]

    def draw(narrow: bool) -> Figure:
        figure, panels = subplots(len(fits) * len(used), narrow, 1 if narrow else len(used), height=2.2)
        groups = list(data.groupby("eval", sort=False))
        for i, axes in enumerate(panels):
            name, rows = groups[i // len(used)]
            column, label = used[i % len(used)]
            axes.axhline(0, color=style.MUTED, lw=1)
            _dots(axes, rows, column, "residual_percent", sizes)
            axis_of(axes, column)
            axes.set(title=f"{name} loss", xlabel=label, ylabel="observed over\npredicted (%)")
        _size_legend(figure, sizes, data["held_out"])
        return figure

    return Drawing(
        "residuals",
        "What the law leaves over",
        "Observed over predicted loss, less one. A pattern here, rather than a cloud around zero, is something the law "
        "cannot express.",
        f"Residuals of {', '.join(fits)} against {' and '.join(label for _, label in used)}: {_typical(data)}",
        data,
        draw,
    )


def _residuals(fits: Mapping[str, "Fit"]) -> pd.DataFrame:
    rows = rows_of(fits)
    rows["residual_percent"] = 100 * (rows["observed"] / rows["predicted"] - 1)
    wanted = ["eval", "run", "params", "tokens", "ratio", "observed", "predicted", "residual_percent", "held_out"]
    return rows[[name for name in wanted if name in rows]]


def _typical(data: pd.DataFrame) -> str:
    """Typical size of the residuals, in words."""
    words = []
    for held, rows in data.groupby("held_out"):
        size = rows["residual_percent"].abs().median()
        words.append(f"half of the {len(rows)} {'held-out' if held else 'fitted'} points are within {size:.2g}%")
    return ", ".join(words) + "."


def _dots(axes: Axes, rows: pd.DataFrame, x: str, y: str, sizes: Sequence[float]) -> None:
    """Points coloured by model size, hollow where held out."""
    index = np.zeros(len(rows), int)
    if sizes:
        index = np.abs(np.log(rows["params"].to_numpy()[:, None] / np.array(sizes))).argmin(axis=1)
    for i in range(max(len(sizes), 1)):
        for held in (False, True):
            some = rows[(index == i) & (rows["held_out"].to_numpy(bool) == held)]
            face, marker = (style.PAPER, "D") if held else (style.SIZES[i], "o")
            axes.scatter(
                some[x], some[y], s=16, c=face, marker=marker, edgecolors=style.SIZES[i], linewidths=1.1, zorder=3
            )


def _size_legend(figure: Figure, sizes: Sequence[float], held_out: pd.Series) -> None:
    handles = [key("o", style.SIZES[i], f"{count(size)} parameters") for i, size in enumerate(sizes)]
    if held_out.any():
        handles.append(key("D", style.MUTED, "held out", hollow=True))
    legend(figure, handles, figure.get_figwidth(), loc="outside upper left")
