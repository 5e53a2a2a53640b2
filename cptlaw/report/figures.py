"""The figures: each knows its data, its caption, what it shows in words, and how to draw itself wide or narrow."""

import dataclasses
import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cptlaw import atomic
from cptlaw.errors import UserError
from cptlaw.planning.decision import Decision
from cptlaw.planning.numbers import corpus
from cptlaw.report import style
from cptlaw.words import count, percent

if TYPE_CHECKING:
    from cptlaw.fitting import Fit, Prediction

WIDE, NARROW = 9.6, 4.3  # inches; a narrow drawing is shown on phones, at about its own size
SHARES = np.linspace(0, 1, 101)
PANELS = 4  # sizes and token counts drawn at most; more would not be told apart
LEVELS = 5


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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the wide figure; the format is the suffix (.png, .svg or .pdf).

        Raises:
          UserError: another suffix.
        """
        kind = Path(path).suffix.lower().removeprefix(".")
        if kind not in ("png", "svg", "pdf"):
            raise UserError(f"{path}: a figure is written as .png, .svg or .pdf")
        atomic.write_bytes(path, self._drawn(kind))

    def _drawn(self, kind: str) -> bytes:
        """The wide figure as a file of this kind."""
        rc: Any = style.RC | {"font.size": 9, "axes.titlesize": 9, "svg.hashsalt": self.name}
        rc["font.sans-serif"] = style.fonts()
        with matplotlib.rc_context(rc), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure, out = self.draw(False), io.BytesIO()
            style.spell(figure)
            figure.savefig(out, format=kind, dpi=160, facecolor="white")
        return out.getvalue()

    def render(self) -> tuple[str, str, bytes]:
        """(wide SVG, narrow SVG, wide PNG); the SVGs are elements of a page."""
        vector = []
        for narrow in (False, True):
            name = f"{self.name}-{'narrow' if narrow else 'wide'}"
            size = 9.5 if narrow else 9
            rc: Any = style.RC | {"font.size": size, "axes.titlesize": size, "svg.hashsalt": name}
            rc["font.sans-serif"] = style.fonts()
            with matplotlib.rc_context(rc), warnings.catch_warnings():
                # In an SVG text stays text, which a browser has fonts for; a PNG has such letters spelled.
                warnings.filterwarnings("ignore", message="Glyph .* missing from font")
                figure = self.draw(narrow)
                out = io.StringIO()
                figure.savefig(out, format="svg", metadata={"Date": None})
                vector.append(style.inline(out.getvalue(), name, self.alt))
                if not narrow:
                    figure.set_layout_engine("none")  # laid out already, which takes as long as drawing
                    style.spell(figure)
                    raster = io.BytesIO()
                    figure.savefig(raster, format="png", dpi=160)
        return vector[0], vector[1], raster.getvalue()


def front(general: "Fit", domain: "Fit", decision: Decision, confirm: pd.DataFrame | None, level: float) -> Drawing:
    """General against domain loss along the domain share, at the size and tokens of the question."""
    x = {name: decision.inputs[name] for name in ("params", "tokens")}
    # A decision is about the mean of runs.
    g, d = (
        _along(fit, x | {"ratio": share}, level, target="mean" if fit.process else None)
        for fit, share in ((general, 1 - SHARES), (domain, SHARES))
    )
    data = pd.DataFrame({"share": SHARES})
    for fit, found in ((general, g), (domain, d)):
        data[f"{fit.eval} loss"], data[f"{fit.eval} low"], data[f"{fit.eval} high"] = found.point, found.low, found.high
    share, ceiling = decision.point["share"], decision.inputs["ceiling"]
    here = [decision.losses[corpus(fit)] for fit in (general, domain)]
    measured = None if confirm is None else [_measured(confirm, corpus(fit)) for fit in (general, domain)]

    def draw(narrow: bool) -> Figure:
        figure, (axes,) = subplots(1, narrow, 1, height=4.0 if narrow else 4.4, width=NARROW if narrow else 7.2)
        low, high = float(g.point.min()), float(g.point.max())
        right = max(high + 0.1 * (high - low), ceiling)
        axes.set_xlim(low - 0.06 * (high - low), right)
        axes.axvspan(ceiling, right, color=style.RULE, alpha=0.45, lw=0)
        axes.axvline(ceiling, color=style.MUTED, lw=1, ls=(0, (4, 3)))
        axes.plot(g.point, d.point, color=style.INK, lw=1.8)
        span = [np.interp(decision.interval["share"], SHARES, found.point) for found in (g, d)]
        inside = np.clip(SHARES, *decision.interval["share"]) == SHARES
        stretch = [np.r_[ends[0], found.point[inside], ends[1]] for ends, found in zip(span, (g, d))]
        axes.plot(*stretch, color=style.ACCENT, lw=7, alpha=0.35)
        for tick in (t for t in (0, 25, 50, 75, 100) if abs(t - 100 * share) > 6):
            axes.plot(g.point[tick], d.point[tick], "o", ms=4.5, mfc=style.PAPER, mec=style.INK, mew=1.1)
            axes.annotate(
                f"{tick}%", (g.point[tick], d.point[tick]), (5, 5), textcoords="offset points", color=style.MUTED
            )
        errors = [[[loss["point"] - loss["low"]], [loss["high"] - loss["point"]]] for loss in here]
        axes.errorbar(here[0]["point"], here[1]["point"], errors[1], errors[0], "o", ms=8, color=style.ACCENT, lw=1.2)
        handles = [key("o", style.ACCENT, f"recommended, {percent(share)}")]
        if measured is not None and all(measured):
            axes.plot(*measured, "*", ms=14, mfc=style.BAD, mec=style.PAPER, mew=0.8, zorder=4)
            handles.append(key("*", style.BAD, "measured afterwards"))
        axes.legend(handles=handles, loc="upper right")
        axes.margins(y=0.08)
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

    return Drawing(
        "front",
        f"What {domain.eval} text buys, and what it costs",
        f"Each point of the curve is a mix, labelled with its share of {domain.eval} text: to the right the "
        f"{general.eval} loss rises, downwards the {domain.eval} loss falls. The shaded stretch is the interval of the "
        f"recommended share; bars are {level:.0%} intervals of the predicted losses.",
        f"Curve of {domain.eval} loss against {general.eval} loss as the {domain.eval} share goes from 0 to 100%. At "
        f"the recommended {percent(share)} the predicted losses are {here[0]['point']:.3f} ({general.eval}) and "
        f"{here[1]['point']:.3f} ({domain.eval}); the ceiling on {general.eval} is {ceiling:.3f}.",
        data,
        draw,
    )


def follows_the_mix(fits: Mapping[str, "Fit"]) -> bool:
    """Whether every law says how its loss changes with its corpus's share, at a size and tokens, as the runs show."""
    return all(
        "ratio" in fit.law.columns
        and set(fit.law.columns) <= {"params", "tokens", "ratio"}
        and "ratio" not in fit.unmoved
        and {"params", "tokens"} <= set(fit.residuals)
        for fit in fits.values()
    )


