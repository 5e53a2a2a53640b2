"""The report: question and answer on the first screen, then how sure it is, then what it was made from."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import cptlaw
from cptlaw import atomic, runs
from cptlaw.fitting import rivals, verdicts
from cptlaw.paths import local
from cptlaw.planning import noise
from cptlaw.planning.confirmation import confirmation
from cptlaw.planning.decision import OUTSIDE, Decision, cells
from cptlaw.report import answer, figures, html, style, whatif
from cptlaw.report.html import Markup, tag
from cptlaw.words import count, nats, percent

if TYPE_CHECKING:
    from cptlaw.fitting import Fit


MOST_ROWS = 1000  # of the runs table that a page shows
KINDS = {
    "trade-off": "Another trade-off",
    "share-for-loss": "The share for a wanted loss",
    "limited-data": "With little domain text",
    "budget": "For a compute budget",
    "gate": "Which recipe",
    "mixture": "The best mix",
    "pareto": "The front",
    "subset": "Which text to choose",
    "next": "What to run next",
    "design": "Before the first run",
}


def write(
    path: str | os.PathLike[str],
    *,
    title: str,
    table: pd.DataFrame,
    fits: Mapping[str, "Fit"],
    decisions: Sequence[Decision] = (),
    confirm: pd.DataFrame | None = None,
    question: str | None = None,
    command: str = "",
    level: float = 0.9,
) -> Path:
    """Writes the report, and every figure as SVG, PNG and CSV in the folder NAME_figures beside it.

    Args:
      path: the HTML file.
      title: names the study, small, above the question.
      table: the runs table the fits come from.
      fits: evaluated corpus -> fit.
      decisions: the answers; the first is the one the page opens with.
      confirm: rows of the runs trained at the recommendation, if there are any; they were in no fit. Their last
        evaluations are shown.
      question: asked in your words; the first decision's own by default.
      command: what made this report.
      level: of every interval that a decision does not bring along.
    """
    path = local(path)
    if confirm is not None:
        confirm = confirm[confirm["tokens"] == confirm["tokens"].max()]
    folder = path.parent / f"{path.stem}_figures"

    def show(drawing: figures.Drawing, heading: str = "h2", before: Markup = html.NOTHING) -> Markup:
        return html.figure(drawing, folder, heading, before)

    body = [answer.rejections(fits), tag("p", title, class_="title")]
    trade = next((d for d in decisions[:1] if d.kind == "trade-off"), None)
    asking = whatif.section(fits, trade, decisions, table, level)
    if decisions:
        body.append(answer.first_screen(decisions[0], fits, table, confirm, question))
    else:
        body += answer.standing(fits)
    if trade is not None:
        general, domain = fits[trade.inputs["general"]], fits[trade.inputs["domain"]]
        if figures.follows_the_mix({"general": general, "domain": domain}):
            body.append(show(figures.front(general, domain, trade, confirm, level)))
        body.append(_options(trade))
        body.append(asking.markup)
        body.append(show(figures.share_distribution(trade), before=_agreement(trade)))
        body.append(_influence(trade))
    else:
        body += _of_any_kind(decisions[0], show) if decisions else []
        body.append(asking.markup)
    if confirm is not None and len(fits) > 2:
        body.append(show(figures.measured(confirmation(fits, confirm, level), confirm, level)))
    body += [_other(decision) for decision in decisions[1:]]
    if figures.follows_the_mix(fits):
        two = trade.inputs["domain"] if trade is not None and len(runs.corpora(table)) == 2 else None
        body.append(show(figures.loss_by_share(fits, two, confirm, level)))
    body += [tag("h2", "Can the law be trusted?"), _warnings(fits, decisions), _scores(fits)]
    body.append(show(figures.predicted_observed(fits), "h3"))
    body.append(show(figures.residuals(fits), "h3"))
    body += [_noise(table), tag("h2", "The law"), *(_law(fit, level) for fit in fits.values())]
    body += [tag("h2", "Where this comes from"), _provenance(fits, table, command), _runs(table, fits)]

    atomic.write_text(path, html.document(title, style.css(), Markup("\n".join(body)), asking.script))
    return path


def _options(decision: Decision) -> Markup:
    """The recommendation beside the rules of thumb at the same cost."""
    corpora = list(decision.losses)

    def losses(found: Mapping[str, Mapping[str, float]]) -> list[str]:
        of = ([nats(found[c][name]) for name in ("point", "low", "high")] for c in corpora)
        return [f"{point} ({low} to {high})" for point, low, high in of]

    own = decision.samples["share"]
    met = float((own >= decision.point["share"]).mean()) if decision.holds is None else decision.holds
    rows = [["recommended", percent(decision.point["share"]), *losses(decision.losses), f"{met:.0%}"]]
    for option in decision.options:
        name = option.name + " *" * option.outside
        rows.append([name, percent(option.point["share"]), *losses(option.losses), f"{option.holds:.0%}"])
    header = ["Mix", f"{decision.inputs['domain']} share", *(f"{c} loss" for c in corpora), "ceiling holds in"]
    note = f"In brackets: {decision.level:.0%} intervals of the expected loss. Ceiling: probability that it holds."
    if any(option.outside for option in decision.options):
        note += f" *: {OUTSIDE}."
    if math.isclose(decision.losses[decision.inputs["general"]]["point"], decision.inputs["ceiling"], rel_tol=1e-6):
        note += (
            " The recommendation sits where the prediction meets the ceiling, so about half is expected; a share of "
            f"{100 * decision.interval['share'][0]:.1f}%, the low end of the interval, holds in "
            f"{(1 + decision.level) / 2:.0%}."
        )
    return Markup(html.table(header, rows, marked=0, cards=True) + tag("p", note, class_="table-note"))


def _of_any_kind(decision: Decision, show: Callable[..., Markup]) -> list[Markup]:
    """How sure an answer is, and what else could be done, of a question other than the trade-off."""
    parts = [_beside(decision)]
    if decision.kind == "mixture":
        parts.insert(0, show(figures.shares(decision), before=_agreement(decision)))
    else:
        parts.append(_agreement(decision))
    if decision.rows:
        parts.append(html.table(*cells(decision.rows)))
    return [*parts, _influence(decision)]


def _beside(decision: Decision) -> Markup:
    """The recommendation beside the rules of thumb: coordinates, losses, and how often the constraints hold."""
    points = [decision.point, *(option.point for option in decision.options)]
    losses = [decision.losses, *(option.losses for option in decision.options)]
    rows = []
    order = (
        sorted(decision.point, key=lambda name: -decision.point[name]) if decision.kind == "mixture" else decision.point
    )
    for name in order:
        shown = [_coordinate(name, point[name]) if name in point else "" for point in points]
        low, high = (_coordinate(name, end) for end in decision.interval.get(name, (math.nan, math.nan)))
        shown[0] += f" ({low} to {high})" if name in decision.interval else ""
        rows.append([name, *shown])
    for corpus in decision.losses:
        rows.append([f"{corpus} loss", *(f"{found[corpus]['point']:.3f}" for found in losses)])
    if weights := {name: weight for name, weight in decision.inputs.get("weights", {}).items() if weight}:
        total = max if decision.inputs["worst"] else sum
        values = [total(weight * found[name]["point"] for name, weight in weights.items()) for found in losses]
        what = "largest weighted loss" if decision.inputs["worst"] else "weighted sum of losses"
        rows.append([what, *(f"{value:.3f}" for value in values)])
    if decision.holds is not None:
        held = [decision.holds, *(option.holds for option in decision.options)]
        rows.append(["ceilings hold in", *("" if part is None else f"{part:.0%}" for part in held)])
    header = ["", "recommended", *(option.name for option in decision.options)]
    return Markup(
        tag("h2", "Beside rules of thumb") + html.table(header, rows, cards=len(decision.losses) <= answer.FEW)
    )


def _coordinate(name: str, value: float) -> str:
    if name in ("params", "tokens"):
        return count(value)
    return f"{value:.3g}" if name == "epochs" else percent(value)


def _agreement(decision: Decision) -> Markup:
    return tag("p", f"{decision.agreement:.0%} of draws agree: {decision.agreement_means}.")


def _influence(decision: Decision) -> Markup:
    """The runs that the answer's first coordinate hangs on."""
    if not decision.influence:
        return html.NOTHING
    name = next(iter(decision.point))
    rows = [[row["run"], _finely(name, row[f"{name} without it"])] for row in decision.influence]
    what = "the share" if name == "share" else name
    words = f"The runs without which {what}, {_finely(name, decision.point[name])}, would move most:"
    return Markup(tag("p", words) + html.table(["Run", f"{name} without it"], rows))


