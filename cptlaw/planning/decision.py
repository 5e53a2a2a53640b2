"""What every answer carries: the point, its distribution over draws, its price if wrong, and how far it reaches.

Draws are of the predictive distribution (`cptlaw.fitting.process`): the law, how it may miss, and the base models. For a fit
of the law alone they are the bootstrap's resamples, as if the law were true.
"""

import dataclasses
import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw import atomic
from cptlaw.errors import UserError
from cptlaw.fitting.process import Draws, Process

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

VERSION = 1
FEWEST = 1000.0  # parameters or tokens; a runs table takes less for a slip of units
WIDE = 0.8  # an interval of a share this wide or wider says nothing
REGRETS = {"": "regret if wrong", "given up ": "wanted loss given up if wrong", "over ": "over the ceiling if wrong"}
SHARES_TABLED = 401  # points of a table over the share
DRAWS = 1000  # of the predictive distribution, for fits without resamples
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
      samples: name -> (S,) the same decision made on each draw, paired across names.
      agreement: share of draws whose own decision is the recommended one, in the sense of `agreement_means`.
      holds: probability that the question's ceiling holds at the recommendation, if it has one.
      regret: over draws, the recommendation's price against the draw's own best, {"mean", "p90"}; where a ceiling can be
        passed, also in its two currencies, "given up" (of the wanted loss) and "over" (of the ceiling), mean and p90.
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
    holds: float | None = None
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
    """The level to take quantiles of draws at for an honest interval of `level`: of a law's few resamples, a wider one."""
    return max(check_level(level) if conditioned(fit) else fit.expanded(check_level(level)) for fit in fits)


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
    warnings: tuple[str, ...] = ()
    if len({fit.digest for fit in fits}) > 1:
        warnings += ("the fits are of different tables, so their resamples are combined as if independent",)
    if all(conditioned(fit) for fit in fits):
        return list(fits), warnings
    if any(conditioned(fit) for fit in fits):
        warnings += ("one of the fits is of its law alone, so all are taken as if their laws were true",)
        fits = tuple(fit.alone() for fit in fits)
    good = np.all([np.isfinite(values) for fit in fits for values in fit.samples.values()], axis=0)
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
    """Number of draws: as many as resamples, or `DRAWS` where only the predictive distribution is there."""
    return len(next(iter(fit.samples.values()), ())) or (DRAWS if conditioned(fit) else 0)


def conditioned(fit: "Fit") -> Process | None:
    """What the fit's predictive distribution of its corpus comes from; None for a fit of the law alone."""
    return fit.process.get(fit.eval) if isinstance(fit.eval, str) else None


def joint(fit: "Fit") -> Draws:
    """The fit's draws, the same whenever they are asked; those of two corpora are independent, as their misses are."""
    process = conditioned(fit)
    assert process is not None
    return _joint(process, draws(fit), (fit.settings.get("seed", 0), *str(fit.eval).encode()))


@functools.lru_cache(maxsize=8)
def _joint(process: Process, count: int, seed: tuple[int, ...]) -> Draws:
    return process.draws(count, seed)


def losses(fit: "Fit", x: Mapping[str, np.ndarray | float]) -> np.ndarray:
    """Loss of the mean run at `x`: predicted (row 0) and in every draw (rows 1..S).

    Args:
      x: column -> value broadcasting to (K,), or, for a law alone, to (S + 1, K, ...) where each draw has its own.

    Returns:
      (S + 1, K, ...), nats per token.
    """
    x = fit.with_shares(x)
    if missing := [name for name in fit.law.columns if name not in x]:
        raise DecisionError(
            f"the law {fit.law.name} of {fit.eval} reads {', '.join(missing)}, which this question does not give: "
            "fit a law of what it gives"
        )
    if conditioned(fit):
        names = fit.law.columns
        each = dict(zip(names, np.broadcast_arrays(*(np.atleast_1d(np.asarray(x[n], dtype=float)) for n in names))))
        shape = next(iter(each.values())).shape
        mean, drawn = joint(fit).at({name: value.ravel() for name, value in each.items()})
        return np.exp(np.concatenate([mean[None], drawn])).reshape(-1, *shape)
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


@dataclasses.dataclass(frozen=True)
class Tabulated:
    """Values of every draw (S + 1, G) or (S + 1, G, H) on a grid, read between its points by linear interpolation.

    A draw of the predictive distribution costs a sum over all fitted rows wherever it is asked, so it is asked once.
    """

    values: np.ndarray
    grids: tuple[np.ndarray, ...]

    def __call__(self, *at: np.ndarray) -> np.ndarray:
        """(S + 1, ...) at coordinates (...) that all draws share, or (S + 1, ...) of each draw's own."""
        rows = len(self.values)
        places = np.broadcast_arrays(*(np.asarray(one, float) for one in at))
        if not (places[0].ndim > 1 and places[0].shape[0] == rows):
            places = [np.broadcast_to(one, (rows, *one.shape)) for one in places]
        which = np.arange(rows).reshape(-1, *[1] * (places[0].ndim - 1))
        cells, weights = [], []
        for grid, one in zip(self.grids, places):
            cell = np.clip(np.searchsorted(grid, one) - 1, 0, len(grid) - 2)
            cells.append(cell)
            weights.append(np.clip((one - grid[cell]) / (grid[cell + 1] - grid[cell]), 0, 1))
        out = np.zeros(places[0].shape)
        for corner in itertools.product((0, 1), repeat=len(cells)):
            weight = np.ones(places[0].shape)
            for side, part in zip(corner, weights):
                weight = weight * (part if side else 1 - part)
            out += weight * self.values[(which, *(cell + side for cell, side in zip(cells, corner)))]
        return out


def tabulated(fit: "Fit", at: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """A function of the share, (K,) or (S + 1, K) -> (S + 1, K): of a law alone `at` itself, else read from a table.

    Its grid of shares is denser at both ends, where laws bend.
    """
    if not conditioned(fit):
        return at
    grid = (1 - np.cos(np.pi * np.linspace(0, 1, SHARES_TABLED))) / 2
    return Tabulated(at(grid), (grid,))


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


def cautions(fit: "Fit", x: Mapping[str, float]) -> tuple[tuple[str, ...], bool]:
    """What stands against believing the predictive distribution at a point, and whether it says nothing there."""
    process = conditioned(fit)
    if process is None:
        return (), False
    x = fit.with_shares(x)
    at = {name: np.array([x[name]], dtype=float) for name in fit.law.columns if name in x}
    return tuple(f"{fit.eval}: {note}" for note in process.cautions(at)), bool(process.silent(at)[0])


def extrapolation(fit: "Fit", x: Mapping[str, float]) -> tuple[str, ...]:
    """Says where `x` lies outside the range of the fitted rows, and how far."""
    notes = []
    for name, value in fit.with_shares(x).items():
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
