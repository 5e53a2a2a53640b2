"""The record that every question answers with: the recommendation, how sure it is, and what a wrong one would cost."""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np

from cptlaw import atomic, drawings, records
from cptlaw.errors import UserError
from cptlaw.fields import ConfigError, build, plain
from cptlaw.paths import local
from cptlaw.words import count, nats, percent

Question = ParamSpec("Question")
VERSION = 2
WITHOUT_DIGEST = 1  # the version before files carried a digest
REGRETS = {"": "regret if wrong", "given up ": "wanted loss given up if wrong", "over ": "over the ceiling if wrong"}
OUTSIDE = "outside the shares of the fitted runs, where a law can turn sharply"
LOSS = ("point", "low", "high")
RUN = ("params", "tokens")
INPUTS = {  # kind -> what further questions and the report read of its inputs
    "trade-off": (*RUN, "base_loss", "ceiling", "tolerance", "general", "domain"),
    "share-for-loss": (*RUN, "loss", "domain"),
    "limited-data": (*RUN, "domain_tokens", "max_epochs", "repetition", "domain"),
    "budget": ("flops", "share", "sizes", "inference_tokens", "ceiling", "domain", "general"),
    "mixture": ("weights", "worst", "ceilings", "low", "high"),
}
NUMBERS = (
    *RUN,
    "base_loss",
    "ceiling",
    "tolerance",
    "loss",
    "domain_tokens",
    "max_epochs",
    "repetition",
    "flops",
    "share",
    "inference_tokens",
)  # inputs that are a number, or null
SHARES = ("share", "best in", "beaten in", "interval shrinks to")  # columns of rows that are shares of one


class DecisionError(UserError):
    """A question that cannot be answered as put; gives the range in which it can."""


