"""The first screen: the question, the answer, what it promises, and what was measured afterwards."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from cptlaw.fitting import verdicts
from cptlaw.planning.confirmation import confirmation
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.tradeoff import base_loss
from cptlaw.report.html import Markup, table, tag, text
from cptlaw.words import percent, spread

if TYPE_CHECKING:
    from cptlaw.fitting import Fit

NAMED = 5  # corpora that a headline names, or four and how many others
FEW = 8  # corpora whose rows become cards on a phone


def first_screen(
    decision: Decision,
    fits: Mapping[str, "Fit"],
    measured: pd.DataFrame,
    confirm: pd.DataFrame | None,
    question: str | None,
) -> Markup:
    """The decision the page is about.

    Args:
      measured: the runs table, for the base model's losses.
      confirm: rows of the run trained at the recommendation, if any.
    """
    parts = [tag("p", question or decision.question, class_="question"), tag("h1", headline(decision))]
    if decision.kind == "trade-off":
        parts.append(_strip(decision))
    parts.append(tag("p", _promise(decision), class_="lead"))
    parts += standing(fits)
    if confirm is None:
        parts.append(_predictions(decision, measured))
    else:
        checked = confirmation(fits, confirm, decision.level)
        parts += [_verdict(decision, checked, confirm), _comparison(checked, decision, measured)]
    parts += [tag("p", f"Extrapolation: {note}.", class_="note") for note in decision.extrapolation]
    return Markup("".join(parts))


def rejections(fits: Mapping[str, "Fit"]) -> Markup:
    """The laws that their table rejects, and what helps: what is read before anything else."""
    lines = dict.fromkeys(line.strip() for fit in fits.values() for line in fit.rejection)
    parts = []
    for line in lines:
        word, colon, rest = line.partition("REJECTED:")
        parts.append(tag("p", *((tag("span", colon, class_="no"), rest) if colon else (word,)), class_="rejected"))
    return Markup("".join(parts))


def standing(fits: Mapping[str, "Fit"]) -> list[Markup]:
    """Whether what is predicted beat, on rows never fitted, the best rule that knows no law."""
    notes = []
    for name, fit in fits.items():
        held = fit.scores.get("held_out", {})
        stands = verdicts.standing(held)
        if "law" not in held or not (stands or held.get("beaten_by")):
            continue
        own = held.get("process", held["law"])["mean_log"]
        corrected = f" ({100 * own:.1f}% once corrected by how it missed)" if "process" in held else ""
        said = f"on {held['n']} rows it never saw the {name} law is typically {100 * held['law']['mean_log']:.1f}% off"
        rival = f", which is {100 * stands['rival']:.1f}% off" if stands else ""
        if stands and stands["wins"]:
            best = stands["best"].replace("_", " ")
            words = f"{said}{corrected}, better than the best rule without a law, {best}{rival}."
            notes.append(tag("p", tag("span", "Checked: ", class_="yes"), words))
            continue
        beaten = [r for r in held["beaten_by"] if held.get(r, held["law"])["mean_log"] <= own] or [stands["best"]]
        rivals = " and ".join(r.replace("_", " ") for r in beaten)
        best = f" (the best of them {100 * stands['rival']:.1f}%)" if stands else ""
        words = f"{said}{corrected}, no better than {rivals}{best}."
        notes.append(tag("p", tag("span", "Caution: ", class_="no"), words))
    return notes


def headline(decision: Decision) -> str:
    """The answer without its qualifications, which follow it."""
    if decision.kind == "mixture" and decision.supported:
        order = sorted(decision.point, key=lambda name: -decision.point[name])
        shown = order if len(order) <= NAMED else order[: NAMED - 1]
        words = [f"{percent(decision.point[name])} {name}" for name in shown]
        if rest := order[len(shown) :]:
            words.append(f"{percent(sum(decision.point[name] for name in rest))} of {len(rest)} others")
        return ", ".join(words)
    if decision.kind != "trade-off" or not decision.supported:
        return decision.answer
    share, domain, general = decision.point["share"], decision.inputs["domain"], decision.inputs["general"]
    if share in (0, 1):
        return f"{(general, domain)[int(share)]} text only"
    return f"{percent(share)} {domain} text, {percent(1 - share)} {general} text"


def _strip(decision: Decision) -> Markup:
    """The share and its interval on a line from 0 to 100%."""
    point, (low, high) = decision.point["share"], decision.interval["share"]
    words = f"{decision.level:.0%} interval: {spread(low, high)} {decision.inputs['domain']} text"
    parts = (
        tag("span", class_="track"),
        tag("span", class_="span", style=f"left: {100 * low:.2f}%; width: {100 * max(high - low, 0.004):.2f}%"),
        tag("span", class_="mark", style=f"left: {100 * point:.2f}%"),
        tag("span", tag("span", "0%"), tag("span", f"100% {decision.inputs['domain']} text"), class_="ends"),
    )
    bar = tag("div", *parts, class_="strip", role="img", aria_label=f"{percent(point)}; {words}")
    return Markup(tag("p", words, class_="interval") + bar)


def _promise(decision: Decision) -> str:
    words = []
    if decision.kind == "trade-off":
        rise = decision.losses[decision.inputs["general"]]["point"] / decision.inputs["base_loss"] - 1
        words.append(
            f"At this mix the predicted {decision.inputs['general']} loss is {rise:+.1%} from the base model's."
        )
    if decision.holds is not None:
        words.append(f"The ceiling holds with a probability of {decision.holds:.0%}.")
    if "over mean" in decision.regret:
        words.append(
            f"If the prediction is off, the choice gives up {decision.regret['given up mean']:.2g} nats of the wanted "
            f"loss and passes the ceiling by {decision.regret['over mean']:.2g} on average, by more than "
            f"{decision.regret['given up p90']:.2g} and {decision.regret['over p90']:.2g} one time in ten."
        )
    elif decision.regret:
        mean, p90 = decision.regret["mean"], decision.regret["p90"]
        words.append(
            f"If the prediction is off, the choice costs {mean:.2g} nats on average, over {p90:.2g} one time in ten."
        )
    return " ".join(words)


def _predictions(decision: Decision, measured: pd.DataFrame) -> Markup:
    rows = []
    for corpus, loss in decision.losses.items():
        rows.append(
            [corpus, _base(decision, measured, corpus), f"{loss['point']:.3f}", _span(loss["low"], loss["high"])]
        )
    header = ["Nats per token", "base model", "predicted", f"{decision.level:.0%} interval of the expected loss"]
    return table(header, rows, cards=True)


def _comparison(checked: pd.DataFrame, decision: Decision, measured: pd.DataFrame) -> Markup:
    once, rows = bool((checked["runs"] == 1).all()), []
    for row in checked.itertuples():
        words = ("inside" if row.inside else "outside") if row.runs == 1 else f"inside in {row.inside} of {row.runs}"
        found = f"{row.measured:.3f}" if once else f"{row.measured:.3f} \N{PLUS-MINUS SIGN} {row.sd:.3f}"
        rows.append([
            f"{row.eval} loss", _base(decision, measured, row.eval), f"{row.predicted:.3f}", _span(row.low, row.high),
            found, f"{row.difference:+.3f}", tag("span", words, class_="yes" if row.inside == row.runs else "no"),
        ])  # fmt: skip
    span = f"{decision.level:.0%} interval for one run"
    what = "measured" if once else f"measured, {int(checked['runs'].max())} runs"
    header = ["Nats per token", "base model", "predicted", span, what, "difference", "measured is"]
    # Cards of many corpora would fill a phone's screen many times over.
    found = table(header, rows, cards=len(rows) <= FEW)
    if once:
        return found
    note = "Measured: mean and standard deviation of the runs; inside: how many of them lie in the interval."
    return Markup(found + tag("p", note, class_="table-note"))


def _verdict(decision: Decision, checked: pd.DataFrame, confirm: pd.DataFrame) -> Markup:
    inside, losses, times = int(checked["inside"].sum()), int(checked["runs"].sum()), int(checked["runs"].max())
    often = "once" if times == 1 else f"{times} times, each with a seed of its own"
    trained = f"This mix was then trained {often}"
    if decision.kind == "trade-off":
        share = confirm[f"w_{decision.inputs['domain']}"].iloc[-1]
        trained = f"A mix of {percent(share)} {decision.inputs['domain']} text was then trained {often}"
    which = "every measured loss lies inside its predicted interval"
    if inside == 0:
        which = "no measured loss lies inside its predicted interval"
    elif inside < losses:
        which = f"{inside} of {losses} measured losses lie inside their predicted intervals"
    words = f"{trained}: {which}"
    mean = dict(zip(checked["eval"], checked["measured"]))
    if decision.kind == "trade-off" and decision.inputs["general"] in mean:
        value = mean[decision.inputs["general"]]
        rise = value / decision.inputs["base_loss"] - 1
        held = "and the ceiling holds" if value <= decision.inputs["ceiling"] else "but the ceiling is passed"
        words += f", {held} ({rise:+.1%} against {decision.inputs['tolerance']:+.1%} allowed)"
    if decision.kind == "mixture":
        for name, ceiling in decision.inputs["ceilings"].items():
            held = "and the ceiling on" if mean[name] <= ceiling else "but the ceiling on"
            words += f", {held} {name} {'holds' if mean[name] <= ceiling else 'is passed'}"
            words += f" ({mean[name]:.3f} against {ceiling:.3f} allowed)"
    return tag("p", text(words + "."))


def _base(decision: Decision, measured: pd.DataFrame, corpus: str) -> str:
    if corpus == decision.inputs.get("general"):
        return f"{decision.inputs['base_loss']:.3f}"
    try:
        return f"{base_loss(measured, corpus, (decision.inputs | decision.point)['params']):.3f}"
    except (DecisionError, KeyError):  # the table need not have it, nor the question a size
        return ""


def _span(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"
