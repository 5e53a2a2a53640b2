"""The what-if section of a page: sliders for the question, and losses, shares and curves computed in the browser.

The page stays one file and asks nobody: laws are written in JavaScript from their own Python (`javascript`), and the
engine has the fits' numbers (`whatif_data`). Without JavaScript the section is not shown, and the page is what it was.
"""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.fitting.process import CHECKED
from cptlaw.laws.factor import COLUMN
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.numbers import paired
from cptlaw.planning.shares import absent
from cptlaw.planning.tradeoff import tried_shares
from cptlaw.report import html, whatif_data
from cptlaw.report.html import Markup, tag
from cptlaw.report.javascript import NotWritten
from cptlaw.words import count, percent

if TYPE_CHECKING:
    from cptlaw.fitting import Fit

STEPS = 97  # positions of a slider of counts, beside the table's own values
MOST_EXACT = 40  # of the table's own values on a slider
NEAR = 0.02  # relative: a round value gives way to one of the table's so near
SHARE_STEP = 0.005
CONFIDENCES = tuple(range(50, 100))  # per cent
TOLERANCES = (*np.arange(-5, 10, 0.25), *np.arange(10, 31, 1.0))  # per cent
LOGARITHMIC = 20.0  # a column whose values span more is on a logarithmic slider
TAKEN = ("level", "along", "share", "shares", "tolerance", "confidence", "reset", "safe", "answer", "losses", "notes",
         "charts")  # what the page itself calls its parts, so no column can be  # fmt: skip
REST = "other"  # the corpus beside the only one that a table names
LABELS = {"params": "Parameters", "tokens": "Tokens"}


@dataclasses.dataclass(frozen=True)
class Slider:
    """A column, or another part of the question, that the page moves: its `values`, how each reads, and the first."""

    name: str
    label: str
    values: tuple[float, ...]
    words: tuple[str, ...]
    start: int
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Section:
    """Markup of the section, and the script that a page with it has to run."""

    markup: Markup = html.NOTHING
    script: str = ""


def section(
    fits: Mapping[str, "Fit"], trade: Decision | None, decisions: Sequence[Decision], table: pd.DataFrame, level: float
) -> Section:
    """The section for these fits: around a trade-off where the page has one, of every fit's loss else.

    Empty where a law cannot be written in JavaScript or reads what no slider gives; then a note says why.
    """
    asked = dict(decisions[0].inputs | decisions[0].point) if decisions else {}
    laws = whatif_data.Laws()
    try:
        if trade is not None:
            pair, _ = paired(fits[trade.inputs["general"]], fits[trade.inputs["domain"]])
            shown: dict[str, Fit] = {trade.inputs["general"]: pair[0], trade.inputs["domain"]: pair[1]}
            corpora = list(shown)[::-1]  # the domain's share is what a slider moves
        else:
            shown, corpora = dict(fits), _corpora(fits, table)
            corpora.sort(key=lambda name: name != asked.get("domain"))
        sliders = _sliders(shown, corpora, asked)
        specs = whatif_data.of_fits(list(shown.values()), laws, level)
    except (NotWritten, DecisionError) as error:
        return Section(tag("p", f"There are no sliders on this page: {error}.", class_="note"))
    data: dict[str, Any] = {
        "fits": [
            {**spec, "name": name, "absent": absent(fit), "ranges": fit.ranges}
            for spec, (name, fit) in zip(specs, shown.items())
        ],
        "corpora": corpora,
        "shares": _mix(corpora, decisions) if len(corpora) > 2 else None,
        "fitted": _fitted(shown, corpora[:1]),
        "level": level,
        "checked": CHECKED,
    }
    if trade is not None:
        sliders += [_tolerance(trade), _confidence(trade)]
        data["trade"] = _trade(trade, list(shown.values()), specs, table)
    data["sliders"] = [dataclasses.asdict(slider) for slider in sliders]
    markup = _markup(sliders, data)
    return Section(markup, _script("whatif_engine.js") + laws.script() + "\n" + _script("whatif_page.js"))


