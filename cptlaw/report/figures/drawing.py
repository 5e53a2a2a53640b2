"""What every figure is made with: one that draws itself at any width and says itself in words, its axes and legends."""

import contextvars
import dataclasses
import io
import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from cptlaw import atomic
from cptlaw.errors import UserError
from cptlaw.report import style
from cptlaw.words import count

WIDE, NARROW = 9.6, 4.3  # inches; a narrow drawing is shown on phones, at about its own size
BESIDE = 5.5  # inches, from which on panels stand side by side
FORMATS = ("png", "svg", "pdf")
FEW = 0.2  # share of the points at one end that may lie outside an axis's window
SAVED = 2.0  # times that a window must be shorter than all points' range, to be taken in its place

_width: contextvars.ContextVar[float | None] = contextvars.ContextVar("width", default=None)  # that is asked for


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure: `draw(narrow)` makes it, `data` is everything it shows, `alt` says it in words."""

    name: str
    title: str
    caption: str
    alt: str
    data: pd.DataFrame
    draw: Callable[[bool], Figure]

    def __repr__(self) -> str:
        return f"<{self.name}: {self.title}; show it in a notebook, or save(PATH)>"

    def _repr_png_(self) -> bytes:
        """The wide figure, as a notebook shows it."""
        return self._drawn("png")

    def save(
        self, path: str | os.PathLike[str], *, width: float | None = None, font: str = "", size: float = 9.0
    ) -> None:
        """Writes the figure as a file for a paper or a slide; the format is the suffix (.png, .svg or .pdf).

        Text is drawn as outlines in SVG and embedded in PDF, so that a figure looks the same on every machine.

        Args:
          width: inches; a column of a paper is about 3.3, both 6.8. One under 5.5 has its panels one below the other.
            None: the figure's own.
          font: an installed family, or serif or sans-serif; "": DejaVu Sans, which matplotlib brings along.
          size: of the text, points.

        Raises:
          UserError: another suffix, a family that is not installed, a width or size that is none.
        """
        kind = Path(path).suffix.lower().removeprefix(".")
        if kind not in FORMATS:
            raise UserError(f"{path}: a figure is written as .png, .svg or .pdf")
        if width is not None and not 1 <= width <= 60:
            raise UserError(f"a figure's width lies between 1 and 60 inches, not at {width:g}")
        if not 3 <= size <= 40:
            raise UserError(f"a figure's text has between 3 and 40 points, not {size:g}")
        atomic.write_bytes(path, self._drawn(kind, width, font, size))

    def _drawn(self, kind: str, width: float | None = None, font: str = "", size: float = 9.0) -> bytes:
        """The figure as a file of this kind."""
        with _drawing(self.name, size, **_family(font), **{"svg.fonttype": "path", "pdf.fonttype": 42}):
            asked = _width.set(width)
            try:
                figure, out = self.draw(width is not None and width < BESIDE), io.BytesIO()
            finally:
                _width.reset(asked)
            style.spell(figure)
            undated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
            figure.savefig(out, format=kind, dpi=200, facecolor="white", metadata=undated)
        return out.getvalue()

    def render(self) -> tuple[str, str, dict[str, bytes]]:
        """(wide SVG, narrow SVG, files): two elements of a page, and the wide figure by the suffix of its file."""
        vector, files = [], {}
        for narrow in (False, True):
            name = f"{self.name}-{'narrow' if narrow else 'wide'}"
            with _drawing(name, 9.5 if narrow else 9):
                # In an SVG text stays text, which a browser has fonts for; a PNG has such letters spelled.
                figure = self.draw(narrow)
                out = io.StringIO()
                figure.savefig(out, format="svg", metadata={"Date": None})
                vector.append(style.inline(out.getvalue(), name, self.alt))
                if not narrow:
                    files["svg"] = out.getvalue().encode()
                    figure.set_layout_engine("none")  # laid out already, which takes as long as drawing
                    style.spell(figure)
                    raster = io.BytesIO()
                    figure.savefig(raster, format="png", dpi=160)
                    files["png"] = raster.getvalue()
        return vector[0], vector[1], files


class _drawing:
    """The settings of matplotlib while a figure is drawn."""

    def __init__(self, name: str, size: float, **more: Any):
        own = {"font.size": size, "axes.titlesize": size, "svg.hashsalt": name, "font.sans-serif": style.fonts()}
        rc: Any = {**style.RC, **own, **more}
        self._rc = matplotlib.rc_context(rc)
        self._warnings = warnings.catch_warnings()

    def __enter__(self) -> None:
        self._rc.__enter__()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")

    def __exit__(self, *error: Any) -> None:
        self._warnings.__exit__(*error)
        self._rc.__exit__(*error)


def _family(font: str) -> dict[str, Any]:
    """The settings of a family of fonts, with those of other scripts behind it."""
    if font in ("", "sans-serif"):
        return {}
    if font == "serif":
        return {"font.family": "serif"}
    try:
        font_manager.findfont(font, fallback_to_default=False)
    except ValueError:
        raise UserError(f"no font {font!r} is installed here; serif and sans-serif are always there") from None
    return {"font.family": [font, *style.fonts()]}


def subplots(
    number: int, narrow: bool, columns: int, height: float, width: float | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of `number` axes in `columns`; `height` inches each, `width` of all, unless another is asked for."""
    lines = -(-number // columns)
    own = width or (NARROW if narrow else WIDE)
    scale = (_width.get() or own) / own
    figure = Figure((own * scale, (height * lines + 0.3) * scale), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[number:]:
        axes.remove()
    return figure, list(grid[:number])


def key(marker: str, colour: str, label: str, hollow: bool = False) -> Line2D:
    """A marker's entry in a legend."""
    face = style.PAPER if hollow else colour
    return Line2D([], [], ls="", marker=marker, mfc=face, mec=colour, ms=10 if marker == "*" else 6, label=label)


def line(colour: str, label: str, **kind: Any) -> Line2D:
    """A line's entry in a legend."""
    return Line2D([], [], color=colour, label=label, **kind)


def legend(of: Figure | Axes, handles: Sequence[Artist], room: float, *, small: bool = False, **where: Any) -> None:
    """A legend in as many columns as `room` inches hold; labels that no column holds are broken into lines.

    That of axes stands under them, where it lies on no curve.
    """
    if not handles:
        return
    points = matplotlib.rcParams["font.size"] * (0.85 if small else 1)
    beside = 3.4 * points  # marker, padding and the space between columns
    for handle in handles:
        handle.set_label(_broken(str(handle.get_label()), 72 * room - beside - points, points))
    widths = [beside + max(map(_across, str(handle.get_label()).split("\n"))) * points for handle in handles]
    columns = len(handles)
    while columns > 1 and sum(_columns(widths, columns)) + points > 72 * room:
        columns -= 1
    if isinstance(of, Axes):
        under = ScaledTranslation(0, -3.6 * matplotlib.rcParams["font.size"] / 72, of.figure.dpi_scale_trans)
        where = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": of.transAxes + under}
    of.legend(
        handles=list(handles), ncols=columns, columnspacing=1.2, borderaxespad=0.2, prop={"size": points}, **where
    )


def _columns(widths: Sequence[float], columns: int) -> list[float]:
    """The width of every column, which matplotlib fills from top to bottom, the first ones longer by one."""
    each, more = divmod(len(widths), columns)
    ends = np.cumsum([0, *(each + (i < more) for i in range(columns))])
    return [max(widths[a:b]) for a, b in itertools.pairwise(ends) if b > a]


def _across(text: str) -> float:
    """How wide a line of text is, in its own size."""
    return text_to_path.get_text_width_height_descent(text, FontProperties(size=10), False)[0] / 10


def _broken(text: str, room: float, points: float) -> str:
    lines, words = [""], text.split(" ")
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _across(longer) * points > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def window(values: np.ndarray, shown: np.ndarray | None = None) -> tuple[float, float]:
    """The range of an axis for these points: all of them; or, where a few at one end would squash the others, these.

    Args:
      values: the points (N,).
      shown: further values that must lie within, such as a prediction that is asked about.
    """
    points = np.sort(values[np.isfinite(values)])
    most = int(FEW * len(points))
    low, high = points[0], points[-1]
    for a, b in ((points[0], points[-1 - most]), (points[most], points[-1])):
        if SAVED * (b - a) < points[-1] - points[0] and b > a:
            low, high = a, b
            break
    # The window ends at a gap, if there is one, and not among points that belong together.
    inside = points[(points >= low - 0.1 * (high - low)) & (points <= high + 0.1 * (high - low))]
    low, high = inside[0], inside[-1]
    if shown is not None and len(shown):
        low, high = min(low, float(np.min(shown))), max(high, float(np.max(shown)))
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    return float(low - margin), float(high + margin)


def beyond(axes: Axes, xs: ArrayLike, ys: ArrayLike, limits: tuple[float, float], colour: str) -> None:
    """Marks points above or below an axis's window at its edge, with triangles that point to them."""
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    for out, edge, marker in ((y > limits[1], limits[1], "^"), (y < limits[0], limits[0], "v")):
        marks = axes.plot(x[out], np.full(out.sum(), edge), marker, ms=4.5, mfc=colour, mec=colour, zorder=4)
        for mark in marks:
            mark.set(clip_on=False, in_layout=False)  # drawn over the axis, which needs no room for it


def axis_of(axes: Axes, column: str) -> None:
    """The horizontal axis as its column is read: counts on a logarithmic one, shares in per cent."""
    if column in ("params", "tokens"):
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        # Few enough that their labels have room, also on a phone.
        subs = (1.0, 2.0, 5.0) if high < 10 * low else (1.0, 3.0) if high < 1e3 * low else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif column == "ratio" or column.startswith("w_"):
        percents(axes.xaxis)


def percents(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def spread(values: pd.Series, most: int) -> list[float]:
    """At most `most` of the values, evenly over their order, ends included."""
    levels = np.unique(values.dropna())
    return [float(v) for v in levels[np.unique(np.linspace(0, len(levels) - 1, most).round().astype(int))]]
