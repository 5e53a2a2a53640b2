"""Figures of one fit: fitted curves with bands, residuals by each variable, predicted against observed."""

from pathlib import Path
from typing import Any

import numpy as np

from cptlaw.fitting.result import Fit

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito
CURVES, POINTS = len(COLOURS), 60
LABELS = {"params": "parameters", "tokens": "tokens", "ratio": "mixture ratio"}


def write(fit: Fit, directory: str | Path) -> list[Path]:
    """Writes PNG files into `directory`; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with plt.rc_context({"axes.grid": True, "grid.alpha": 0.3, "figure.constrained_layout.use": True}):
        for name, draw in (("curves", _curves), ("residuals", _residuals), ("observed", _observed)):
            figure = draw(fit, plt)
            written.append(directory / f"{name}.png")
            figure.savefig(written[-1], dpi=150)
            plt.close(figure)
    return written


def _columns(fit: Fit) -> list[str]:
    """The law's columns that vary in the table, shares included."""
    rows = fit.residuals
    return [c for c in _with_ratio(fit) if c in rows and rows[c].nunique() > 1]


def _with_ratio(fit: Fit) -> list[str]:
    names = [c for c in fit.law.columns if c != "corpus"]
    if "ratio" in names and "ratio" not in fit.residuals:
        fit.residuals["ratio"] = [row.get(f"w_{row['eval']}") for row in fit.residuals.to_dict("records")]
    return names


def _curves(fit: Fit, plt: Any) -> Any:
    """Loss against each varying column, a curve for each level of another, the rest at their last fitted values."""
    columns = _columns(fit)
    figure, axes = plt.subplots(1, max(1, len(columns)), figsize=(4.5 * max(1, len(columns)), 4), squeeze=False)
    rows = fit.residuals
    for axis, column in zip(axes[0], columns):
        others = [c for c in columns if c != column]
        groups = rows.groupby(others, sort=True) if others else [((), rows)]
        # Whole groups with most points on them are the curves worth drawing.
        chosen = sorted(groups, key=lambda item: -item[1][column].nunique())[:CURVES]
        for colour, (_, group) in zip(COLOURS, chosen):
            log = column not in ("ratio",) and not column.startswith("w_")
            low, high = group[column].min(), group[column].max()
            grid = np.geomspace(low, high, POINTS) if log and low > 0 else np.linspace(low, high, POINTS)
            given: dict[str, Any] = {c: (grid if c == column else group[c].iloc[-1]) for c in _with_ratio(fit)}
            if not isinstance(fit.eval, str):
                given["eval"] = group["eval"].iloc[0]
            if not column.startswith("w_"):
                found = fit.predict(**given)
                axis.plot(grid, found.point, color=colour)
                axis.fill_between(grid, found.low, found.high, color=colour, alpha=0.2)
            for held, marker in ((False, "o"), (True, "x")):
                part = group[group["held_out"] == held]
                axis.plot(part[column], part["observed"], marker, color=colour, ms=4)
            if log and low > 0:
                axis.set_xscale("log")
        axis.set(xlabel=LABELS.get(column, column), ylabel="loss (nats per token)")
    figure.suptitle(f"{fit.law.title}: lines and 90% bands; x: held out")
    return figure


def _residuals(fit: Fit, plt: Any) -> Any:
    columns = _columns(fit)
    figure, axes = plt.subplots(1, max(1, len(columns)), figsize=(4.5 * max(1, len(columns)), 3.5), squeeze=False)
    rows = fit.residuals
    error = 100 * (np.log(rows["predicted"]) - np.log(rows["observed"]))
    for axis, column in zip(axes[0], columns):
        for held, marker, colour in ((False, "o", COLOURS[0]), (True, "x", COLOURS[1])):
            mask = rows["held_out"] == held
            axis.plot(
                rows[column][mask], error[mask], marker, color=colour, ms=4, label="held out" if held else "fitted"
            )
        axis.axhline(0, color="grey", lw=1)
        axis.set(xlabel=LABELS.get(column, column), ylabel="predicted above observed (%)")
        if column in ("params", "tokens"):
            axis.set_xscale("log")
    axes[0, 0].legend()
    return figure


def _observed(fit: Fit, plt: Any) -> Any:
    figure, axis = plt.subplots(figsize=(4.5, 4.5))
    for held, marker, colour in ((False, "o", COLOURS[0]), (True, "x", COLOURS[1])):
        part = fit.residuals[fit.residuals["held_out"] == held]
        axis.plot(
            part["observed"], part["predicted"], marker, color=colour, ms=4, label="held out" if held else "fitted"
        )
    ends = [fit.residuals["observed"].min(), fit.residuals["observed"].max()]
    axis.plot(ends, ends, color="grey", lw=1)
    axis.set(xlabel="observed loss", ylabel="predicted loss")
    axis.legend()
    return figure
