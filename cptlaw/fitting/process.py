"""The predictive distribution: a law as the mean of a Gaussian process on the log loss, in NumPy alone.

    log loss = log law(x; phi) + smooth misses in size, tokens, mix and their products
               + base + run + drift along the run + checkpoint

It corrects the law where the rows say so and says how far it may miss where they do not. The law's parameters here are
not "the law": level and slope move between law and misses, so they are not to be printed (a `Fit`'s own are).
Conditioning on a table (`cptlaw.fitting.condition`) finds the scales; what is here predicts from what was found.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cptlaw.errors import UserError
from cptlaw.fitting import intervals, kernels
from cptlaw.fitting.kernels import NOISE, Points
from cptlaw.laws import Law

TARGETS = {
    "mean": "the mean of runs from these bases: no run, no checkpoint, no new base",
    "run": "one new run, from the base of its size where the table has it",
    "base": "one new run from a base model of another seed",
}
LEAST_SIZES, LEAST_RUNS, LEAST_ROWS = 3, 8, 20
FEW = 5  # runs' worth of knowledge that finding the scales costs
FEW_DOMAINS = 2  # domains' worth that finding their scales costs
MOST_WIDENED = math.sqrt(2)
CHECKED, SILENT = 4.7, 10.0  # times beyond the table: to where questions were checked, and where nothing is said


@dataclasses.dataclass(frozen=True)
class Predictive:
    """Log loss at K points: Student's t with `df`, location `mean` and scale `sd`, (K,) each.

    `parts`: name -> (K,), what each part adds to sd^2: the law, the misses by axis, base, run, checkpoint. They sum to
    it; a part may be slightly below zero where it makes good another's error.
    """

    mean: np.ndarray
    sd: np.ndarray
    parts: dict[str, np.ndarray]
    df: float

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of the loss (K,), nats."""
        half = intervals.student(level, self.df) * self.sd
        return np.exp(self.mean - half), np.exp(self.mean + half)


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """A law conditioned on the rows of one evaluated corpus.

    Attributes:
      law: reads the columns `x`.
      scales: term of `kernels.TERMS` -> scale in log loss; terms that the table cannot show are absent.
      lengths, offset, df: as in `prior.Prior`.
      moving: parameters that move, in order; `logged` (P,): by their logarithm.
      fixed: the other parameters.
      centre, spread, phi: (P,) prior mean and sd, and the mode.
      x: column of the law -> (rows,); `log_y` (rows,); `run`, `base`, `domain`: ids (rows,).
      noise: (rows,) checkpoint variance of each row over that of the average row, from the rows' `loss_se`.
      counts: sizes, runs and rows of the table before thinning.
      asked: the domain that questions are about, where the rows are of several; one of theirs, or a new one.
      given: columns of the law that are the same for every question: what is known of that domain.
    """

    law: Law
    scales: dict[str, float]
    lengths: dict[str, float]
    offset: float
    df: float
    moving: tuple[str, ...]
    logged: np.ndarray
    fixed: dict[str, float]
    centre: np.ndarray
    spread: np.ndarray
    phi: np.ndarray
    x: dict[str, np.ndarray]
    log_y: np.ndarray
    noise: np.ndarray
    run: tuple[str, ...]
    base: tuple[str, ...]
    domain: tuple[str, ...]
    counts: dict[str, int]
    asked: str = ""
    given: dict[str, float] = dataclasses.field(default_factory=dict)

    def predict(
        self,
        x: Mapping[str, np.ndarray],
        target: str = "run",
        run: np.ndarray | None = None,
        base: np.ndarray | None = None,
        domain: Sequence[str] | None = None,
    ) -> Predictive:
        """The predictive at columns `x` (K,).

        Args:
          target: one of `TARGETS`.
          run: (K,) run ids; those of the table share their run's effect and drift. None: new runs.
          base: (K,) base ids, as conditioned on. None: the table's base of that size, where it has one alone.
          domain: (K,) domains of the table. None: the one that questions are about (`about`).
        """
        self._check(target)
        x = self.told(x)
        at = self.points(x, run, base, target, domain)
        slope = self.slopes(x)
        law = slope * self.spread
        covariance = {"law": law @ self.fitted_slopes.T}
        own = {"law": (law**2).sum(axis=1)}
        for term, scale in self.scales.items():
            if term == NOISE or (target == "mean" and term in ("run", "drift")):
                continue
            covariance[term] = scale**2 * kernels.correlation(term, at, self.fitted_points, self.lengths)
            # A base of the table counts for every target; a new one only where one new run is asked for.
            counts = at.base >= 0 if target == "mean" and term == "base" else True
            own[term] = np.full(len(at), scale**2) * counts
        total = np.sum(list(covariance.values()), axis=0)
        weights = self.inverse_root @ total.T  # (rows, K)
        parts: dict[str, np.ndarray] = {}
        for term, value in covariance.items():
            parts[term] = own[term] - np.einsum("rk,rk->k", self.inverse_root @ value.T, weights)
        if target != "mean":
            parts[NOISE] = np.full(len(at), self.scales[NOISE] ** 2)
        parts = {name: self.widened**2 * value for name, value in parts.items()}
        variance = np.maximum(np.sum(list(parts.values()), axis=0), 1e-16)
        mean = self.law_log(self.phi, x) + slope @ (self.centre - self.phi) + total @ self.solved
        return Predictive(mean, np.sqrt(variance), parts, self.df)

    @property
    def widened(self) -> float:
        """How much wider intervals are than the scales say, which were themselves found from few runs.

        sqrt(n / (n - 5)) of n runs (rows, where there is one run), at most 1.41. Without it intervals of tables under
        20 rows, and of shares recommended from 10 runs, held in 75 to 87%, not 90. A domain with few runs of its own is
        known from the other domains: for it, sqrt(n / (n - 2)) of those.
        """
        units = self.counts["runs"] if self.counts["runs"] > 1 else self.counts["rows"]
        found = math.sqrt(units / (units - FEW)) if units > 2 * FEW else MOST_WIDENED
        own = {run for run, domain in zip(self.run, self.domain) if domain == self.asked}
        if (domains := len(self.codes[2])) > 1 and len(own) < LEAST_RUNS:
            others = domains - 1
            found = max(found, math.sqrt(others / (others - FEW_DOMAINS)) if others > 2 * FEW_DOMAINS else MOST_WIDENED)
        return found

    def about(
        self,
        domain: str,
        given: Mapping[str, float],
        x: Mapping[str, np.ndarray],
        loss: np.ndarray,
        run: list[str],
        base: list[str] | None = None,
    ) -> "Process":
        """The process with questions about one domain, and that domain's own rows among those conditioned on.

        Args:
          given: columns of the law that are known of the domain.
          x: the other columns of the rows (rows,); `loss` (rows,), nats; `run` ids. No rows: nothing but `given`.
          base: ids of the rows' base models; None: the table's base of that size.
        """
        count = len(loss)
        rows = {name: np.asarray(x[name] if name in x else np.full(count, given[name]), float) for name in self.x}
        if base is None:
            bases = dict(zip(self.x["params"], self.base)) if "params" in self.x else {}
            base = [bases.get(size, f"of {domain}") for size in x.get("params", [0.0] * count)]
        return dataclasses.replace(
            self,
            x={name: np.concatenate([values, rows[name]]) for name, values in self.x.items()},
            log_y=np.concatenate([self.log_y, np.log(loss)]),
            noise=np.concatenate([self.noise, np.ones(count)]),
            run=(*self.run, *run),
            base=(*self.base, *base),
            domain=(*self.domain, *[domain] * count),
            asked=domain,
            given=dict(given),
        )

    def cautions(self, x: Mapping[str, np.ndarray]) -> list[str]:
        """What stands against believing an interval at `x`, in words, the table's own shortness first."""
        out = []
        words = [
            f"{self.counts[name]} {name}"
            for name, least in (("sizes", LEAST_SIZES), ("runs", LEAST_RUNS), ("rows", LEAST_ROWS))
            if name in self.counts and self.counts[name] < least
        ]
        if words:
            out.append(
                f"{' and '.join(words)}: such short tables' 90% intervals held less often than they said when this was "
                f"measured; {LEAST_SIZES} sizes, {LEAST_RUNS} runs and {LEAST_ROWS} rows are the least to rely on"
            )
        for column, word in (("params", "size"), ("tokens", "tokens")):
            if column in x and column in self.x and (reach := float(self.reach(x, column).max())) > CHECKED:
                times = f"{reach:.0f}" if reach >= 10 else f"{reach:.2g}"
                silent = f": these runs say nothing {times} times out" if reach > SILENT else ""
                out.append(
                    f"{word} {times} times beyond the fitted rows; intervals were checked up to {CHECKED}{silent}"
                )
        for name in self._unmeasured(x):
            out.append(f"no fitted run had a share of 0 of {name}, and what dropping a corpus does cannot be inferred")
        return out

    def silent(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """(K,) where nothing is said: more than `SILENT` times beyond the rows, or its corpus dropped unmeasured."""
        out = np.zeros(np.broadcast_shapes(*(np.shape(v) for v in x.values())), bool)
        for column in ("params", "tokens"):
            if column in x and column in self.x:
                out |= self.reach(x, column) > SILENT
        if "ratio" in self.x and self.x["ratio"].min() > 0:
            out |= np.asarray(x["ratio"]) == 0
        return out

    def reach(self, x: Mapping[str, np.ndarray], column: str) -> np.ndarray:
        """(K,) how many times beyond the fitted rows, on the nearer side; 1 within."""
        fitted = self.x[column]
        return np.maximum(np.maximum(x[column] / fitted.max(), fitted.min() / np.asarray(x[column])), 1.0)

    def to_json(self) -> dict[str, Any]:
        """All but the law, in JSON's types."""
        out = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "law"}
        out |= {name: out[name].tolist() for name in ("logged", "centre", "spread", "phi", "log_y", "noise")}
        return out | {"x": {k: v.tolist() for k, v in self.x.items()}, "moving": list(self.moving)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], law: Law) -> "Process":
        """From what `to_json` gave.

        Raises:
          KeyError, TypeError, ValueError: a field is missing, unknown, of another type, length or range.
        """
        given: dict[str, Any] = dict(data)
        given |= {name: np.array(given[name], float) for name in ("centre", "spread", "phi", "log_y", "noise")}
        given |= {name: tuple(map(str, given[name])) for name in ("moving", "run", "base")}
        given["domain"] = tuple(map(str, given.get("domain", [""] * len(given["run"]))))
        given |= {
            "logged": np.array(given["logged"], bool),
            "x": {k: np.array(v, float) for k, v in given["x"].items()},
        }
        for name in ("scales", "lengths", "fixed"):
            given[name] = {str(k): float(v) for k, v in given[name].items()}
        found = cls(law=law, **given)
        found._validate()
        return found

    def _validate(self) -> None:
        rows, moving = len(self.log_y), len(self.moving)
        ids = {len(v) for v in (self.run, self.base, self.domain)}
        lengths = ids | {len(v) for v in (*self.x.values(), self.noise)}
        sizes = {len(v) for v in (self.logged, self.centre, self.spread, self.phi)}
        if lengths != {rows} or sizes - {moving} or not rows:
            raise ValueError("its rows or parameters are not of one length")
        if set(self.x) != set(self.law.columns):
            raise ValueError(f"it has the columns {', '.join(self.x)}, the law {', '.join(self.law.columns)}")
        if {*self.moving} | {*self.fixed} < {*self.law.names} or set(self.moving) - set(self.law.names):
            raise ValueError("its parameters are not the law's")
        if NOISE not in self.scales or set(self.scales) - set(kernels.TERMS):
            raise ValueError(f"its terms are not among {', '.join(kernels.TERMS)}")
        numbers: list[Any] = [self.log_y, self.centre, self.phi, *self.x.values(), *self.fixed.values()]
        above: list[Any] = [
            self.noise,
            self.spread,
            *self.scales.values(),
            *self.lengths.values(),
            self.df,
            self.offset,
        ]
        if not all(np.isfinite(v).all() for v in (*numbers, *above)) or not all(
            (np.asarray(v) > 0).all() for v in above
        ):
            raise ValueError("a number is not finite, or a scale not above 0")
        if not {"runs", "rows"} <= set(self.counts) or not all(
            isinstance(v, int) and v > 0 for v in self.counts.values()
        ):
            raise ValueError("its counts of runs and rows are not whole numbers above 0")

    def _check(self, target: str) -> None:
        if target not in TARGETS:
            raise UserError(f"no target {target!r}; there are {', '.join(TARGETS)}")

    def told(self, x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The columns of a question, those that are known of its domain among them."""
        count = len(np.atleast_1d(next(iter(x.values()))))
        return {**x, **{name: np.full(count, value) for name, value in self.given.items()}}

    @functools.cached_property
    def codes(self) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        """Ids of runs, bases and domains as numbers; the domain asked about is one, whether it has rows or not."""
        runs, bases, domains = (
            {v: i for i, v in enumerate(dict.fromkeys(ids))}
            for ids in (self.run, self.base, (*self.domain, self.asked))
        )
        return runs, bases, domains

    @functools.cached_property
    def fitted_points(self) -> Points:
        """Where the fitted rows are."""
        run, base, domain = (
            np.array([codes[v] for v in ids])
            for codes, ids in zip(self.codes, (self.run, self.base, self.domain), strict=True)
        )
        return kernels.points(self.x, run, base, self.offset, domain=domain)

    @functools.cached_property
    def fitted_slopes(self) -> np.ndarray:
        """Slopes of the law at the fitted rows times the prior sds of its parameters, (rows, P)."""
        return self.slopes(self.x) * self.spread

    @functools.cached_property
    def inverse_root(self) -> np.ndarray:
        """Inverse of the Cholesky factor of the covariance of the rows, (rows, rows)."""
        matrix = self.fitted_slopes @ self.fitted_slopes.T + self.scales[NOISE] ** 2 * np.diag(self.noise)
        for term, scale in self.scales.items():
            if term != NOISE:
                matrix += scale**2 * kernels.correlation(term, self.fitted_points, self.fitted_points, self.lengths)
        return np.linalg.inv(np.linalg.cholesky(matrix))

    @functools.cached_property
    def solved(self) -> np.ndarray:
        off = self.log_y - self.law_log(self.phi, self.x) - self.slopes(self.x) @ (self.centre - self.phi)
        return self.inverse_root.T @ (self.inverse_root @ off)

    def points(self, x: Mapping[str, np.ndarray], run: Any, base: Any, target: str, domain: Any = None) -> Points:
        """Where questions are: as `predict` takes them."""
        count = len(np.atleast_1d(next(iter(x.values()))))
        runs, bases, domains = self.codes
        own = np.full(count, -1) if run is None else np.array([runs.get(str(v), -1) for v in run])
        if target == "base":
            of_base = np.full(count, -1)
        elif base is not None:
            of_base = np.array([bases.get(str(v), -1) for v in base])
        else:
            of_base = self._base_of(x, count)
        # A domain without rows is a new one.
        names = [self.asked] * count if domain is None else domain
        code = np.array([domains.get(str(name), domains[self.asked]) for name in names])
        return kernels.points(x, own, of_base, self.offset, tuple(self.fitted_points.axes), code)

    def _base_of(self, x: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """The table's base of each size, where it has one alone; -1 elsewhere."""
        codes = self.fitted_points.base
        if "params" not in self.x:
            return np.full(count, codes[0] if (codes == codes[0]).all() else -1)
        out = np.full(count, -1)
        for n in np.unique(self.x["params"]):
            here = np.unique(codes[self.x["params"] == n])
            if len(here) == 1:
                out[np.isclose(x["params"], n, rtol=1e-9)] = here[0]
        return out

    def _unmeasured(self, x: Mapping[str, np.ndarray]) -> list[str]:
        shares = {k: k[2:] for k in self.x if k.startswith("w_")} | (
            {"ratio": "its corpus"} if "ratio" in self.x else {}
        )
        return [word for name, word in shares.items() if name in x and self.x[name].min() > 0 and (x[name] == 0).any()]

    def theta(self, phi: np.ndarray) -> dict[str, Any]:
        """Reported parameters at phi (..., P)."""
        values = np.where(self.logged, np.exp(np.where(self.logged, phi, 0.0)), phi)
        return self.fixed | dict(zip(self.moving, np.moveaxis(values, -1, 0), strict=True))

    def law_log(self, phi: np.ndarray, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """Log loss of the law, (..., K) at phi (..., P); NaN where it is not positive."""
        theta = {k: np.asarray(v)[..., None] for k, v in self.theta(phi).items()}
        with np.errstate(all="ignore"):
            value = np.asarray(self.law.predict(theta, x), float)
            value = np.log(np.where(value > 0, value, np.nan))
        return np.broadcast_to(value, (*np.shape(phi)[:-1], len(np.atleast_1d(next(iter(x.values()))))))

    def slopes(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """d log loss / d phi at the mode, (K, P), by central differences."""
        return slopes(lambda phi: self.law_log(phi, x), self.phi)


def slopes(log_law: Any, phi: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """(K, P) central differences of `log_law`, which maps (L, P) to (L, K)."""
    size = len(phi)
    both = log_law(np.concatenate([phi + step * np.eye(size), phi - step * np.eye(size)]))
    return np.nan_to_num((both[:size] - both[size:]).T / (2 * step))
