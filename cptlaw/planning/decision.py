"""The record that every question answers with: the recommendation, how sure it is, and what a wrong one would cost."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np

from cptlaw import records
from cptlaw.fields import plain
from cptlaw.planning import decision_file
from cptlaw.planning.decision_file import SHARES, VERSION, DecisionError
from cptlaw.words import count, percent

__all__ = ["Decision", "DecisionError", "Option", "cells"]


@dataclasses.dataclass(frozen=True)
class Option:
    """A choice beside the recommended one: a rule of thumb or an item of a menu, at the same cost.

    Attributes:
      point: its coordinates, as in `Decision.point`.
      losses: evaluated corpus -> {"point", "low", "high"} in nats per token.
      holds: share of resamples in which it meets the question's constraints, if it has any.
    """

    name: str
    point: dict[str, float]
    losses: dict[str, dict[str, float]]
    holds: float | None = None


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
      samples: name -> (S,) the same decision made on each bootstrap resample, paired across names.
      agreement: share of resamples whose own decision is the recommended one, in the sense of `agreement_means`.
      regret: {"mean", "p90"} over resamples of the recommendation's price against the resample's own best.
      losses: evaluated corpus -> {"point", "low", "high"} predicted at the recommendation.
      options: rules of thumb and menus at the same cost.
      extrapolation: where the recommendation lies outside the fitted runs; empty when it lies within.
      influence: the runs whose removal moves the answer most.
      rows: the decision's table, if it has one (a front, a menu, a list of experiments).
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
    regret: dict[str, float] = dataclasses.field(default_factory=dict)
    losses: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    supported: bool = True
    options: tuple[Option, ...] = ()
    extrapolation: tuple[str, ...] = ()
    influence: tuple[dict[str, Any], ...] = ()
    rows: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON with its hash, atomically."""
        records.write(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON's types; NaN as null."""
        return plain({"cptlaw_decision": VERSION, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Decision":
        """Reads what `save` wrote.

        Raises:
          DecisionError: names the file, and the field that is missing or damaged.
        """
        fields = decision_file.read(Path(path))
        return cls(**fields | {"options": tuple(Option(**option) for option in fields.get("options", ()))})

    def text(self) -> str:
        """The answer and what qualifies it, for a terminal."""
        lines = [self.question, "", f"  {self.answer}", ""]
        for name, (low, high) in self.interval.items():
            value = f"{self.point[name]:.4g}" if name in self.point else "-"
            lines.append(f"  {name:<24}{value:>10}   {self.level:.0%} interval {low:.4g} to {high:.4g}")
        for corpus, loss in self.losses.items():
            lines.append(f"  {'loss, ' + corpus:<24}{loss['point']:>10.4f}   {loss['low']:.4f} to {loss['high']:.4f}")
        if self.regret:
            lines.append(
                f"  regret if wrong: {self.regret['mean']:.2g} nats expected, {self.regret['p90']:.2g} at worst 1 in 10"
            )
        if self.agreement_means:
            lines.append(f"  {self.agreement:.0%} of resamples agree ({self.agreement_means})")
        if self.options:
            lines += ["", f"  {'instead':<24}" + "".join(f"{c:>12}" for c in self.losses)]
        for option in self.options:
            losses = "".join(f"{option.losses[c]['point']:>12.4f}" for c in self.losses)
            held = "" if option.holds is None else f"   constraints hold in {option.holds:.0%}"
            lines.append(f"  {option.name:<24}{losses}{held}")
        if self.rows:
            lines += ["", *_aligned(self.rows)]
        if self.influence:
            name = next(iter(self.point))
            lines += ["", f"  {'without the run':<40}{name:>10}"]
            lines += [f"  {row['run']:<40}{row[f'{name} without it']:>10.4g}" for row in self.influence[:3]]
        for heading, notes in (("extrapolates", self.extrapolation), ("warning", self.warnings)):
            lines += [f"  {heading}: {note}" for note in notes]
        return "\n".join(lines)


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
