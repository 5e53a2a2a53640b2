"""Loss against each column that the law of one fit reads, and the pictures of one fit as files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from cptlaw.report import style
from cptlaw.report.figures.checks import predicted_observed, residuals
from cptlaw.report.figures.drawing import FORMATS, Drawing, axis_of, beyond, key, legend, subplots, window
from cptlaw.words import count, percent

if TYPE_CHECKING:
    from cptlaw.fitting import Fit

LINES, POINTS = len(style.SIZES), 60
INTERVAL = {True: "one new run", False: "the law's mean"}
LABELS = {"params": "parameters", "tokens": "tokens", "ratio": "own share of the mix"}


def write(fit: "Fit", path: str | Path, **look: Any) -> list[Path]:
    """Writes pictures of one fit; returns their paths.

    Args:
      path: a file (.png, .svg, .pdf), for its curves alone; or a folder, for curves, residuals and observed as PNG.
      look: width, font and size, as of `Drawing.save`.
    """
    path = Path(path)
    if path.suffix.lower().removeprefix(".") in FORMATS:
        curves(fit).save(path, **look)
        return [path]
    each = {fit.eval: fit} if isinstance(fit.eval, str) else {name: fit.single(name) for name in fit.eval}
    drawings = {"curves": curves(fit), "residuals": residuals(each), "observed": predicted_observed(each)}
    written = [path / f"{name}.png" for name in drawings]
    for file, drawing in zip(written, drawings.values()):
        drawing.save(file, **look)
    return written


def curves(fit: "Fit", level: float = 0.9) -> Drawing:
    """Loss against each column that varies: a curve for each of a few levels of the others, and the rows on it."""
    rows = _with_ratio(fit)
    columns = [name for name in fit.law.columns if name in rows and rows[name].nunique() > 1]
    # A few rows beyond the others, such as those without a corpus's text, would squash all panels.
    limits = window(rows["observed"].to_numpy())
    gone = bool((~rows["observed"].between(*limits)).any())
    lines = {column: _lines(fit, rows, column, [c for c in columns if c != column], level) for column in columns}

    def draw(narrow: bool) -> Figure:
        across = 1 if narrow else min(len(columns), 2)
        figure, panels = subplots(len(columns), narrow, across, height=2.9 if narrow else 3.4)
        for axes, (column, drawn) in zip(panels, lines.items()):
            axes.set_ylim(limits)
            for colour, line in zip(style.SIZES, drawn):
                _line(axes, column, line, colour)
                beyond(axes, line["rows"][column], line["rows"]["observed"], limits, colour)
            axes.set(xlabel=LABELS.get(column, column), ylabel="loss (nats per token)")
            axis_of(axes, column)
            handles = [key("o", colour, line["label"]) for colour, line in zip(style.SIZES, drawn)]
            legend(axes, handles, figure.get_figwidth() / across - 0.5, small=True)
        held = rows["held_out"].astype(bool)
        marks: list[Artist] = [key("o", style.MUTED, "fitted")]
        if held.any():
            marks.append(key("D", style.MUTED, "held out", hollow=True))
        if gone:
            marks.append(key("^", style.MUTED, "beyond the axis"))
        if any("low" in line["curve"] and line["curve"]["low"].notna().any() for of in lines.values() for line in of):
            words = f"{level:.0%} interval of {INTERVAL[bool(fit.process)]}"
            marks.append(Patch(color=style.MUTED, alpha=0.3, lw=0, label=words))
        legend(figure, marks, figure.get_figwidth(), loc="outside upper left")
        return figure

    drawn = [line["curve"].assign(along=column, at=line["label"]) for column in columns for line in lines[column]]
    return Drawing(
        "curves",
        fit.law.title,
        f"Lines are predictions, bands their {level:.0%} intervals, of {INTERVAL[bool(fit.process)]}; filled points "
        "were fitted, hollow ones held out.",
        f"Loss against {', '.join(LABELS.get(c, c) for c in columns)}; predicted curves with bands, and the rows.",
        pd.concat(drawn) if drawn else pd.DataFrame(),
        draw,
    )


def _with_ratio(fit: "Fit") -> pd.DataFrame:
    """The fit's rows, with the evaluated corpus's own share as `ratio` where its law reads one."""
    rows = fit.residuals
    if "ratio" not in fit.law.columns or "ratio" in rows:
        return rows
    return rows.assign(ratio=[row.get(f"w_{row['eval']}") for row in rows.to_dict("records")])


def _lines(fit: "Fit", rows: pd.DataFrame, column: str, others: list[str], level: float) -> list[dict[str, Any]]:
    """The curves along `column`: label, predicted points and rows; of the groups of equal `others` with most points."""
    by = [*others, "eval"] if not isinstance(fit.eval, str) else others
    groups = [group for _, group in rows.groupby(by, sort=True)] if by else [rows]
    most = max(group[column].nunique() for group in groups)
    whole = [group for group in groups if group[column].nunique() == most]
    chosen = [whole[i] for i in np.unique(np.linspace(0, len(whole) - 1, LINES).round().astype(int))]
    lines = []
    for group in chosen:
        low, high = float(group[column].min()), float(group[column].max())
        space = np.geomspace if column in ("params", "tokens") and low > 0 else np.linspace
        curve = pd.DataFrame({column: space(low, high, POINTS)})
        # Along one share alone the other shares would have to give way, and the law does not say which.
        if not column.startswith("w_"):
            given: dict[str, Any] = {name: group[name].iloc[0] for name in fit.law.columns if name != "corpus"}
            one = {} if isinstance(fit.eval, str) else {"eval": group["eval"].iloc[0]}
            at = fit.predict(**(given | {column: curve[column].to_numpy()}), **one, level=level)
            curve = curve.assign(loss=at.point, low=at.low, high=at.high)
        named = ", ".join(_shown(name, group[name].iloc[0]) for name in by) or str(group["eval"].iloc[0])
        lines.append({"label": named, "rows": group, "curve": curve})
    return lines


def _line(axes: Axes, column: str, line: dict[str, Any], colour: str) -> None:
    curve, rows = line["curve"], line["rows"]
    if "loss" in curve:
        axes.plot(curve[column], curve["loss"], color=colour)
        axes.fill_between(curve[column], curve["low"], curve["high"], color=colour, alpha=0.2, lw=0)
    held = rows["held_out"].to_numpy(bool)
    for some, face, marker in ((rows[~held], colour, "o"), (rows[held], style.PAPER, "D")):
        axes.scatter(some[column], some["observed"], s=16, c=face, marker=marker, edgecolors=colour, zorder=3)


def _shown(name: str, value: Any) -> str:
    if name in ("params", "tokens"):
        return f"{count(value)} {LABELS[name]}"
    if name == "ratio" or name.startswith("w_"):
        return f"{percent(value)} {'share' if name == 'ratio' else name[2:]}"
    return str(value) if isinstance(value, str) else f"{name} {value:.3g}"