@dataclasses.dataclass(frozen=True)
class Option:
    """A choice beside the recommended one: a rule of thumb or an item of a menu, at the same cost.

    Attributes:
      point: its coordinates, as in `Decision.point`.
      losses: evaluated corpus -> {"point", "low", "high"} in nats per token.
      holds: share of resamples in which it meets the question's constraints, if it has any.
      outside: whether it lies outside the shares of the fitted runs, where a law can turn sharply.
    """

    name: str
    point: dict[str, float]
    losses: dict[str, dict[str, float]]
    holds: float | None = None
    outside: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """An answer as data. Losses and regrets are nats per token, shares are shares of tokens.

    Attributes:
      kind: which question, e.g. "trade-off".
      question, answer: one plain sentence each.
      supported: False when the data cannot carry the answer; then `answer` says why.
      inputs: the question's numbers.
      point: the recommended coordinates at the fitted parameters.
      interval: name -> (low, high), at `level`.
      samples: name -> (S,) the same decision made on each draw, paired across names.
      agreement: share of draws whose own decision is the recommended one, in the sense of `agreement_means`.
      holds: probability that the question's ceiling holds at the recommendation, if it has one.
      regret: over draws, the recommendation's price against the draw's own best, {"mean", "p90"}. Where a ceiling can
        be passed, also in its two currencies, "given up" (of the wanted loss) and "over" (of the ceiling).
      losses: evaluated corpus -> {"point", "low", "high"} predicted at the recommendation.
      options: rules of thumb and menus at the same cost.
      extrapolation: where the recommendation lies outside the fitted runs; empty when it lies within.
      influence: the runs whose removal moves the answer most.
      rows: the decision's table, if it has one (a front, a menu, a list of experiments).
      rejections: laws that their own table rejects, and what helps; what is read first.
    """

    kind: str
    question: str
    answer: str
    inputs: dict[str, Any]
    point: dict[str, float]
    interval: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    samples: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    level: float
    agreement: float = 1.0
    agreement_means: str = ""
    holds: float | None = None
    regret: dict[str, float] = dataclasses.field(default_factory=dict)
    losses: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    supported: bool = True
    options: tuple[Option, ...] = ()
    extrapolation: tuple[str, ...] = ()
    influence: tuple[dict[str, Any], ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    rejections: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Decision of {self.kind}: {self.answer}>"

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        """The decision as a notebook shows it: its text."""
        return f"<pre>{escape(self.text())}</pre>"

    def plot(self) -> Any:
        """How sure the recommended share (or mix) is: a picture that a notebook shows, with `save(PATH)`.

        Raises:
          DecisionError: the question's answer is no share.
        """
        return drawings.draw("decision", self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON, atomically."""
        atomic.write_text(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON's types, NaN as null, with a digest of the rest at its end."""
        content = plain({"cptlaw_decision": VERSION, **dataclasses.asdict(self)})
        return {**content, "sha256": records.digest(content)}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Decision":
        """Reads and validates what `save` wrote.

        Raises:
          DecisionError: a file that is missing, damaged, foreign or of another version; names the field.
        """
        path = local(path)
        data, sound = _parse(path)
        try:
            samples = _samples(data.pop("samples", None))
            for name in ("point", "interval", "losses", "regret", "options"):
                data[name] = _null_is_nan(data.get(name))
            decision = dataclasses.replace(build(cls, data, "decision"), samples=samples)
            _check(decision)
        except (ConfigError, OverflowError) as error:
            raise DecisionError(f"{path}: {error}; the file is damaged, make the decision again") from error
        if not sound:  # said last, because a digest does not say where the damage is
            raise DecisionError(f"{path}: the content does not match its sha256; make the decision again")
        return decision

    def text(self) -> str:
        """The answer and what qualifies it, for a terminal."""
        lines = [*self.rejections, *[""] * bool(self.rejections), self.question, "", f"  {self.answer}", ""]
        for name, (low, high) in self.interval.items():
            value = f"{self.point[name]:.4g}" if name in self.point else "-"
            lines.append(f"  {name:<24}{value:>10}   {self.level:.0%} interval {low:.4g} to {high:.4g}")
        for corpus, loss in self.losses.items():
            span = f"{self.level:.0%} interval of the expected loss {loss['low']:.4f} to {loss['high']:.4f}"
            lines.append(f"  {'loss, ' + corpus:<24}{loss['point']:>10.4f}   {span}")
        if self.holds is not None:
            lines.append(f"  the ceiling holds with a probability of {self.holds:.0%}")
        for what, words in REGRETS.items():
            if f"{what}mean" in self.regret and (what or "over mean" not in self.regret):
                mean, p90 = self.regret[f"{what}mean"], self.regret[f"{what}p90"]
                lines.append(f"  {words}: {mean:.2g} nats expected, {p90:.2g} at worst 1 in 10")
        if self.agreement_means:
            lines.append(f"  {self.agreement:.0%} of draws agree ({self.agreement_means})")
        if self.options:
            lines += ["", f"  {'instead':<24}" + "".join(f"{c:>12}" for c in self.losses)]
        for option in self.options:
            losses = "".join(f"{nats(option.losses[c]['point'], 4):>12}" for c in self.losses)
            held = "" if option.holds is None else f"   constraints hold in {option.holds:.0%}"
            lines.append(f"  {option.name + ' *' * option.outside:<24}{losses}{held}")
        if any(option.outside for option in self.options):
            lines.append(f"  * {OUTSIDE}")
        if self.rows:
            lines += ["", *_aligned(self.rows)]
        if self.influence:
            name = next(iter(self.point))
            lines += ["", f"  {'without the run':<40}{name:>10}"]
            lines += [f"  {row['run']:<40}{row[f'{name} without it']:>10.4g}" for row in self.influence[:3]]
        for heading, notes in (("extrapolates", self.extrapolation), ("warning", self.warnings)):
            lines += [f"  {heading}: {note}" for note in notes]
        return "\n".join(lines)


def with_rejections(decide: Callable[Question, Decision]) -> Callable[Question, Decision]:
    """Adds to a question's decisions which of its laws their own tables reject. Fits are positional."""

    @functools.wraps(decide)
    def decided(*fits: Question.args, **question: Question.kwargs) -> Decision:
        decision = decide(*fits, **question)
        found = dict.fromkeys(line for fit in fits for line in getattr(fit, "rejection", ()))
        return dataclasses.replace(decision, rejections=tuple(found))

    return decided


def cells(rows: tuple[dict[str, Any], ...]) -> tuple[list[str], list[list[str]]]:
    """A decision's rows for reading: header and texts; counts as counts, shares as percentages."""
    header = list(dict.fromkeys(name for row in rows for name in row))
    return header, [[_shown(name, row.get(name)) for name in header] for row in rows]


def _shown(name: str, value: Any) -> str:
    if value is None or value != value:
        return ""
    if name in ("params", "tokens"):
        return count(value)
    if name.startswith("w_") or name in SHARES:
        return percent(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _aligned(rows: tuple[dict[str, Any], ...]) -> list[str]:
    """Rows as columns of text."""
    header, body = cells(rows)
    widths = [max(map(len, column)) for column in zip(header, *body)]
    return ["  " + "  ".join(text.rjust(n) for text, n in zip(line, widths)) for line in [header, *body]]


def _parse(path: Path) -> tuple[dict[str, Any], bool]:
    """(the fields of a decision's file, whether they are those that its digest is of)."""
    try:
        data = records.loads_finite(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DecisionError(f"{path}: cannot be read as a decision ({error}); make it again") from error
    version = data.get("cptlaw_decision") if isinstance(data, dict) else None
    if isinstance(version, bool) or version not in (WITHOUT_DIGEST, VERSION):
        raise DecisionError(f"{path}: not a decision of this version (version {version}, expected {VERSION})")
    digest = data.pop("sha256", None)
    sound = version == WITHOUT_DIGEST or digest == records.digest(data)
    del data["cptlaw_decision"]
    return data, sound


def _null_is_nan(value: Any) -> Any:
    """Numbers that were not finite are null in JSON; `holds` alone may be None."""
    if isinstance(value, dict):
        return {key: item if key == "holds" else _null_is_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_null_is_nan(item) for item in value]
    return math.nan if value is None else value


def _samples(value: Any) -> dict[str, np.ndarray]:
    """Name -> (S,), of one length."""
    if not isinstance(value, dict):
        raise ConfigError("decision.samples", "expected a mapping of lists of numbers")
    samples = {}
    for name, numbers in value.items():
        if not isinstance(numbers, list) or not all(n is None or type(n) in (int, float) for n in numbers):
            raise ConfigError(f"decision.samples.{name}", "expected a list of numbers")
        samples[name] = np.array(numbers, dtype=float)
    if len({len(numbers) for numbers in samples.values()}) > 1:
        raise ConfigError("decision.samples", "expected lists of one length")
    return samples


def _check(decision: Decision) -> None:
    """What the types of the fields do not say: the keys that texts, reports and further questions read."""

    def need(field: str, value: Any, keys: Iterable[str]) -> None:
        if missing := [key for key in keys if key not in value]:
            raise ConfigError(f"decision.{field}", f"has no {missing[0]!r}")

    if not 0 < decision.level < 1:
        raise ConfigError("decision.level", f"expected a confidence between 0 and 1, got {decision.level!r}")
    need("inputs", decision.inputs, INPUTS.get(decision.kind, ()))
    for name, value in decision.inputs.items():
        if name in ("general", "domain") and not isinstance(value, str | None):
            raise ConfigError(f"decision.inputs.{name}", f"expected the name of a corpus, got {value!r}")
        if name in NUMBERS and value is not None and type(value) not in (int, float):
            raise ConfigError(f"decision.inputs.{name}", f"expected a number, got {value!r}")
    if decision.kind == "trade-off":
        for field in ("point", "interval", "samples"):
            need(field, getattr(decision, field), ("share",))
        need("losses", decision.losses, (decision.inputs["general"], decision.inputs["domain"]))
        for name in ("base_loss", "ceiling", "tolerance"):
            if decision.inputs[name] is None:
                raise ConfigError(f"decision.inputs.{name}", "expected a number, got None")
    if decision.regret:
        need("regret", decision.regret, ("mean", "p90"))
    for corpus, loss in decision.losses.items():
        need(f"losses.{corpus}", loss, LOSS)
    for i, option in enumerate(decision.options):
        need(f"options[{i}].losses", option.losses, decision.losses)
        for corpus, loss in option.losses.items():
            need(f"options[{i}].losses.{corpus}", loss, LOSS)
    for i, row in enumerate(decision.influence):
        need("point", decision.point, () if decision.point else ("any coordinate, and influence moves one",))
        name = next(iter(decision.point))
        need(f"influence[{i}]", row, ("run", f"{name} without it"))
        if not isinstance(row["run"], str):
            raise ConfigError(f"decision.influence[{i}].run", f"expected the name of a run, got {row['run']!r}")
        if type(row[f"{name} without it"]) not in (int, float):
            raise ConfigError(f"decision.influence[{i}].{name} without it", "expected a number")
    for i, row in enumerate(decision.rows):
        for name, cell in row.items():
            number = name in ("params", "tokens") or name.startswith("w_") or name in SHARES
            if cell is not None and type(cell) not in ((int, float) if number else (int, float, str, bool)):
                raise ConfigError(f"decision.rows[{i}].{name}", f"expected a {'number' if number else 'value'}")