def _script(name: str) -> str:
    return importlib.resources.files("cptlaw.report").joinpath(name).read_text("utf-8")


def _corpora(fits: Mapping[str, "Fit"], table: pd.DataFrame) -> list[str]:
    """The corpora whose shares the laws read and the runs moved."""
    names = [name[2:] for fit in fits.values() for name in fit.law.columns if name.startswith("w_")]
    gone = {name for fit in fits.values() for name in absent(fit)}
    if any("ratio" in fit.law.columns for fit in fits.values()):
        names += runs.corpora(table)
    found = [name for name in dict.fromkeys(names) if f"w_{name}" not in gone]
    if len(found) == 1 and any("ratio" in fit.law.columns for fit in fits.values()):
        found.append(REST)
    return found


def _mix(corpora: Sequence[str], decisions: Sequence[Decision]) -> list[float]:
    """The shares that the page opens with: those recommended, or equal ones."""
    point = decisions[0].point if decisions else {}
    if all(name in point for name in corpora) and abs(sum(point[name] for name in corpora) - 1) < runs.SHARE_TOLERANCE:
        return [float(point[name]) for name in corpora]
    return [1 / len(corpora)] * len(corpora)


def _fitted(fits: Mapping[str, "Fit"], corpora: Sequence[str]) -> list[float]:
    """The smallest and the largest share that runs had of the corpus whose slider it is."""
    ends = [(0.0, 1.0)]
    for name, fit in fits.items():
        for column, span in fit.ranges.items():
            if column == "ratio" and name not in corpora:
                ends.append((1 - span[1], 1 - span[0]))
            elif column == "ratio" or column in [f"w_{corpus}" for corpus in corpora]:
                ends.append(span)
    return [max(low for low, _ in ends), min(high for _, high in ends)]


def _sliders(fits: Mapping[str, "Fit"], corpora: Sequence[str], asked: Mapping[str, Any]) -> list[Slider]:
    """A slider for every column that the laws read and the runs moved, the share of two corpora among them."""
    columns = dict.fromkeys(c for fit in fits.values() for c in fit.law.columns if c != "ratio" and c[:2] != "w_")
    sliders = [_column(name, [fit for fit in fits.values() if name in fit.law.columns], asked) for name in columns]
    for name, fit in fits.items():
        if "ratio" in fit.law.columns and name not in corpora:
            raise NotWritten(f"the law of {name} reads its own share of the mix, and no run trained on {name}")
    still = {name for fit in fits.values() for name in set(fit.unmoved) - set(absent(fit))}
    if len(corpora) == 2 and not any(name == "ratio" or name[:2] == "w_" for name in still):
        sliders.append(_share(corpora[0], asked))
    return sliders


def _column(name: str, fits: Sequence["Fit"], asked: Mapping[str, Any]) -> Slider:
    if name == COLUMN:
        levels = fits[0].law.factor.levels
        return Slider(name, fits[0].law.factor.column, tuple(map(float, range(len(levels)))), levels, 0)
    if name not in fits[0].ranges or name in TAKEN:
        raise NotWritten(f"the law reads {name}, which no slider gives")
    low, high = (end(fit.ranges[name][i] for fit in fits) for i, end in ((0, min), (1, max)))
    counts = name in LABELS or name.startswith("unique_tokens") or name == "pretrain_tokens"
    start = float(asked[name]) if isinstance(asked.get(name), int | float) else high
    exact = {start}
    for fit in fits:
        if name in fit.residuals and not fit.unmoved.count(name):
            exact |= set(map(float, fit.residuals[name].dropna().unique()[:MOST_EXACT]))
    log = low > 0 and (counts or high / low > LOGARITHMIC)
    if any(name in fit.unmoved for fit in fits):
        grid = np.array([])
        exact = {high}
    elif counts and low > 0:
        grid = np.geomspace(low, max(high * CHECKED, start), STEPS)
    else:
        grid = (np.geomspace if log else np.linspace)(low, high, STEPS)
    # Rounded so that a value is what its words say.
    rounded = {float(f"{value:.3g}") for value in grid}
    scale = 1.0 if log else max(high - low, 1e-300)
    far = [v for v in rounded if all(abs(v - e) > NEAR * (abs(e) if log else scale) for e in exact if e > 0 or not log)]
    values = sorted({*far, *(value for value in exact if value > 0 or not log)})
    words = tuple(count(value) if counts else f"{value:.4g}" for value in values)
    place = values.index(start if start in values else high)
    return Slider(name, LABELS.get(name, name), tuple(values), words, place, log)