def _finely(name: str, value: float) -> str:
    """A coordinate with one more digit than an answer has."""
    return _coordinate(name, value) if name in ("params", "tokens", "epochs") else f"{100 * value:.1f}%"


def _other(decision: Decision) -> Markup:
    """A decision beside the one the page is about."""
    parts = [tag("h2", KINDS.get(decision.kind, decision.kind)), tag("p", decision.question, class_="question")]
    parts.append(tag("p", tag("strong", decision.answer), class_="lead"))
    options = {"": decision.losses} | {f", {option.name}": option.losses for option in decision.options}
    rows = []
    for which, losses in options.items():
        for corpus, loss in losses.items():
            span = f"{loss['low']:.3f} to {loss['high']:.3f}"
            rows.append([f"{corpus} loss{which}", f"{loss['point']:.3f}", span])
    if rows:
        header = ["Nats per token", "predicted", f"{decision.level:.0%} interval of the expected loss"]
        parts.append(html.table(header, rows, marked=0 if decision.options else None))
    if decision.regret:
        mean, p90 = decision.regret["mean"], decision.regret["p90"]
        parts.append(
            tag("p", f"If the prediction is off, it costs {mean:.2g} nats on average, one time in ten over {p90:.2g}.")
        )
        parts.append(_agreement(decision))
    if decision.rows:
        parts.append(html.table(*cells(decision.rows)))
    parts += [tag("p", f"Extrapolation: {note}.", class_="note") for note in decision.extrapolation]
    return Markup("".join(parts))


