"""The report of a perplexity study: what the law chose, how it fared against simpler choices, and the landscape."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cptlaw import atomic
from cptlaw.report import figures, html, style
from cptlaw.report.figures import Drawing
from cptlaw.report.html import Markup, tag
from cptlaw.studies.selection_found import Found
from cptlaw.words import count

RULES = {"law": style.ACCENT, "competitor": style.SIZES[3], "random": style.MUTED, "low": style.SIZES[2],
         "mid": style.SIZES[4], "high": style.BAD}  # fmt: skip


def write(
    path: str | os.PathLike[str], found: Found, *, title: str, summary: pd.DataFrame, examples: pd.DataFrame,
    verdict: str, command: str = "",
) -> Path:  # fmt: skip
    """Writes the page of one domain, and every figure as PNG and CSV in the folder NAME_figures beside it.

    Args:
      found: what the study found.
      summary: as of `perplexity.landscape.summary`, lines of the landscape.
      examples: chunks at both ends: end, x, duplicate, text.
      verdict: what the confirming runs say of all rules.
      command: what made this report.
    """
    path = Path(path)
    folder = path.parent / f"{path.stem}_figures"

    def show(drawing: Drawing, before: Markup = html.NOTHING) -> Markup:
        wide, narrow, png = drawing.render()
        atomic.write_bytes(folder / f"{drawing.name}.png", png)
        atomic.write_text(folder / f"{drawing.name}.csv", drawing.data.to_csv(index=False))
        return Markup(tag("h2", drawing.title) + before + html.figure(drawing, wide, narrow, folder.name))

    decision = found.decision
    body = [
        tag("p", title, class_="title"),
        tag("p", decision.question, class_="question"),
        tag("h1", headline(found)),
        tag("p", verdict, class_="lead"),
        tag("p", decision.answer),
        show(fared(found), _gaps(found)),
        show(plane(found), _moments(found)),
        tag("h2", "Does the law earn its parameters?"),
        tag(
            "p",
            "Each subset is left out in turn, with all its seeds and tokens, and predicted from the others. The law is "
            "worth its parameters only if it comes before those that know tokens alone, or no interaction.",
        ),
        *(_ranking(found, corpus) for corpus in found.rankings),
        show(histogram(found), _summary(found, summary)),
        tag("h2", "What lies at the ends"),
        _examples(examples),
        tag("h2", "Where this comes from"),
        html.definitions(
            {
                "report made by": tag("code", command) if command else "",
                "law": found.fits[found.domain].law.title,
                "source": found.fits[found.domain].law.source,
                "runs": f"{found.table['run'].nunique()} of the cells, {found.confirmed['run'].nunique()} confirming",
                "share of the pool in a subset": f"{found.fraction:.0%}",
                "chunks clipped": f"{found.pool.clipped:.2%}, at {found.pool.cap:.4g}",
                "tokens in no whole chunk": f"{found.pool.unused:.1%}",
            }
        ),
        *(tag("p", f"{name}: {note}", class_="note") for name, fit in found.fits.items() for note in fit.warnings),
    ]
    atomic.write_text(path, html.document(title, style.css(), Markup("\n".join(body))))
    return path


def fared(found: Found) -> Drawing:
    """Final losses of the confirming runs, a dot a seed."""
    last = found.confirmed[found.confirmed["tokens"] == found.confirmed["tokens"].max()]
    data = last[["eval", "subset", "seed", "loss"]].reset_index(drop=True)
    corpora = list(found.fits)

    def draw(narrow: bool) -> Figure:
        figure, panels = figures.subplots(len(corpora), narrow, 1 if narrow else 2, height=2.6)
        for axes, corpus in zip(panels, corpora):
            for at, (rule, colour) in enumerate(RULES.items()):
                loss = data.loc[(data["eval"] == corpus) & (data["subset"] == rule), "loss"]
                axes.plot(loss, np.full(len(loss), at), "o", ms=5, color=colour, alpha=0.75)
                axes.plot([loss.mean()] * 2, [at - 0.3, at + 0.3], color=colour, lw=2.2)
            axes.set(title=f"{corpus} loss", xlabel="nats per token", yticks=range(len(RULES)), yticklabels=list(RULES))
            axes.invert_yaxis()
        return figure

    means = data.groupby(["eval", "subset"])["loss"].mean()
    said = "; ".join(f"{corpus} {', '.join(f'{r} {means[corpus, r]:.3f}' for r in RULES)}" for corpus in corpora)
    return Drawing(
        "fared",
        "How the selected text fared",
        f"Held-out losses after {count(last['tokens'].max())} tokens from the same base, each rule taking the same "
        "share of the pool. A dot is a seed, which draws the subset and the order of its text; a bar is their mean.",
        f"Mean held-out losses: {said}.",
        data,
        draw,
    )


def plane(found: Found) -> Drawing:
    """What can be reached, what was trained, what the law recommends, and where the held-out text lies."""
    names = list(found.cells)
    cells = np.array([found.cells[name] for name in names])
    edge = found.region.grid(161, slack=0.0)
    fit, tokens = found.fits[found.domain], found.decision.inputs["tokens"]
    predicted = fit.predict(tokens=tokens, ppl_mean=edge[:, 0], ppl_std=edge[:, 1]).point
    best, other = ((d.point["mean"], d.point["spread"]) for d in (found.decision, found.other))
    draws = np.stack([found.decision.samples["mean"], found.decision.samples["spread"]], -1)
    whole, test = found.pool.moments(), found.test.moments()
    # Straight edges in the plane of E[x] and E[x^2] are curves in this one.
    corners = np.vstack([found.region.corners, found.region.corners[:1]])
    outline = [np.interp(np.linspace(0, len(corners) - 1, 1000), np.arange(len(corners)), c) for c in corners.T]
    low, high = cells.min(axis=0), cells.max(axis=0)
    near = ((edge >= low) & (edge <= high)).all(axis=1)
    points = [("cell " + name, *cell) for name, cell in zip(names, cells)]
    points += [("recommended", *best), (found.rival, *other), ("pool", *whole), ("held-out text", *test)]

    def draw(narrow: bool) -> Figure:
        figure, (axes,) = figures.subplots(1, narrow, 1, height=4.2, width=figures.NARROW if narrow else 7.2)
        axes.fill(outline[0], np.sqrt(np.maximum(outline[1] - outline[0] ** 2, 0)), color=style.RULE, alpha=0.5, lw=0)
        x, y = edge[near].T
        axes.tricontour(x, y, predicted[near], 8, colors=[style.INK], linewidths=0.6, alpha=0.6)
        axes.plot(*draws.T, ".", ms=4, color=style.ACCENT, alpha=0.15)
        axes.plot(*cells.T, "o", ms=6, mfc=style.PAPER, mec=style.INK)
        axes.plot(*best, "*", ms=15, color=style.ACCENT, mec=style.PAPER)
        axes.plot(*other, "*", ms=13, color=style.SIZES[3], mec=style.PAPER)
        axes.plot(*whole, "s", ms=7, color=style.MUTED)
        axes.plot(*test, "D", ms=7, color=style.BAD)
        figure.legend(
            handles=[
                figures.key("o", style.INK, "trained cells", hollow=True),
                figures.key("*", style.ACCENT, "the law's choice, and by resample"),
                figures.key("*", style.SIZES[3], "the competitor's"),
                figures.key("s", style.MUTED, "the whole pool"),
                figures.key("D", style.BAD, "held-out text"),
            ],
            loc="outside lower center",
            ncols=2 if narrow else 3,
        )
        axes.set(xlabel=f"mean {found.pool.unit} of a chunk", ylabel="its spread (std)")
        return figure

    return Drawing(
        "plane",
        "Which mean and spread",
        f"Shaded: what subsets with {found.fraction:.0%} of the pool can have. Lines: equal predicted {found.domain} "
        f"loss between the cells, {np.ptp(predicted[near]):.3f} nats from best to worst. Small dots: the "
        "recommendation of each bootstrap resample. If the recommendation lies on the held-out text, the law may have "
        "found no more than that training text should be like the test.",
        f"The recommended subset has mean {best[0]:.3g} and spread {best[1]:.3g}; the pool {whole[0]:.3g} and "
        f"{whole[1]:.3g}; the held-out text {test[0]:.3g} and {test[1]:.3g}.",
        pd.DataFrame(points, columns=["point", "mean", "spread"]),
        draw,
    )


def histogram(found: Found) -> Drawing:
    """The pool's chunks by x, and those of each rule's subset."""
    edges = np.linspace(found.pool.first.min(), found.pool.first.max(), 61)
    values = {"pool": found.pool.first, **found.values}
    data = pd.DataFrame({"from": edges[:-1], "to": edges[1:]})
    for name, x in values.items():
        data[name] = np.histogram(x, edges)[0] / len(x)

    def draw(narrow: bool) -> Figure:
        figure, (axes,) = figures.subplots(1, narrow, 1, height=2.9, width=figures.NARROW if narrow else 7.2)
        axes.stairs(data["pool"], edges, fill=True, color=style.RULE, label="pool")
        for rule, colour in RULES.items():
            axes.stairs(data[rule], edges, color=colour, lw=1.5, label=rule)
        axes.legend()
        axes.set(xlabel=f"{found.pool.unit} of a chunk", ylabel="share of the chunks")
        return figure

    mean, std = found.pool.moments()
    return Drawing(
        "landscape",
        "The landscape, and what each rule takes of it",
        "Chunks by their value under the base model, each curve as shares of its own chunks; "
        f"{found.pool.clipped:.2%} of the pool is clipped at {found.pool.cap:.3g}.",
        f"The pool has mean {mean:.3g} and standard deviation {std:.3g} in {found.pool.unit}.",
        data,
        draw,
    )


def _gaps(found: Found) -> Markup:
    rows = [
        [f"{row.eval} loss, {row.chosen} against {row.rule}", f"{row.gain:+.4f}", f"{row.low:+.4f} to {row.high:+.4f}",
         tag("span", "better", class_="yes") if row.low > 0 else tag("span", "worse", class_="no") if row.high < 0
         else "not told apart"]
        for row in found.gaps.itertuples()
    ]  # fmt: skip
    note = tag(
        "p",
        f"The competitor is {found.rival}, the law without an interaction of mean and spread, or the surface, that "
        "predicted left-out subsets best. Differences are paired by seed; the intervals are Student's t over seeds.",
        class_="table-note",
    )
    return Markup(html.table(["The choice of the", "gain, nats", "95% interval", ""], rows, cards=True) + note)


def _moments(found: Found) -> Markup:
    point, spans = found.decision.point, found.decision.interval
    rows = [["the law's recommendation", f"{point['mean']:.4g}", f"{point['spread']:.4g}"]]
    rows.append(["its interval", *(f"{spans[k][0]:.4g} to {spans[k][1]:.4g}" for k in ("mean", "spread"))])
    other = found.other.point
    rows.append([found.rival, f"{other['mean']:.4g}", f"{other['spread']:.4g}"])
    named = {"the whole pool": found.pool.moments(), f"held-out {found.domain} text": found.test.moments()}
    rows += [[name, f"{mean:.4g}", f"{std:.4g}"] for name, (mean, std) in named.items()]
    loss = found.decision.losses[found.domain]
    lead = tag(
        "p",
        f"The recommendation is {found.decision.inputs['verdict']}. The law predicts a {found.domain} loss of "
        f"{loss['point']:.3f} there ({loss['low']:.3f} to {loss['high']:.3f}); measured: {found.measured():.3f}.",
    )
    return Markup(lead + html.table(["", f"mean {found.pool.unit}", "spread"], rows))


def headline(found: Found) -> str:
    """Whether what the law chose is better than random text."""
    gaps = found.gaps.set_index(["eval", "chosen", "rule"]).loc[(found.domain, "law", "random")]
    if gaps["low"] <= 0 <= gaps["high"]:
        return f"The law's choice of {found.domain} text is not told from random text"
    better = "better" if gaps["gain"] > 0 else "worse"
    return f"The law's choice of {found.domain} text is {better} than random text, by {abs(gaps['gain']):.3f} nats"


def _ranking(found: Found, corpus: str) -> Markup:
    rows = []
    for row in found.rankings[corpus].table.itertuples():
        behind = f"{row.behind:.2%} ({row.behind_low:.2%} to {row.behind_high:.2%})" if row.Index else ""
        rows.append([row.name, row.parameters or "", f"{row.mae:.4f}", f"{row.mean_log:.2%}", behind])
    header = ["Law or rule", "parameters", "mean error, nats", "of the loss", "behind the best (90%)"]
    names = list(found.rankings[corpus].table["name"])
    return Markup(tag("h3", f"{corpus} loss") + html.table(header, rows, marked=names.index("perplexity")))


def _summary(found: Found, summary: pd.DataFrame) -> Markup:
    shown = [name for name in summary if name not in ("group", "chunks", "share")]
    rows = [[r["group"], f"{r['chunks']:,}", *(f"{r[name]:.3g}" for name in shown)] for _, r in summary.iterrows()]
    return html.table(["Documents of", "chunks", *shown], rows)


def _examples(examples: pd.DataFrame) -> Markup:
    note = tag(
        "p",
        "Low: text the base model finds predictable. Where most 5-grams are shared with a neighbour it is a near-"
        "duplicate or boilerplate. High: what it cannot predict, often noise, tables or names.",
    )
    rows = [[r.end, f"{r.x:.2f}", f"{r.duplicate:.0%}", tag("code", r.text)] for r in examples.itertuples()]
    return Markup(note + html.table(["End", "x", "5-grams shared", "text"], rows))
