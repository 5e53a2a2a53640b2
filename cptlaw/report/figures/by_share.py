"""Losses against the share of a corpus: curves by size and tokens, their bands, and the rows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cptlaw.report import style
from cptlaw.report.figures.drawing import Drawing, beyond, key, legend, line, percents, spread, subplots, window
from cptlaw.words import count

if TYPE_CHECKING:
    from cptlaw.fitting import Fit, Prediction

SHARES = np.linspace(0, 1, 101)
PANELS = 4  # sizes and token counts drawn at most; more would not be told apart
LEVELS = 5


def follows_the_mix(fits: Mapping[str, "Fit"]) -> bool:
    """Whether every law says how its loss changes with its corpus's share, at a size and tokens, as the runs show."""
    return all(
        "ratio" in fit.law.columns
        and set(fit.law.columns) <= {"params", "tokens", "ratio"}
        and "ratio" not in fit.unmoved
        and {"params", "tokens"} <= set(fit.residuals)
        for fit in fits.values()
    )


def along(fit: "Fit", x: Mapping[str, Any], level: float, target: str | None = None) -> "Prediction":
    """The fit's prediction, of one new run unless `target` says otherwise, at what its law reads of `x`."""
    return fit.predict(**{name: x[name] for name in fit.law.columns}, level=level, target=target)


def loss_by_share(fits: Mapping[str, "Fit"], domain: str | None, confirm: pd.DataFrame | None, level: float) -> Drawing:
    """Loss against the share for every size and token count, with bands, measured and held-out points.

    Args:
      domain: the corpus whose share is the axis, for tables of two corpora; None: each corpus's own.
    """
    rows = rows_of(fits)
    known = rows[~rows["held_out"].astype(bool)] if any(fit.unmoved for fit in fits.values()) else rows
    sizes, levels = spread(known["params"], PANELS), spread(known["tokens"], LEVELS)
    colours = dict(zip(levels, style.sequence(len(levels))))
    curves = []
    for name, fit in fits.items():
        own = SHARES if domain in (None, name) else 1 - SHARES
        for size in sizes:
            for tokens in levels:
                found = along(fit, {"params": size, "tokens": tokens, "ratio": own}, level)
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
    # One loss axis a corpus, so that sizes compare: by what was measured and the least that is predicted at the shares
    # of the runs, because bands beyond these would squash it.
    limits = {}
    for name in fits:
        there, law = seen[seen["eval"] == name], curve[curve["eval"] == name]
        within = law[law["share"].between(there["share"].min(), there["share"].max())]
        later = [] if confirm is None else confirm.loc[confirm["eval"] == name, "loss"]
        least = within.groupby(["params", "tokens"])["loss"].min()
        limits[name] = window(there["loss"].to_numpy(), np.concatenate([least, later]))
    out = seen[~seen["loss"].between(*(seen["eval"].map({n: ends[i] for n, ends in limits.items()}) for i in (0, 1)))]

    def panel(axes: Axes, name: str, size: float) -> None:
        axes.set_ylim(limits[name])
        for tokens in levels:
            shown = curve[(curve["eval"] == name) & (curve["params"] == size) & (curve["tokens"] == tokens)]
            axes.fill_between(shown["share"], shown["low"], shown["high"], color=colours[tokens], alpha=0.25, lw=0)
            axes.plot(shown["share"], shown["loss"], color=colours[tokens])
            dots = seen[(seen["eval"] == name) & (seen["params"] == size) & (seen["tokens"] == tokens)]
            for kind, face, marker, area in (("fitted", colours[tokens], "o", 17), ("held out", style.PAPER, "D", 20)):
                some = dots[dots["kind"] == kind]
                axes.scatter(
                    some["share"], some["loss"], s=area, c=face, marker=marker, edgecolors=colours[tokens], zorder=3
                )
            beyond(axes, dots["share"], dots["loss"], limits[name], colours[tokens])
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
            percents(axes.xaxis)
        handles = [line(colours[t], f"{count(t)} tokens", lw=2.5) for t in levels]
        handles.append(key("o", style.MUTED, "fitted"))
        if (kind == "held out").any():
            handles.append(key("D", style.MUTED, "held out", hollow=True))
        if confirm is not None:
            handles.append(key("*", style.BAD, "measured afterwards"))
        if len(out):
            handles.append(key("^", style.MUTED, "beyond the axis"))
        legend(figure, handles, figure.get_figwidth(), loc="outside upper left")
        return figure

    bands = ""
    if all(fit.process for fit in fits.values()):
        bands = f", bands {level:.0%} intervals of one new run"
    elif any(len(values) for fit in fits.values() for values in fit.samples.values()):
        bands = f", bands {level:.0%} intervals of the law's mean"
    shown = ""
    if len(sizes) < rows["params"].nunique() or len(levels) < rows["tokens"].nunique():
        shown = " Some sizes and token counts are left out for legibility; the data file has what is drawn."
    if len(out):
        ends = out["loss"].min(), out["loss"].max()
        shown += f" Triangles stand for {len(out)} rows beyond the axis ({ends[0]:.2f} to {ends[1]:.2f} nats)."
    return Drawing(
        "loss-by-share",
        "Loss against the mix",
        f"Lines are predictions{bands}, filled points the runs it was fitted to, hollow ones runs it never saw.{shown}",
        f"Panels of loss against share for {', '.join(fits)} at {', '.join(count(s) for s in sizes)} parameters and "
        f"{', '.join(count(t) for t in levels)} tokens; predicted curves with bands, and the measured points.",
        pd.concat([curve, seen]),
        draw,
    )


def rows_of(fits: Mapping[str, "Fit"]) -> pd.DataFrame:
    """Every fit's rows, with the evaluated corpus's share as `ratio` where it was trained on."""
    rows = pd.concat([fit.residuals.assign(eval=name) for name, fit in fits.items()], ignore_index=True)
    shares = [rows[f"w_{name}"].where(rows["eval"] == name) for name in fits if f"w_{name}" in rows]
    return rows if not shares else rows.assign(ratio=pd.concat(shares, axis=1).bfill(axis=1).iloc[:, 0])
