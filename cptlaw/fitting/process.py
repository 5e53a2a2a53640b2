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
from collections.abc import Mapping
from typing import Any

import numpy as np

from cptlaw.errors import UserError
from cptlaw.fitting import intervals, kernels
from cptlaw.fitting.kernels import NOISE, SMOOTH, Points
from cptlaw.laws import Law

TARGETS = {
    "mean": "the mean of runs from these bases: no run, no checkpoint, no new base",
    "run": "one new run, from the base of its size where the table has it",
    "base": "one new run from a base model of another seed",
}
LEAST_SIZES, LEAST_RUNS, LEAST_ROWS = 3, 8, 20
FEW = 5  # runs' worth of knowledge that finding the scales costs
CHECKED, SILENT = 4.7, 10.0  # times beyond the table: to where questions were checked, and where nothing is said
FEATURES = 192  # random Fourier features a term, of joint draws; their variance is right to 1 / sqrt(2 FEATURES)


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
      x: column of the law -> (rows,); `log_y` (rows,); `run`, `base`: ids (rows,).
      noise: (rows,) checkpoint variance of each row over that of the average row, from the rows' `loss_se`.
      counts: sizes, runs and rows of the table before thinning.
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
    counts: dict[str, int]

    def predict(
        self,
        x: Mapping[str, np.ndarray],
        target: str = "run",
        run: np.ndarray | None = None,
        base: np.ndarray | None = None,
    ) -> Predictive:
        """The predictive at columns `x` (K,).

        Args:
          target: one of `TARGETS`.
          run: (K,) run ids; those of the table share their run's effect and drift. None: new runs.
          base: (K,) base ids, as conditioned on. None: the table's base of that size, where it has one alone.
        """
        self._check(target)
        at = self._points(x, run, base, target)
        slope = self._slopes(x)
        law = slope * self.spread
        covariance = {"law": law @ self._train_law.T}
        own = {"law": (law**2).sum(axis=1)}
        for term, scale in self.scales.items():
            if term == NOISE or (target == "mean" and term in ("run", "drift")):
                continue
            covariance[term] = scale**2 * kernels.correlation(term, at, self._train, self.lengths)
            # A base of the table counts for every target; a new one only where one new run is asked for.
            counts = at.base >= 0 if target == "mean" and term == "base" else True
            own[term] = np.full(len(at), scale**2) * counts
        total = np.sum(list(covariance.values()), axis=0)
        weights = self._inverse_root @ total.T  # (rows, K)
        parts = {}
        for term, value in covariance.items():
            parts[term] = own[term] - np.einsum("rk,rk->k", self._inverse_root @ value.T, weights)
        if target != "mean":
            parts[NOISE] = np.full(len(at), self.scales[NOISE] ** 2)
        parts = {name: self.widened**2 * value for name, value in parts.items()}
        variance = np.maximum(np.sum(list(parts.values()), axis=0), 1e-16)
        mean = self._law_log(self.phi, x) + slope @ (self.centre - self.phi) + total @ self._solved
        return Predictive(mean, np.sqrt(variance), parts, self.df)

    @property
    def widened(self) -> float:
        """How much wider intervals are than the scales say, which were themselves found from few runs.

        sqrt(n / (n - 5)) of n runs (rows, where there is one run), at most 1.41. Without it intervals of tables under
        20 rows, and of shares recommended from 10 runs, held in 75 to 87%, not 90.
        """
        units = self.counts["runs"] if self.counts["runs"] > 1 else self.counts["rows"]
        return math.sqrt(units / (units - FEW)) if units > 2 * FEW else math.sqrt(2)

    def draws(self, count: int, seed: int | tuple[int, ...] = 0) -> "Draws":
        """`count` joint draws of the mean of runs, as functions that can be asked anywhere.

        Pathwise conditioning (Wilson et al. 2020, arXiv 2002.09309): a draw of the prior, of random Fourier features
        and linear in the law's parameters, plus the exact correction by what it misses at the rows.
        """
        rng = np.random.default_rng(seed)
        terms = [t for t in self.scales if t in SMOOTH]
        waves = {t: self._frequencies(t, rng) for t in terms}
        columns = sum(len(w[1]) for w in waves.values())
        coefficients = rng.standard_normal((columns + len(self.moving), count))
        bases = sorted(set(self._train.base[self._train.base >= 0].tolist())) if "base" in self.scales else []
        base = self.scales.get("base", 0.0) * rng.standard_normal((len(bases), count))
        short = Draws(self, waves, coefficients, {b: base[i] for i, b in enumerate(bases)}, np.empty(0), np.empty(0))
        noise = sum(
            scale**2 * kernels.correlation(term, self._train, self._train, self.lengths)
            for term, scale in self.scales.items()
            if term in ("run", "drift")
        ) + self.scales[NOISE] ** 2 * np.diag(self.noise)
        prior = short.prior(self._train, self._train_law) + np.linalg.cholesky(noise) @ rng.standard_normal(
            (len(self.log_y), count)
        )
        solved = self._inverse_root.T @ (self._inverse_root @ prior)
        stretch = self.widened * np.sqrt(self.df / rng.chisquare(self.df, count))
        return dataclasses.replace(short, solved=solved, stretch=stretch)

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
        lengths = {*map(len, self.x.values()), len(self.run), len(self.base), len(self.noise)}
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

    @functools.cached_property
    def _codes(self) -> tuple[dict[str, int], dict[str, int]]:
        return tuple({v: i for i, v in enumerate(dict.fromkeys(ids))} for ids in (self.run, self.base))  # type: ignore

    @functools.cached_property
    def _train(self) -> Points:
        runs, bases = self._codes
        run, base = np.array([runs[v] for v in self.run]), np.array([bases[v] for v in self.base])
        return kernels.points(self.x, run, base, self.offset)

    @functools.cached_property
    def _train_law(self) -> np.ndarray:
        return self._slopes(self.x) * self.spread

    @functools.cached_property
    def _inverse_root(self) -> np.ndarray:
        """Inverse of the Cholesky factor of the covariance of the rows, (rows, rows)."""
        matrix = self._train_law @ self._train_law.T + self.scales[NOISE] ** 2 * np.diag(self.noise)
        for term, scale in self.scales.items():
            if term != NOISE:
                matrix += scale**2 * kernels.correlation(term, self._train, self._train, self.lengths)
        return np.linalg.inv(np.linalg.cholesky(matrix))

    @functools.cached_property
    def _solved(self) -> np.ndarray:
        off = self.log_y - self._law_log(self.phi, self.x) - self._slopes(self.x) @ (self.centre - self.phi)
        return self._inverse_root.T @ (self._inverse_root @ off)

    def _points(self, x: Mapping[str, np.ndarray], run: Any, base: Any, target: str) -> Points:
        count = len(np.atleast_1d(next(iter(x.values()))))
        runs, bases = self._codes
        own = np.full(count, -1) if run is None else np.array([runs.get(str(v), -1) for v in run])
        if target == "base":
            of_base = np.full(count, -1)
        elif base is not None:
            of_base = np.array([bases.get(str(v), -1) for v in base])
        else:
            of_base = self._base_of(x, count)
        return kernels.points(x, own, of_base, self.offset, tuple(self._train.axes))

    def _base_of(self, x: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """The table's base of each size, where it has one alone; -1 elsewhere."""
        codes = self._train.base
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

    def _law_log(self, phi: np.ndarray, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """Log loss of the law, (..., K) at phi (..., P); NaN where it is not positive."""
        theta = {k: np.asarray(v)[..., None] for k, v in self.theta(phi).items()}
        with np.errstate(all="ignore"):
            value = np.asarray(self.law.predict(theta, x), float)
            value = np.log(np.where(value > 0, value, np.nan))
        return np.broadcast_to(value, (*np.shape(phi)[:-1], len(np.atleast_1d(next(iter(x.values()))))))

    def _slopes(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """d log loss / d phi at the mode, (K, P), by central differences."""
        return slopes(lambda phi: self._law_log(phi, x), self.phi)

    def _frequencies(self, term: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Frequencies (FEATURES, dims) of each axis and phases: those of Matern 5/2 are multivariate t with 5 df."""
        out = {}
        for axis in SMOOTH[term]:
            size = self._train.axes[axis].shape[1]
            normal = rng.standard_normal((FEATURES, size))
            out[axis] = normal * np.sqrt(5 / rng.chisquare(5, FEATURES))[:, None] / self.lengths[axis]
        return out, rng.uniform(0, 2 * np.pi, FEATURES)


def slopes(log_law: Any, phi: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """(K, P) central differences of `log_law`, which maps (L, P) to (L, K)."""
    size = len(phi)
    both = log_law(np.concatenate([phi + step * np.eye(size), phi - step * np.eye(size)]))
    return np.nan_to_num((both[:size] - both[size:]).T / (2 * step))


@dataclasses.dataclass(frozen=True)
class Draws:
    """Joint draws of the log loss of the mean run, functions of where: `at(x)`."""

    process: Process
    waves: dict[str, tuple[dict[str, np.ndarray], np.ndarray]]
    coefficients: np.ndarray  # (features + parameters, S)
    bases: dict[int, np.ndarray]  # base -> (S,)
    solved: np.ndarray  # (rows, S)
    stretch: np.ndarray  # (S,)

    def at(self, x: Mapping[str, np.ndarray], which: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Mean (K,) and draws (S, K) of the log loss at columns `x` (K,)."""
        process = self.process
        at = process._points(x, None, None, "mean")
        mean, off = self._parts(x, at)
        deviation = self.prior(at, process._slopes(x) * process.spread) - off @ self.solved
        return mean, mean + (deviation * self.stretch).T[which]

    def _parts(self, x: Mapping[str, np.ndarray], at: Points) -> tuple[np.ndarray, np.ndarray]:
        process = self.process
        slope = process._slopes(x)
        off = (slope * process.spread) @ process._train_law.T
        for term, scale in process.scales.items():
            if term in SMOOTH or term == "base":
                off = off + scale**2 * kernels.correlation(term, at, process._train, process.lengths)
        mean = process._law_log(process.phi, x) + slope @ (process.centre - process.phi) + off @ process._solved
        return mean, off

    def prior(self, at: Points, law: np.ndarray) -> np.ndarray:
        """Draws of the prior's deviation, (K, S): misses and law, and the bases that the table has."""
        features = [law]
        for term, (frequencies, phase) in self.waves.items():
            angle = phase + sum(at.axes[axis] @ w.T for axis, w in frequencies.items())
            features.append(self.process.scales[term] * math.sqrt(2 / len(phase)) * np.cos(angle))
        out = np.concatenate(features, axis=1) @ self.coefficients
        for code, value in self.bases.items():
            out[at.base == code] += value
        return out
