"""The report of a perplexity study: what the law chose, how it fared against simpler choices, and the landscape."""

import os
from pathlib import Path

import pandas as pd

from cptlaw import atomic
from cptlaw.paths import local
from cptlaw.planning.best_subset import BEST, option
from cptlaw.planning.numbers import interval
from cptlaw.report import html, style
from cptlaw.report.answer import rejections
from cptlaw.report.figures import Drawing, subsets
from cptlaw.report.html import Markup, tag
from cptlaw.studies.selection_found import Found, compared


def write(
    path: str | os.PathLike[str], found: Found, *, title: str, summary: pd.DataFrame, examples: pd.DataFrame,
    verdict: str, command: str = "",
) -> Path:  # fmt: skip
    """Writes the page of one domain, and every figure as SVG, PNG and CSV in the folder NAME_figures beside it.

    Args:
      found: what the study found.
      summary: as of `perplexity.landscape.summary`, lines of the landscape.
      examples: chunks at both ends: end, x, duplicate, text.
      verdict: what the confirming runs say of all rules.
      command: what made this report.
    """
    path = local(path)
    folder = path.parent / f"{path.stem}_figures"

    def show(drawing: Drawing, before: Markup = html.NOTHING) -> Markup:
        return html.figure(drawing, folder, before=before)

    decision = found.decision
    body = [
        rejections(found.fits),
        tag("p", title, class_="title"),
        tag("p", decision.question, class_="question"),
        tag("h1", headline(found)),
        tag("p", verdict, class_="lead"),
        tag("p", decision.answer),
        show(subsets.fared(found.confirmed, list(found.fits)), _gaps(found)),
        *_second_round(found),
        show(_plane(found), _moments(found)),
        tag("h2", "Does the law earn its parameters?"),
        tag(
            "p",
            "Each subset is left out in turn, with all its seeds and tokens, and predicted from the others. The law is "
            "worth its parameters only if it comes before those that know tokens alone, or no interaction.",
        ),
        *(_ranking(found, corpus) for corpus in found.rankings),
        show(subsets.histogram(found.pool, found.values), _summary(found, summary)),
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


def _plane(found: Found) -> Drawing:
    return subsets.plane(
        found.pool,
        found.test,
        found.region,
        found.fraction,
        found.cells,
        found.winner,
        found.decision,
        option(found.decision, BEST),
        option(found.of_law, BEST),
    )


def _gaps(found: Found) -> Markup:
    note = tag(
        "p",
        f"The choice is that of {found.winner.law.name}, which predicted left-out subsets best of those that know "
        "perplexity; the law's own stands beside it where it is another. Differences are paired by seed; the intervals "
        "are Student's t over seeds.",
        class_="table-note",
    )
    return Markup(_lines(found.gaps) + note)


def _lines(lines: pd.DataFrame) -> Markup:
    """Lines as of `gaps` as a table."""
    rows = [
        [f"{row.eval} loss, {row.chosen} against {row.rule}", f"{row.gain:+.4f}", f"{row.low:+.4f} to {row.high:+.4f}",
         tag("span", "better", class_="yes") if row.low > 0 else tag("span", "worse", class_="no") if row.high < 0
         else "not told apart"]
        for row in lines.itertuples()
    ]  # fmt: skip
    return html.table(["", "gain, nats", "95% interval", ""], rows, cards=True)


def _second_round(found: Found) -> list[Markup]:
    if found.gaps_again is None:
        return []
    lead = (
        "The base was trained on its choice once, its text scored under the result and chosen again, as far from its "
        "mean, in its standard deviations, as before. From there it went on with the new choice, or with the first one."
    )
    return [tag("h2", "Does a second round help?"), tag("p", lead), _lines(found.gaps_again)]


def _moments(found: Found) -> Markup:
    level = found.decision.level
    spans = {key: interval(values, level) for key, values in found.decision.samples.items()}
    named = {f"the choice, by {found.winner.law.name}": option(found.decision, BEST)}
    rows = [[name, f"{mean:.4g}", f"{std:.4g}"] for name, (mean, std) in named.items()]
    rows.append(
        [
            f"its resamples, {level:.0%} of them",
            *(f"{spans[k][0]:.4g} to {spans[k][1]:.4g}" for k in ("mean", "spread")),
        ]
    )
    named = {
        "the law's own": option(found.of_law, BEST),
        "the whole pool, and so random text": found.pool.moments(),
        f"held-out {found.domain} text": found.test.moments(),
    }
    rows += [[name, f"{mean:.4g}", f"{std:.4g}"] for name, (mean, std) in named.items()]
    loss = found.decision.losses[found.domain]
    what = "the choice" if found.decision.supported else "random text"
    lead = tag(
        "p",
        f"The choice is {found.decision.inputs['verdict']}. Recommended is {what}; predicted {found.domain} loss "
        f"{loss['point']:.3f} ({loss['low']:.3f} to {loss['high']:.3f}), measured {found.measured():.3f}.",
    )
    return Markup(lead + html.table(["", f"mean {found.pool.unit}", "spread"], rows))


def headline(found: Found) -> str:
    """Whether the choice is better than random text, which is what the study asks first."""
    said = compared(found.gap(), f"the choice of {found.domain} text", "random text")
    return said[0].upper() + said[1:]


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