def _warnings(fits: Mapping[str, "Fit"], decisions: Sequence[Decision]) -> Markup:
    """What the fits and the decisions warn of, each once, and without what the first screen has said already."""
    notes = verdicts.warnings(fits, but_standing=True)
    notes += [warning for decision in decisions for warning in decision.warnings]
    if not notes:
        return tag("p", "The fits gave no other warnings.")
    return tag("ul", *(tag("li", note) for note in dict.fromkeys(notes)), class_="warnings")


def _noise(table: pd.DataFrame) -> Markup:
    """Spread between runs that differ in their seed alone."""
    found = noise.of_seeds(table)
    heading = tag("h3", "Noise between runs")
    if found.empty:
        return Markup(
            heading + tag("p", "No setting was run with more than one seed, so the noise between runs is unknown.")
        )
    lead = tag(
        "p",
        "Standard deviation of the loss between runs that differ in the seed alone. No law can be nearer than this.",
    )
    header = ["Loss of", "nats per token", "of the loss", "repeated settings"]
    rows = [[row.eval, f"{row.sd:.4f}", f"{100 * row.relative:.2f}%", row.settings] for row in found.itertuples()]
    return Markup(heading + lead + html.table(header, rows))


def _law(fit: "Fit", level: float) -> Markup:
    rows = []
    loose = {name: column for column, names in fit.rests.items() for name in names}
    for name, value in fit.params.items():
        if name in fit.settings.get("fixed", {}) or name in fit.law.fixed:
            sure = "fixed"
        elif name in loose:
            sure = f"not determined: {loose[name]} never varied"
        elif len(fit.samples.get(name, ())):
            sure = "{:.4g} to {:.4g}".format(*fit.interval(name, level))
        else:
            sure = "unknown: fitted without resamples"
        rows.append([name, f"{value:.4g}", sure])
    heading = tag("h3", f"{fit.eval}: ", tag("code", fit.law.equation))
    note = tag("p", f"{fit.law.title}. {fit.law.source}.", class_="note")
    return Markup(heading + note + html.table(["Parameter", "value", f"{level:.0%} interval"], rows))