def _along(fit: "Fit", x: Mapping[str, Any], level: float, target: str | None = None) -> "Prediction":
    """The fit's prediction, of one new run unless `target` says otherwise, at what its law reads of `x`."""
    return fit.predict(**{name: x[name] for name in fit.law.columns}, level=level, target=target)


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
        handles = [Line2D([], [], color=style.INK, label="recommended")]
        if decision.options:
            handles.append(key("v", style.BAD, "rules of thumb"))
        axes.legend(handles=handles, loc="upper left" if np.median(values) > 0.5 else "upper right")
        axes.set(xlim=(0, 1), xlabel=f"share of {decision.inputs['domain']} text", ylabel="of draws")
        _percent(axes.xaxis)
        _percent(axes.yaxis)
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


def loss_by_share(fits: Mapping[str, "Fit"], domain: str | None, confirm: pd.DataFrame | None, level: float) -> Drawing:
    """Loss against the share for every size and token count, with bands, measured and held-out points.

    Args:
      domain: the corpus whose share is the axis, for tables of two corpora; None: each corpus's own.
    """
    rows = _rows(fits)
    known = rows[~rows["held_out"].astype(bool)] if any(fit.unmoved for fit in fits.values()) else rows
    sizes, levels = _spread(known["params"], PANELS), _spread(known["tokens"], LEVELS)
    colours = dict(zip(levels, style.sequence(len(levels))))
    curves = []
    for name, fit in fits.items():
        own = SHARES if domain in (None, name) else 1 - SHARES
        for size in sizes:
            for tokens in levels:
                found = _along(fit, {"params": size, "tokens": tokens, "ratio": own}, level)
                curves.append(
                    pd.DataFrame({
                        "kind": "curve", "eval": name, "params": size, "tokens": tokens, "share": SHARES,
                        "loss": found.point, "low": found.low, "high": found.high,
                    })
                )  # fmt: skip
    points = rows[rows["params"].isin(sizes) & rows["tokens"].isin(levels)]
    share = points["ratio"] if domain is None else points["ratio"].where(points["eval"] == domain, 1 - points["ratio"])
    kind = np.where(points["held_out"], "held out", "fitted")
    seen = pd.DataFrame({
        "kind": kind, "eval": points["eval"], "params": points["params"], "tokens": points["tokens"], "share": share,
        "loss": points["observed"],
    })  # fmt: skip
    curve = pd.concat(curves)

    def panel(axes: Axes, name: str, size: float) -> None:
        for tokens in levels:
            line = curve[(curve["eval"] == name) & (curve["params"] == size) & (curve["tokens"] == tokens)]
            axes.fill_between(line["share"], line["low"], line["high"], color=colours[tokens], alpha=0.25, lw=0)
            axes.plot(line["share"], line["loss"], color=colours[tokens])
            dots = seen[(seen["eval"] == name) & (seen["params"] == size) & (seen["tokens"] == tokens)]
            for kind, face, marker, area in (("fitted", colours[tokens], "o", 17), ("held out", style.PAPER, "D", 20)):
                some = dots[dots["kind"] == kind]
                axes.scatter(
                    some["share"], some["loss"], s=area, c=face, marker=marker, edgecolors=colours[tokens], zorder=3
                )
        if confirm is not None:
            at = confirm[(confirm["eval"] == name) & (confirm["params"] == size)]
            axes.plot(
                at[f"w_{domain or name}"], at["loss"], "*", ms=13, mfc=style.BAD, mec=style.PAPER, mew=0.8, zorder=4
            )

    def draw(narrow: bool) -> Figure:
        columns = 1 if narrow else len(sizes)
        wrap = " " if columns < 3 else "\n"
        figure, panels = subplots(len(fits) * len(sizes), narrow, columns, height=2.4 if narrow else 2.9)
        for i, axes in enumerate(panels):
            name, size = list(fits)[i // len(sizes)], sizes[i % len(sizes)]
            panel(axes, name, size)
            axes.set(title=f"{name} loss,{wrap}{count(size)} parameters", xlim=(-0.03, 1.03))
            axes.set_xlabel(f"share of {domain or name} text")
            _percent(axes.xaxis)
            same = [a for j, a in enumerate(panels) if j // len(sizes) == i // len(sizes) and j < i]
            if same:  # one loss axis a corpus, so that sizes compare
                axes.sharey(same[0])
                axes.autoscale(axis="y")
        handles = [Line2D([], [], color=colours[t], lw=2.5, label=f"{count(t)} tokens") for t in levels]
        handles.append(key("o", style.MUTED, "fitted"))
        if (kind == "held out").any():
            handles.append(key("D", style.MUTED, "held out", hollow=True))
        if confirm is not None:
            handles.append(key("*", style.BAD, "measured afterwards"))
        figure.legend(handles=handles, loc="outside upper left", ncols=3 if narrow else 5, columnspacing=1.2)
        return figure

    bands = ""
    if all(fit.process for fit in fits.values()):
        bands = f", bands {level:.0%} intervals of one new run"
    elif any(len(values) for fit in fits.values() for values in fit.samples.values()):
        bands = f", bands {level:.0%} intervals of the law's mean"
    shown = ""
    if len(sizes) < rows["params"].nunique() or len(levels) < rows["tokens"].nunique():
        shown = " Some sizes and token counts are left out for legibility; the data file has what is drawn."
    return Drawing(
        "loss-by-share",
        "Loss against the mix",
        f"Lines are predictions{bands}, filled points the runs it was fitted to, hollow ones runs it never saw.{shown}",
        f"Panels of loss against share for {', '.join(fits)} at {', '.join(count(s) for s in sizes)} parameters and "
        f"{', '.join(count(t) for t in levels)} tokens; predicted curves with bands, and the measured points.",
        pd.concat([curve, seen]),
        draw,
    )


def predicted_observed(fits: Mapping[str, "Fit"]) -> Drawing:
    """Every row's prediction beside its observation."""
    data = _residuals(fits)
    sizes = _spread(data["params"], LEVELS) if "params" in data else []

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
        _size_legend(figure, sizes, bool(data["held_out"].any()), narrow)
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
    sizes = _spread(data["params"], LEVELS) if "params" in data else []
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
        _size_legend(figure, sizes, bool(data["held_out"].any()), narrow)
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


def _rows(fits: Mapping[str, "Fit"]) -> pd.DataFrame:
    """Every fit's rows, with the evaluated corpus's share as `ratio` where it was trained on."""
    rows = pd.concat([fit.residuals.assign(eval=name) for name, fit in fits.items()], ignore_index=True)
    shares = [rows[f"w_{name}"].where(rows["eval"] == name) for name in fits if f"w_{name}" in rows]
    return rows if not shares else rows.assign(ratio=pd.concat(shares, axis=1).bfill(axis=1).iloc[:, 0])


def _residuals(fits: Mapping[str, "Fit"]) -> pd.DataFrame:
    rows = _rows(fits)
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


def _size_legend(figure: Figure, sizes: Sequence[float], held_out: bool, narrow: bool) -> None:
    handles = [key("o", style.SIZES[i], f"{count(size)} parameters") for i, size in enumerate(sizes)]
    if held_out:
        handles.append(key("D", style.MUTED, "held out", hollow=True))
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=2 if narrow else len(handles))


def subplots(
    number: int, narrow: bool, columns: int, height: float, width: float | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of `number` axes in `columns`; `height` inches each, `width` of all."""
    lines = -(-number // columns)
    figure = Figure((width or (NARROW if narrow else WIDE), height * lines + 0.3), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[number:]:
        axes.remove()
    return figure, list(grid[:number])


def key(marker: str, colour: str, label: str, hollow: bool = False) -> Line2D:
    """A marker's entry in a legend."""
    face = style.PAPER if hollow else colour
    return Line2D([], [], ls="", marker=marker, mfc=face, mec=colour, ms=10 if marker == "*" else 6, label=label)


def axis_of(axes: Axes, column: str) -> None:
    """The horizontal axis as its column is read: counts on a logarithmic one, shares in per cent."""
    if column in ("params", "tokens"):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif column == "ratio" or column.startswith("w_"):
        _percent(axes.xaxis)


def _percent(axis: matplotlib.axis.Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def _spread(values: pd.Series, most: int) -> list[float]:
    """At most `most` of the values, evenly over their order, ends included."""
    levels = np.unique(values.dropna())
    return [float(v) for v in levels[np.unique(np.linspace(0, len(levels) - 1, most).round().astype(int))]]


def _measured(confirm: pd.DataFrame, corpus: str) -> tuple[float, ...]:
    """The confirming runs' losses of a corpus."""
    return tuple(confirm.loc[confirm["eval"] == corpus].sort_values("run")["loss"].astype(float))