def _share(corpus: str, asked: Mapping[str, Any]) -> Slider:
    found = asked.get("share", asked.get(corpus))
    start = float(found) if isinstance(found, float) and 0 <= found <= 1 else 0.5
    grid = [i * SHARE_STEP for i in range(round(1 / SHARE_STEP) + 1)]
    values = sorted({start, *(v for v in grid if abs(v - start) > SHARE_STEP / 2)})
    return Slider("share", f"Share of {corpus} text", tuple(values), tuple(map(percent, values)), values.index(start))


def _tolerance(trade: Decision) -> Slider:
    start = float(trade.inputs["tolerance"])
    values = sorted({start, *(float(v) / 100 for v in TOLERANCES if abs(v / 100 - start) > 1e-4)})
    words = tuple(f"{100 * value:+.4g}%" for value in values)
    label = f"Allowed rise of the {trade.inputs['general']} loss over the base model's"
    return Slider("tolerance", label, tuple(values), words, values.index(start))


def _confidence(trade: Decision) -> Slider:
    start = float(trade.inputs.get("confidence") or 0.9)
    values = sorted({start, *(v / 100 for v in CONFIDENCES)})
    words = tuple(f"{100 * value:.3g}%" for value in values)
    return Slider("confidence", "The ceiling is to hold with", tuple(values), words, values.index(start))


def _trade(
    trade: Decision, fits: Sequence["Fit"], specs: Sequence[Mapping[str, Any]], table: pd.DataFrame
) -> dict[str, Any]:
    general = fits[0]
    rebased = general.settings.get("rebased_to", {}).get(general.eval) is not None
    error = 0.0 if rebased else trade.inputs.get("base_loss_se", 0.0)
    return {
        "base": [[trade.inputs["params"], trade.inputs["base_loss"]]]
        if rebased
        else whatif_data.base_losses(table, trade.inputs["general"], trade.inputs),
        "rebased": rebased,
        "error": error,
        "moves": whatif_data.moves(error, specs[0].get("draws", 0)),
        "tried": list(tried_shares(*fits)),
    }