def _provenance(fits: Mapping[str, "Fit"], table: pd.DataFrame, command: str) -> Markup:
    parts = [
        html.definitions({
            "report made by": tag("code", command) if command else "",
            "cptlaw": cptlaw.__version__,
            "runs table": f"{len(table)} rows, {table['run'].nunique()} runs",
            "its sha256": tag("code", runs.digest(table)),
        })
    ]  # fmt: skip
    for name, fit in fits.items():
        held = int(fit.residuals["held_out"].sum())
        parts.append(tag("h3", f"Fit of {name}"))
        parts.append(
            html.definitions({
                "law": f"{fit.law.title} ({fit.law.name})",
                "rows": f"{fit.n_rows} fitted, {held} held out",
                "resamples": str(len(next(iter(fit.samples.values()), ()))),
                "made by": tag("code", fit.command) if fit.command else "",
                "table's sha256": tag("code", fit.digest),
                "versions": ", ".join(f"{package} {version}" for package, version in fit.versions.items()),
            })
        )  # fmt: skip
    return Markup("".join(parts))


def _runs(table: pd.DataFrame, fits: Mapping[str, "Fit"]) -> Markup:
    """The rows, while they are few; of a long table, which would be most of the page, those that the fits are of."""
    words, shown = f"All {len(table)} rows of the runs table", table
    if len(table) > MOST_ROWS:
        fitted = pd.concat([fit.residuals[["run"]].assign(eval=name) for name, fit in fits.items()]).drop_duplicates()
        shown = table.merge(fitted, on=["run", "eval"])[:MOST_ROWS]
        words = f"{len(shown)} of {len(table)} rows of the runs table, of the runs that were fitted"
    shown = shown.dropna(axis="columns", how="all")
    rows = [[_cell(value, name) for name, value in row.items()] for row in shown.to_dict("records")]
    return tag("details", tag("summary", words), html.table(list(map(str, shown)), rows))


def _cell(value: object, column: str = "") -> str:
    if not pd.api.types.is_scalar(value):  # a list or an array of a Parquet file
        return str(value)
    if pd.isna(value):
        return ""
    if isinstance(value, float | int) and not isinstance(value, bool):
        return count(float(value)) if column in ("params", "tokens") and value else f"{value:.4g}" if value else "0"
    return str(value)


def _scores(fits: Mapping[str, "Fit"]) -> Markup:
    """Errors on rows the fit never saw, beside predictors that know no law."""
    parts = []
    for name, fit in fits.items():
        held = fit.scores.get("held_out", {})
        if not held.get("n"):
            parts.append(
                tag("p", f"The {name} law has no held-out score: {held.get('what', 'no rows were held out')}.")
            )
            continue
        found = {key: value for key, value in held.items() if isinstance(value, Mapping) and "mean_log" in value}
        order = sorted(found, key=lambda key: found[key]["mean_log"])
        ours = order.index("process" if "process" in found else "law")
        rows = []
        for key in order:
            score = found[key]
            sizes = (f"{100 * score['mean_log']:.2f}%", f"{100 * score['rms_log']:.2f}%", f"{score['mae']:.4f}")
            known = {"law": "the law alone", "process": "the law, corrected by how it missed"}
            rows.append([known.get(key) or rivals.shown(key, held.get("alike", ())).replace("_", " "), *sizes])
        of_runs = f" of {held['runs']} runs" if "runs" in held else ""
        parts.append(tag("h3", f"{name} loss: {held['n']} rows{of_runs} that the fit never saw ({held['what']})"))
        header = ["Predictor", "typical error", "root mean square", "nats per token"]
        parts.append(html.table(header, rows, marked=ours))
        if auto := fit.settings.get("auto"):
            weights = ", ".join(f"{law} {100 * weight:.0f}%" for law, weight in auto["weights"].items())
            words = f"The law was chosen by how well it predicted the table's own later rows. Weights: {weights}."
            lost = f" It lost on {'; '.join(auto['lost'])}." if auto["lost"] else ""
            parts.append(tag("p", words + lost, class_="note"))
    return Markup("".join(parts))
