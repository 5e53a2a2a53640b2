"""The figures of a selection study: how chosen text fared, which means and spreads it has, and the landscape."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cptlaw.planning.decision import Decision
from cptlaw.report import style
from cptlaw.report.figures.drawing import NARROW, Drawing, key, legend, subplots
from cptlaw.selection.landscape import Region
from cptlaw.selection.pool import Pool
from cptlaw.words import count

if TYPE_CHECKING:
    from cptlaw.fitting import Fit

RULES = {"choice": style.ACCENT, "law": style.SIZES[3], "random": style.MUTED, "low": style.SIZES[2],
         "mid": style.SIZES[4], "high": style.BAD}  # fmt: skip


def _drawn(rules: Collection[str]) -> dict[str, str]:
    """The colour of each of these rules, in the order of RULES."""
    return {rule: colour for rule, colour in RULES.items() if rule in rules}


def fared(confirmed: pd.DataFrame, corpora: Sequence[str]) -> Drawing:
    """Final losses of the confirming runs, a dot a seed.

    Args:
      confirmed: their runs table, with the rule of each row as `subset`.
      corpora: the evaluated corpora, a panel each.
    """
    last = confirmed[confirmed["tokens"] == confirmed["tokens"].max()]
    data = last[["eval", "subset", "seed", "loss"]].reset_index(drop=True)
    rules = _drawn(data["subset"].unique())

    def draw(narrow: bool) -> Figure:
        figure, panels = subplots(len(corpora), narrow, 1 if narrow else 2, height=2.6)
        for axes, corpus in zip(panels, corpora):
            for at, (rule, colour) in enumerate(rules.items()):
                loss = data.loc[(data["eval"] == corpus) & (data["subset"] == rule), "loss"]
                axes.plot(loss, np.full(len(loss), at), "o", ms=5, color=colour, alpha=0.75)
                axes.plot([loss.mean()] * 2, [at - 0.3, at + 0.3], color=colour, lw=2.2)
            axes.set(title=f"{corpus} loss", xlabel="nats per token", yticks=range(len(rules)), yticklabels=list(rules))
            axes.invert_yaxis()
        return figure

    means = data.groupby(["eval", "subset"])["loss"].mean()
    said = "; ".join(f"{corpus} {', '.join(f'{r} {means[corpus, r]:.3f}' for r in rules)}" for corpus in corpora)
    return Drawing(
        "fared",
        "How the selected text fared",
        f"Held-out losses after {count(last['tokens'].max())} tokens from the same base, each rule taking the same "
        "share of the pool. A dot is a seed, which draws the subset and the order of its text; a bar is their mean.",
        f"Mean held-out losses: {said}.",
        data,
        draw,
    )


def plane(
    pool: Pool,
    test: Pool,
    region: Region,
    fraction: float,
    trained: Mapping[str, tuple[float, float]],
    fit: "Fit",
    decision: Decision,
    choice: tuple[float, float],
    of_law: tuple[float, float],
) -> Drawing:
    """What can be reached, what was trained, what was chosen, and where the held-out text lies.

    Args:
      pool, test: chunks of the training text and of the held-out text.
      region: what subsets with the share `fraction` of the pool can have.
      trained: cell -> (mean, std).
      fit: what the choice was made by; `decision` is what it recommends.
      choice, of_law: (mean, std) of its best subset, and of the law's.
    """
    cells = np.array(list(trained.values()))
    edge = region.grid(161, slack=0.0)
    predicted = fit.predict(tokens=decision.inputs["tokens"], ppl_mean=edge[:, 0], ppl_std=edge[:, 1]).point
    draws = np.stack([decision.samples["mean"], decision.samples["spread"]], -1)
    whole, held_out = pool.moments(), test.moments()
    # Straight edges in the plane of E[x] and E[x^2] are curves in this one.
    corners = np.vstack([region.corners, region.corners[:1]])
    outline = [np.interp(np.linspace(0, len(corners) - 1, 1000), np.arange(len(corners)), c) for c in corners.T]
    low, high = cells.min(axis=0), cells.max(axis=0)
    near = ((edge >= low) & (edge <= high)).all(axis=1)
    points = [("cell " + name, *cell) for name, cell in trained.items()]
    points += [("choice", *choice), ("the law's own", *of_law), ("pool", *whole), ("held-out text", *held_out)]

    def draw(narrow: bool) -> Figure:
        figure, (axes,) = subplots(1, narrow, 1, height=4.2, width=NARROW if narrow else 7.2)
        axes.fill(outline[0], np.sqrt(np.maximum(outline[1] - outline[0] ** 2, 0)), color=style.RULE, alpha=0.5, lw=0)
        x, y = edge[near].T
        axes.tricontour(x, y, predicted[near], 8, colors=[style.INK], linewidths=0.6, alpha=0.6)
        axes.plot(*draws.T, ".", ms=4, color=style.ACCENT, alpha=0.15)
        axes.plot(*cells.T, "o", ms=6, mfc=style.PAPER, mec=style.INK)
        axes.plot(*choice, "*", ms=15, color=style.ACCENT, mec=style.PAPER)
        axes.plot(*of_law, "*", ms=13, color=style.SIZES[3], mec=style.PAPER)
        axes.plot(*whole, "s", ms=7, color=style.MUTED)
        axes.plot(*held_out, "D", ms=7, color=style.BAD)
        handles = [
            key("o", style.INK, "trained cells", hollow=True),
            key("*", style.ACCENT, "the choice, and by resample"),
            key("*", style.SIZES[3], "the law's own"),
            key("s", style.MUTED, "the whole pool"),
            key("D", style.BAD, "held-out text"),
        ]
        legend(figure, handles, figure.get_figwidth(), loc="outside lower left")
        axes.set(xlabel=f"mean {pool.unit} of a chunk", ylabel="its spread (std)")
        return figure

    return Drawing(
        "plane",
        "Which mean and spread",
        f"Shaded: what subsets with {fraction:.0%} of the pool can have. Lines: equal predicted {fit.eval} "
        f"loss between the cells, {np.ptp(predicted[near]):.3f} nats from best to worst. Small dots: the "
        "best of each bootstrap resample. If the choice lies on the held-out text, the law may have "
        "found no more than that training text should be like the test.",
        f"The chosen subset has mean {choice[0]:.3g} and spread {choice[1]:.3g}; the pool {whole[0]:.3g} and "
        f"{whole[1]:.3g}; the held-out text {held_out[0]:.3g} and {held_out[1]:.3g}.",
        pd.DataFrame(points, columns=["point", "mean", "spread"]),
        draw,
    )


def histogram(pool: Pool, chosen: Mapping[str, np.ndarray]) -> Drawing:
    """The pool's chunks by x, and those of each rule's subset: `chosen` has their x, (units,) each."""
    edges = np.linspace(pool.first.min(), pool.first.max(), 61)
    values = {"pool": pool.first, **chosen}
    data = pd.DataFrame({"from": edges[:-1], "to": edges[1:]})
    for name, x in values.items():
        data[name] = np.histogram(x, edges)[0] / len(x)

    def draw(narrow: bool) -> Figure:
        figure, (axes,) = subplots(1, narrow, 1, height=2.9, width=NARROW if narrow else 7.2)
        axes.stairs(data["pool"], edges, fill=True, color=style.RULE, label="pool")
        for rule, colour in _drawn(chosen).items():
            axes.stairs(data[rule], edges, color=colour, lw=1.5, label=rule)
        axes.legend()
        axes.set(xlabel=f"{pool.unit} of a chunk", ylabel="share of the chunks")
        return figure

    mean, std = pool.moments()
    return Drawing(
        "landscape",
        "The landscape, and what each rule takes of it",
        "Chunks by their value under the base model, each curve as shares of its own chunks; "
        f"{pool.clipped:.2%} of the pool is clipped at {pool.cap:.3g}.",
        f"The pool has mean {mean:.3g} and standard deviation {std:.3g} in {pool.unit}.",
        data,
        draw,
    )
