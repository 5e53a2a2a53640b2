"""The arithmetic of decisions: losses of every draw, their intervals, and checks of what is asked.

Draw 0 is the prediction, draws 1 to S are draws of the predictive distribution (`cptlaw.fitting.process`): the law,
how it may miss, and the base models. For a fit of the law alone draw 0 is the fit and the others are its bootstrap
resamples, as if the law were true. Arrays over draws have S + 1 rows in that order.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cptlaw.fitting.draws import Draws, draw
from cptlaw.fitting.process import Process
from cptlaw.planning.decision import DecisionError

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

SHARES_TABLED = 401  # points of a table over the share
DRAWS = 1000  # of the predictive distribution, for fits without resamples
FEWEST = 1000.0  # parameters or tokens: a smaller count is most likely meant in billions


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


def check_parameters(fit: "Fit") -> None:
    """Refuses a fit whose sizes are not parameters, of which FLOPs are made (`runs.sized_by_base`)."""
    if "sizes" in fit.settings:
        raise DecisionError(
            f"the fit of {fit.eval} tells sizes by base models' losses, and a cost in FLOPs is of parameters: ask a "
            "fit that was made without --size-by-base"
        )


def check_run(params: float, tokens: float) -> dict[str, float]:
    """The planned run's columns, or a DecisionError."""
    return {
        "params": check_positive("params", params, "parameters"),
        "tokens": check_positive("tokens", tokens, "tokens"),
    }


def check_confidence(confidence: float | None) -> None:
    """A probability between 0 and 1, or none; else a DecisionError."""
    if confidence is not None and not 0 < confidence < 1:
        raise DecisionError(f"confidence {confidence:g} is not a probability between 0 and 1 (0.9 for 90%)")


def check_level(level: float) -> float:
    """A confidence between 0 and 1, or a DecisionError."""
    if not 0 < level < 1:
        raise DecisionError(f"level {level:g} is not between 0 and 1 (0.9 for 90% intervals)")
    return float(level)


def expanded(level: float, *fits: "Fit") -> float:
    """The level to take quantiles of draws at for an honest interval of `level`; wider for few resamples."""
    return max(check_level(level) if conditioned(fit) else fit.expanded(check_level(level)) for fit in fits)


def corpus(fit: "Fit") -> str:
    """The evaluated corpus of a fit of one."""
    if not isinstance(fit.eval, str):
        raise DecisionError(f"a joint fit of {', '.join(fit.eval)}: decide with its corpora one by one (Fit.single)")
    return fit.eval


def resamples(fit: "Fit") -> int:
    """Number of draws, S: as many as resamples, or `DRAWS` where only the predictive distribution is there."""
    return len(next(iter(fit.samples.values()), ())) or (DRAWS if conditioned(fit) else 0)


def conditioned(fit: "Fit") -> Process | None:
    """What the fit's predictive distribution of its corpus comes from; None for a fit of the law alone."""
    return fit.process.get(fit.eval) if isinstance(fit.eval, str) else None


def joint(fit: "Fit") -> Draws:
    """The fit's draws, the same whenever they are asked; those of two corpora are independent, as their misses are."""
    process = conditioned(fit)
    assert process is not None
    return _joint(process, resamples(fit), (fit.settings.get("seed", 0), *str(fit.eval).encode()))


@functools.lru_cache(maxsize=32)
def _joint(process: Process, count: int, seed: tuple[int, ...]) -> Draws:
    return draw(process, count, seed)


def paired(*fits: "Fit") -> tuple[list["Fit"], tuple[str, ...]]:
    """The fits with the resamples that succeeded in all of them, and warnings.

    Raises:
      DecisionError: a fit has no resamples, or their numbers differ.
    """
    counts = {corpus(fit): resamples(fit) for fit in fits}
    for name, count in counts.items():
        if count < 2:
            raise DecisionError(f"the fit of {name} has no bootstrap resamples: fit again with bootstrap=1000")
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
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


def stacked(fit: "Fit") -> dict[str, np.ndarray]:
    """Parameters of every draw: name -> (S + 1,), the fitted value first. A fixed parameter is repeated."""
    count = resamples(fit)
    return {name: np.append(value, fit.samples.get(name, np.full(count, value))) for name, value in fit.params.items()}


def losses(fit: "Fit", x: Mapping[str, np.ndarray | float]) -> np.ndarray:
    """Loss of the mean run at `x` in every draw.

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
    theta = {name: values.reshape(-1, *trailing) for name, values in stacked(fit).items()}
    found = np.asarray(fit.law.predict(theta, columns))
    return np.broadcast_to(found, (resamples(fit) + 1, *found.shape[1:]))


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
        places = list(np.broadcast_arrays(*(np.asarray(one, float) for one in at)))
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
    """Central percentile interval of (S,) resamples; NaN ones are left out."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def banded(values: np.ndarray, level: float) -> dict[str, float]:
    """{"point", "low", "high"} of one predicted loss, (S + 1,) over draws."""
    low, high = interval(values[1:], level)
    return {"point": float(values[0]), "low": low, "high": high}


def summarise_regret(regret: np.ndarray) -> dict[str, float]:
    """{"mean", "p90"}: expected and 90th-percentile regret of (S,) resamples."""
    return {"mean": float(np.mean(regret)), "p90": float(np.quantile(regret, 0.9))}


def notes_of_reach(*asked: tuple["Fit", Mapping[str, float]]) -> tuple[str, ...]:
    """Where each (fit, columns) lies outside the fitted rows (`Fit.extrapolation`), each note once."""
    return tuple(dict.fromkeys(note for fit, x in asked for note in fit.extrapolation(**x)))


def cautions(fit: "Fit", x: Mapping[str, float]) -> tuple[tuple[str, ...], bool]:
    """What stands against believing the predictive distribution at a point, and whether it says nothing there."""
    process = conditioned(fit)
    if process is None:
        return (), False
    x = fit.with_shares(x)
    at = {name: np.array([x[name]], dtype=float) for name in fit.law.columns if name in x}
    return tuple(f"{fit.eval}: {note}" for note in process.cautions(at)), bool(process.silent(at)[0])
