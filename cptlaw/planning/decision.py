"""What every answer carries: the point, its distribution over resamples, its price if wrong, and how far it reaches."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw import atomic
from cptlaw.errors import UserError

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

VERSION = 1
FEWEST = 1000.0  # parameters or tokens; a runs table takes less for a slip of units
WIDE = 0.8  # an interval of a share this wide or wider says nothing
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
        """Writes JSON, atomically."""
        atomic.write_text(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON's types; NaN as null."""
        return _plain({"cptlaw_decision": VERSION, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Decision":
        """Reads what `save` wrote. Raises DecisionError for anything else."""
        path = Path(path)
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise DecisionError(f"{path}: cannot be read as a decision ({error}); make it again") from error
        version = data.pop("cptlaw_decision", None) if isinstance(data, dict) else None
        if version != VERSION:
            raise DecisionError(f"{path}: not a decision of this version (version {version}, expected {VERSION})")
        nan = [math.nan if v is None else v for v in data["regret"].values()]
        data["regret"] = dict(zip(data["regret"], nan))
        data["samples"] = {k: np.array(v, dtype=float) for k, v in data["samples"].items()}
        data["interval"] = {k: tuple(v) for k, v in data["interval"].items()}
        data["options"] = tuple(Option(**option) for option in data["options"])
        for name in ("extrapolation", "influence", "rows", "warnings"):
            data[name] = tuple(data[name])
        return cls(**data)

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


def check_share(name: str, value: float) -> float:
    """A share in [0, 1], or a DecisionError."""
    if not 0 <= value <= 1:
        raise DecisionError(f"{name} {value:g} is not a share in [0, 1] (write 0.25 for 25%)")
    return float(value)


def check_positive(name: str, value: float, unit: str) -> float:
    """A positive finite number, or a DecisionError."""
    if not (math.isfinite(value) and value > 0):
        raise DecisionError(f"{name} {value:g} is not a positive count of {unit}")
    if unit in ("parameters", "tokens") and value < FEWEST:
        raise DecisionError(f"{name} {value:g} is too small for a count of {unit}: is it in billions? Write 0.5e9")
    return float(value)


def check_level(level: float) -> float:
    if not 0 < level < 1:
        raise DecisionError(f"level {level:g} is not between 0 and 1 (0.9 for 90% intervals)")
    return float(level)


def expanded(level: float, *fits: "Fit") -> float:
    """The level to take quantiles of resamples at for an honest interval of `level` (`Fit.expanded`, the widest)."""
    return max(fit.expanded(check_level(level)) for fit in fits)


def paired(*fits: "Fit") -> tuple[list["Fit"], tuple[str, ...]]:
    """The fits with the draws that all of them have, and warnings.

    Raises:
      DecisionError: a fit has no resamples, or their numbers differ.
    """
    for fit in fits:
        if not isinstance(fit.eval, str):
            raise DecisionError(
                f"a joint fit of {', '.join(fit.eval)}: decide with its corpora one by one (Fit.single)"
            )
        if draws(fit) < 2:
            raise DecisionError(f"the fit of {fit.eval} has no bootstrap resamples: fit again with bootstrap=1000")
    if len({draws(fit) for fit in fits}) > 1:
        shown = ", ".join(f"{corpus(fit)}: {draws(fit)}" for fit in fits)
        raise DecisionError(f"the fits' resamples do not pair ({shown}): fit all with the same bootstrap and seed")
    good = np.all([np.isfinite(values) for fit in fits for values in fit.samples.values()], axis=0)
    warnings: tuple[str, ...] = ()
    if len({fit.digest for fit in fits}) > 1:
        warnings += ("the fits are of different tables, so their resamples are combined as if independent",)
    if (failed := 1 - good.mean()) > 0.01:
        warnings += (f"{failed:.0%} of the resamples could not be fitted and are left out",)
    if good.sum() < 2:
        raise DecisionError("no resample could be fitted; see the fits' own warnings")
    kept = [dataclasses.replace(fit, samples={n: v[good] for n, v in fit.samples.items()}) for fit in fits]
    return kept, warnings


def check_share_law(*fits: "Fit") -> None:
    """Refuses fits of one corpus twice, and laws that no share of a mix moves."""
    names = [corpus(fit) for fit in fits]
    if twice := [name for name in names if names.count(name) > 1]:
        raise DecisionError(f"{len(fits)} fits, but {len(twice)} of them of {twice[0]}: give one of each corpus")
    for fit in fits:
        if not any(name == "ratio" or name.startswith("w_") for name in fit.law.columns):
            raise DecisionError(f"the law {fit.law.name} of {fit.eval} does not read the mix, so no share follows")


def corpus(fit: "Fit") -> str:
    """The evaluated corpus of a fit of one."""
    if not isinstance(fit.eval, str):
        raise DecisionError(f"a joint fit of {', '.join(fit.eval)}: decide with its corpora one by one (Fit.single)")
    return fit.eval


def draws(fit: "Fit") -> int:
    """Number of bootstrap resamples."""
    return len(next(iter(fit.samples.values()), ()))


def losses(fit: "Fit", x: Mapping[str, np.ndarray | float]) -> np.ndarray:
    """Loss at `x` under the fitted parameters (row 0) and every resample (rows 1..S).

    Args:
      x: column -> value broadcasting to (K,), or to (S + 1, K, ...) where each draw has its own.

    Returns:
      (S + 1, K, ...), nats per token.
    """
    if missing := [name for name in fit.law.columns if name not in x]:
        raise DecisionError(
            f"the law {fit.law.name} of {fit.eval} reads {', '.join(missing)}, which this question does not give: "
            "fit a law of what it gives"
        )
    columns = {name: np.atleast_2d(np.asarray(value, dtype=float)) for name, value in x.items()}
    trailing = (1,) * (max(value.ndim for value in columns.values()) - 1)
    theta = {
        name: np.concatenate([[value], fit.samples[name]]).reshape(-1, *trailing)
        if name in fit.samples
        else np.full((1, *trailing), value)
        for name, value in fit.params.items()
    }
    found = np.asarray(fit.law.predict(theta, columns))
    return np.broadcast_to(found, (draws(fit) + 1, *found.shape[1:]))


def minimise(
    value: Callable[[np.ndarray], np.ndarray], low: float, high: float, rows: int, grid: int = 201, zoom: int = 41
) -> np.ndarray:
    """Argument in [low, high] of the least `value` of each row, by a grid and four zooms around its best point.

    Args:
      value: maps (rows, K) arguments to (rows, K) values, inf where not allowed.
      grid, zoom: points; the resolution is 2 (high - low) / grid * (2 / zoom)^4.

    Returns:
      (rows,), NaN where nothing is allowed.
    """
    points = np.broadcast_to(np.linspace(low, high, grid), (rows, grid))
    half = (high - low) / (grid - 1)
    everyone = np.arange(rows)
    allowed = np.ones(rows, dtype=bool)
    for stage in range(5):
        found = value(points)
        best = points[everyone, np.argmin(found, axis=1)]
        if stage == 0:
            allowed = np.isfinite(found).any(axis=1)
        points = np.clip(best[:, None] + half * np.linspace(-1, 1, zoom), low, high)
        half /= (zoom - 1) / 2
    return np.where(allowed, best, np.nan)


def interval(values: np.ndarray, level: float) -> tuple[float, float]:
    """Central percentile interval of (S,) draws; NaN ones are left out."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def banded(values: np.ndarray, level: float) -> dict[str, float]:
    """Summary of one predicted loss: (S + 1,) with the point first."""
    low, high = interval(values[1:], level)
    return {"point": float(values[0]), "low": low, "high": high}


def summarise_regret(regret: np.ndarray) -> dict[str, float]:
    """Expected and 90th-percentile regret of (S,) draws."""
    return {"mean": float(np.mean(regret)), "p90": float(np.quantile(regret, 0.9))}


def percent(share: float) -> str:
    """A share in words: 7.5%, 72%."""
    digits = 1 if 0 < 100 * min(share, 1 - share) < 10 else 0
    text = f"{100 * share:.{digits}f}"
    return (text.removesuffix(".0")) + "%"


def spread(low: float, high: float) -> str:
    """An interval of shares in words, with a decimal where it is narrow."""
    if high - low < 0.02:
        return f"{100 * low:.1f}% to {100 * high:.1f}%"
    return f"{percent(low)} to {percent(high)}"


def count(value: float) -> str:
    """A count in words: 160M, 1.5B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def extrapolation(fit: "Fit", x: Mapping[str, float]) -> tuple[str, ...]:
    """Says where `x` lies outside the range of the fitted rows, and how far."""
    notes = []
    for name, value in x.items():
        if name not in fit.ranges:
            continue
        low, high = fit.ranges[name]
        if name == "ratio" or name.startswith("w_"):
            if not low - 1e-9 <= value <= high + 1e-9:
                corpus_of = name[2:] if name.startswith("w_") else fit.eval
                seen = f"{percent(low)} to {percent(high)}"
                notes.append(f"a share of {percent(value)} of {corpus_of} is outside the fitted shares ({seen})")
        elif value > high * 1.000001:
            far = f"{value / high:.3g} times the largest fitted for {fit.eval} ({count(high)})"
            notes.append(f"{name} {count(value)} is {far}")
        elif value < low * 0.999999:
            far = f"{low / value:.3g} times below the smallest fitted for {fit.eval} ({count(low)})"
            notes.append(f"{name} {count(value)} is {far}")
    return tuple(notes)


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


def _plain(value: Any) -> Any:
    """JSON's types; NaN as null, since JSON has none."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