def _markup(sliders: Sequence[Slider], data: Mapping[str, Any]) -> Markup:
    trade, corpora = "trade" in data, len(data["corpora"])
    controls = [_control(slider) for slider in sliders if len(slider.values) > 1]
    if corpora > 2:
        controls += [_part(name, data["shares"][i], i) for i, name in enumerate(data["corpora"])]
    levels = sorted({*whatif_data.LEVELS, data["level"]})
    options = [
        tag("option", f"{100 * value:g}%", value=f"{value:g}",
            **({"selected": "selected"} if value == data["level"] else {}))
        for value in levels
    ]  # fmt: skip
    controls.append(_choice("level", "Intervals of", options))
    along = [tag("option", s.label, value=s.name) for s in sliders if len(s.values) > 1 and _curve(s)]
    along += [tag("option", f"share of {name}", value=f"w_{name}") for name in data["corpora"] if corpora > 2]
    if "share" in (names := [slider.name for slider in sliders]):
        along.sort(key=lambda option: 'value="share"' not in option)
    if along:
        controls.append(_choice("along", "Curves along", along))
    buttons = [tag("button", "Back to the report's question" if trade else "Back", type="button", id="wi-reset")]
    if trade:
        buttons.append(tag("button", "Take the safe share", type="button", id="wi-safe"))
    parts = [
        tag("h2", "What if?", id="what-if-title"),
        tag("p", "Move the sliders: everything below is computed again in this page, by the law that was fitted."),
        _held(sliders),
        tag("form", *controls, class_="controls", autocomplete="off"),
        tag("p", *buttons, class_="buttons"),
        tag("p", role="status", id="wi-answer", class_="lead"),
        tag("div", id="wi-losses"),
        tag("ul", id="wi-notes", class_="warnings"),
        tag("div", id="wi-charts"),
        tag("p", _how(data, names), class_="note"),
    ]
    whole = tag("section", *parts, id="what-if", aria_labelledby="what-if-title", hidden="hidden")
    # "<" is written as its code, so that no name can end the element.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    stored = tag("script", Markup(text), type="application/json", id="what-if-data")
    without = tag("noscript", tag("p", "With JavaScript this page has sliders to ask other questions.", class_="note"))
    return Markup(whole + stored + without)


def _held(sliders: Sequence[Slider]) -> Markup:
    """What no slider moves, because no run did."""
    held = [f"{slider.label} {slider.words[0]}" for slider in sliders if len(slider.values) == 1]
    return tag("p", f"The same in every run, and here: {', '.join(held)}.", class_="note") if held else html.NOTHING


def _curve(slider: Slider) -> bool:
    return slider.name not in ("tolerance", "confidence", COLUMN)


def _control(slider: Slider) -> Markup:
    name = f"wi-{slider.name}"
    return tag(
        "div",
        tag("label", slider.label, for_=name),
        tag("output", slider.words[slider.start], for_=name, id=f"{name}-value"),
        tag("input", type="range", id=name, min="0", max=str(len(slider.values) - 1), step="1",
            value=str(slider.start), aria_valuetext=slider.words[slider.start]),
    )  # fmt: skip


def _part(corpus: str, share: float, place: int) -> Markup:
    """The slider of one share of several: the others give way in proportion."""
    name = f"wi-part-{place}"
    return tag(
        "div",
        tag("label", f"Share of {corpus} text", for_=name),
        tag("output", percent(share), for_=name, id=f"{name}-value"),
        tag("input", type="range", id=name, min="0", max="1", step=str(SHARE_STEP), value=f"{share:g}",
            aria_valuetext=percent(share)),
    )  # fmt: skip


def _choice(name: str, label: str, options: Sequence[Markup]) -> Markup:
    return tag("div", tag("label", label, for_=f"wi-{name}"), tag("select", *options, id=f"wi-{name}"))


def _how(data: Mapping[str, Any], names: Sequence[str]) -> str:
    """How the section computes, and in what it differs from the decision above it."""
    kinds = {fit["kind"] for fit in data["fits"]}
    words = []
    if "process" in kinds:
        words.append(
            "Losses, intervals and probabilities are those of the predictive distribution itself (Student's t about "
            "the law corrected by how it missed), computed here from its parameters and fitted rows"
        )
        if "trade" in data:
            words.append(
                "The answer at the top counts draws of the same distribution, so the two differ by the chance of "
                "drawing, about a point"
            )
    if "law" in kinds:
        kept, drawn = (min(fit[key] for fit in data["fits"] if fit["kind"] == "law") for key in ("kept", "draws"))
        of = f"all {drawn}" if kept == drawn else f"{kept} of {drawn}, which keeps the page small,"
        known = f"Intervals of the law alone are those of its bootstrap draws, {of} of them"
        words.append(known if drawn else "A law fitted without resamples has no intervals")
    if "params" in names or "tokens" in names:
        words.append("Sliders reach a little beyond the fitted rows; what is beyond them is said")
    return ". ".join(words) + "."
