"""`Fit`: a fitted law as data. Loads, predicts and gives intervals with NumPy alone.

The law's own parameters and their bootstrap are what papers report; what is predicted and decided comes from the
`Process`, which is the law corrected by how it missed. The two are asked for by name and never mixed.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cptlaw import drawings, runs
from cptlaw.fields import plain
from cptlaw.fitting import intervals, mixes, rows, saved, verdicts
from cptlaw.fitting.process import TARGETS, Process
from cptlaw.fitting.saved import FitError
from cptlaw.fitting.verdicts import LackOfFit, Tried
from cptlaw.laws import Law
from cptlaw.laws.factor import COLUMN, at_level
from cptlaw.words import count, percent

__all__ = ["Fit", "FitError", "Prediction"]
AUTO = "auto"  # in the place of a law's name: the one that predicts the table's own later rows best
ROUNDED = 5e-3  # relative: a count in three digits, as it is printed, may lie so far beyond what was fitted
SHOWN = 8  # values in a line
LAW = "law"  # the target of a prediction that is the law's own mean, with the bootstrap's interval


@dataclass(frozen=True)
class Prediction:
    """Loss in nats per token: `point`, `low` and `high` (...), at confidence `level`.

    Attributes:
      samples: (S, ...) of the law's resamples, where the law alone was asked; else (0, ...).
      target: what the interval is of, one of `process.TARGETS` or "law".
      parts: name -> (...), what share of the squared width each part has: the law, its misses by axis, base, run,
        drift, checkpoint. They sum to 1.
      notes: why an interval is missing (NaN) or to be taken with care.
    """

    point: np.ndarray
    low: np.ndarray
    high: np.ndarray
    samples: np.ndarray
    level: float
    target: str = LAW
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        points = zip(*(np.ravel(values) for values in (self.point, self.low, self.high)))
        told = [
            f"{point:.4f}" + (f" [{low:.4f}, {high:.4f}]" if np.isfinite(low) else " (no interval)")
            for point, low, high in itertools.islice(points, SHOWN)
        ]
        more = f", ... {np.size(self.point) - SHOWN} more" if np.size(self.point) > SHOWN else ""
        return f"<Prediction of {self.target}, {self.level:.0%}: {', '.join(told)}{more}>"


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
      eval: the evaluated corpus, or several for a joint fit.
      params: reported parameters, fixed ones included (N and D in billions inside the built-in laws).
      samples: name -> (S,) bootstrap values; NaN in all where a resample failed. The same row of two fits on one table
        with one seed comes from the same resampled runs.
      codes: how many starts and resamples ended in each way.
      influence: run -> the fitted parameters less those without that run (see `sensitivity.run_influence`).
      scores: {"fit": {...}, "held_out": {"what", "n", "law": {...}, baseline: {...}, "beaten_by": [...]}}.
      residuals: fitted and held-out rows with `observed`, `predicted`, `held_out`.
      ranges: column of the law -> (smallest, largest) fitted.
      rests: column that never varied -> the parameters that say how the loss changes with it, which are therefore not
        determined.
      settings: everything that was asked for.
      process: evaluated corpus -> the law conditioned on its rows, which predictions and decisions come from; empty
        for a fit of the law alone.
      lack_of_fit: evaluated corpus -> the tests of whether its rows reject the law; empty in fits saved before there
        were any.
      remedies: what was tried against a rejection.
    """

    law: Law
    eval: str | tuple[str, ...]
    params: dict[str, float]
    samples: dict[str, np.ndarray]
    codes: dict[str, dict[str, int]]
    influence: dict[str, dict[str, float]]
    scores: dict[str, Any]
    residuals: pd.DataFrame
    ranges: dict[str, tuple[float, float]]
    n_rows: int
    digest: str
    settings: dict[str, Any]
    rests: dict[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    process: dict[str, Process] = field(default_factory=dict)
    lack_of_fit: dict[str, LackOfFit] = field(default_factory=dict)
    remedies: tuple[Tried, ...] = ()

    def __repr__(self) -> str:
        corpora = self.eval if isinstance(self.eval, str) else ", ".join(self.eval)
        params = ", ".join(f"{name} {value:.4g}" for name, value in itertools.islice(self.params.items(), SHOWN))
        more = f", ... {len(self.params) - SHOWN} more" if len(self.params) > SHOWN else ""
        runs = self.residuals["run"].nunique()
        return (
            f"<Fit of {self.law.name} to {corpora}: {self.n_rows} rows of {runs} runs, {self._count} resamples; "
            f"{params}{more}>"
        )

    def _repr_html_(self) -> str:
        """The fit as a notebook shows it: law, parameters with their intervals, verdict and warnings."""
        rows = []
        for name, value in self.params.items():
            known = self._count > 0 and name in self.samples and np.isfinite(self.samples[name]).any()
            span = "{:.5g} to {:.5g}".format(*self.interval(name)) if known else ""
            rows.append(f"<tr><td>{escape(name)}</td><td>{value:.5g}</td><td>{span}</td></tr>")
        corpora = self.eval if isinstance(self.eval, str) else ", ".join(self.eval)
        lines = [*self.rejection, verdicts.headline(self.scores.get("held_out", {})), *self.warnings]
        return (
            f"<p><b>{escape(self.law.title)}</b> fitted to {escape(corpora)}: {self.n_rows} rows<br>"
            f"<code>L = {escape(self.law.equation)}</code></p>"
            f"<table><tr><th>parameter</th><th>value</th><th>90% interval</th></tr>{''.join(rows)}</table>"
            f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines if line)}</ul>"
        )

    def plot(self, level: float = 0.9) -> Any:
        """Loss against each column that the law reads: a picture that a notebook shows, with `save(PATH)`."""
        return drawings.draw("fit", self, level=level)

    @property
    def unmoved(self) -> tuple[str, ...]:
        """Columns of the law that never varied in the fitted rows: how the loss changes with them is not known."""
        return saved.unmoving(self.ranges)

    @property
    def rejection(self) -> list[str]:
        """That the table rejects the law, by what, and what was found to help, a line each; none if it does not."""
        found = verdicts.rejection(self.law.name, self.lack_of_fit)
        return [found, *verdicts.remedies(self.remedies)] if found else []

    def predict(
        self,
        *,
        level: float = 0.9,
        target: str | None = None,
        run: str | None = None,
        method: str | None = None,
        shares: Mapping[str, ArrayLike] | None = None,
        eval: str | None = None,
        **columns: ArrayLike,
    ) -> Prediction:
        """Loss at broadcast `columns` (`params=`, `tokens=`, `ratio=`, ...; counts), with its interval.

        Args:
          level: confidence of the interval.
          target: what the interval is of: "run", one new run (the default); "mean", the mean of runs; "base", a new run
            from a new base model; "law", the law's own mean with its bootstrap (the default of a fit of the law alone).
          run: a run of the table, to be continued or taken elsewhere: its effect is known.
          method: of the law's own interval, "percentile" or "bca"; asks for the target "law".
          shares: corpus -> share, for laws that read `w_<corpus>`.
          eval: which corpus, for a joint fit.

        Raises:
          FitError: a column is missing, unknown or out of its range; shares do not sum to 1; a column that never varied
            in the fitted rows is asked at another value; or there is no such target or run.
        """
        x = self._columns(columns, shares, eval)
        self.check_moved(x)
        shape = x[self.law.columns[0]].shape
        target = target or (LAW if method or not self.process else "run")
        if target not in (LAW, *TARGETS):
            raise FitError(f"no target {target!r}; there are {', '.join((*TARGETS, LAW))}")
        if target != LAW:
            return self._conditioned(x, shape, level, target, run, eval)

        def at(theta: Mapping[str, Any]) -> np.ndarray:
            return np.broadcast_to(self.law.predict(theta, x), shape)

        stacked = {k: v.reshape(-1, *[1] * len(shape)) for k, v in self.samples.items()}
        samples = np.broadcast_to(self.law.predict({**self.params, **stacked}, x), (self._count, *shape))
        return self._interval(np.array(at(self.params)), samples, at, level, method or "percentile")

    def size(self, params: float) -> float:
        """The `params=` at which to ask of a model of so many parameters: its equivalent size (`runs.sized_by_base`).

        The same number, for a fit whose sizes are parameters.

        Raises:
          FitError: the table holds no base model of that size.
        """
        if not (sizes := self.settings.get("sizes")):
            return params
        known = pd.DataFrame({"params": [float(actual) for actual in sizes], "worth": list(sizes.values())})
        found = runs.at_size(known, params)["worth"]
        if found.empty:
            raise FitError(
                f"this fit tells sizes by base models' losses, and knows none of {count(params)} parameters (but of "
                f"{', '.join(count(float(actual)) for actual in sizes)}): add its base model's row at zero tokens to "
                "the table, and fit again"
            )
        return float(found.iloc[0])

    def alone(self) -> "Fit":
        """The law alone: what it predicts and decides by its own resamples, as if it were true."""
        return replace(self, process={})

    def at_level(self, level: str) -> "Fit":
        """The fit at one level of its factor, which every question is then about.

        Raises:
          LawError: the level was not fitted.
        """
        return replace(
            self,
            law=at_level(self.law, level),
            ranges={name: value for name, value in self.ranges.items() if name != COLUMN},
            process={c: replace(found, law=at_level(found.law, level)) for c, found in self.process.items()},
        )

    def interval(self, name: str, level: float = 0.9, method: str = "percentile") -> tuple[float, float]:
        """Interval of a parameter."""
        if name not in self.samples:
            raise FitError(f"no parameter {name!r} with samples; there are {', '.join(self.samples) or 'none'}")
        found = self.of(lambda theta: theta[name], level, method)
        return float(found.low), float(found.high)

    def of(
        self, function: Callable[[Mapping[str, Any]], Any], level: float = 0.9, method: str = "percentile"
    ) -> Prediction:
        """Any function of the parameters, with its interval. `function(theta)` gets floats, once a sample."""
        point = np.asarray(function(self.params), float)
        draws = ({**self.params, **{k: float(v[i]) for k, v in self.samples.items()}} for i in range(self._count))
        values = [np.asarray(function(theta), float) for theta in draws]
        samples = np.array(values).reshape(self._count, *point.shape)
        return self._interval(point, samples, lambda theta: np.asarray(function(theta), float), level, method)

    def expanded(self, level: float) -> float:
        """The level of quantiles of `samples` that make an honest interval of `level` (see `intervals.expanded`)."""
        fitted = self.residuals[~self.residuals["held_out"]]
        of = {"runs": "run", "domains": "mixed_in"}.get(self.settings["resample"])
        units = fitted[of].nunique() if of else len(fitted)
        free = [name for name in self.law.names if name not in self.settings["fixed"] and name not in self.law.fixed]
        return intervals.expanded(level, units, len(free))

    def moves(self) -> list[tuple[str, float]]:
        """Runs that move the fit most: relative change that each makes to the loss predicted at the far corner of the
        fitted ranges; largest first."""
        corner = {k: np.asarray(0.0 if k in ("corpus", COLUMN) else self.ranges[k][1]) for k in self.law.columns}
        base = float(self.law.predict(self.params, corner))
        found = []
        for run, move in self.influence.items():
            without = {k: v - move.get(k, 0.0) for k, v in self.params.items()}
            with np.errstate(all="ignore"):  # a first-order move may leave the values that the law can take
                found.append((run, float(base / np.asarray(self.law.predict(without, corner)) - 1)))
        return sorted(found, key=lambda item: -abs(item[1]))

    def extrapolation(self, **columns: ArrayLike) -> list[str]:
        """Where a question lies outside the fitted ranges, and how far, in words: a note a column and side."""
        of = self.eval if isinstance(self.eval, str) else ", ".join(self.eval)
        notes = []
        for name, value in self.with_shares(columns).items():
            if name not in self.ranges:
                continue
            (low, high), values = self.ranges[name], np.asarray(value, float)
            if name == "ratio" or name.startswith("w_"):
                corpus = of if name == "ratio" else name.removeprefix("w_")
                for share in np.unique(values[(values < low - 1e-9) | (values > high + 1e-9)]):
                    notes.append(
                        f"a share of {percent(float(share))} of {corpus} is outside the fitted shares "
                        f"({percent(low)} to {percent(high)})"
                    )
                continue
            if (most := float(values.max())) > high * (1 + ROUNDED):
                times = f"{most / high:.3g} times" if high > 0 else "over"
                far = f"{times} the largest fitted for {of} ({count(high)})"
                notes.append(f"{name} {count(most)} is above the fitted range: {far}")
            if (least := float(values.min())) < low * (1 - ROUNDED):
                times = f"{low / least:.3g} times " if least > 0 else ""
                far = f"{times}below the smallest fitted for {of} ({count(low)})"
                notes.append(f"{name} {count(least)} is below the fitted range: {far}")
        return notes

    def check_moved(self, x: Mapping[str, ArrayLike]) -> None:
        """Refuses a question whose answer the fitted rows do not hold.

        Args:
          x: columns of the law, any that broadcast.

        Raises:
          FitError: a column that never varied is asked at another value, or shares that always moved together are
            asked apart.
        """
        x = self.with_shares(x)
        for name in self.unmoved:
            low, high = self.ranges[name]
            values = np.asarray(x.get(name, low), float)
            off = values[(values < low - saved.slack(name, low)) | (values > high + saved.slack(name, high))]
            if off.size:
                raise FitError(
                    f"{name} = {off.flat[0]:g}: every fitted row has {name} = {high:g}, so how the loss changes with "
                    f"{name} was not measured; add runs at other values of {name} and fit again, or ask at {high:g}"
                )
        if group := mixes.outside(self.residuals[~self.residuals["held_out"]], x):
            raise FitError(
                f"the shares of {', '.join(group)} moved in step in every fitted row, so their effects cannot be told "
                "apart, and this mix moves them apart; add runs that do, or ask for a mix like those fitted"
            )

    def summary(self, level: float = 0.9) -> dict[str, Any]:
        """The fit without samples and rows, for programs: JSON-ready."""
        sure = self._count > 0
        return plain(
            {
                "law": {"name": self.law.name, "title": self.law.title, "equation": self.law.equation},
                "eval": self.eval,
                "n_rows": self.n_rows,
                "params": self.params,
                "level": level,
                "intervals": {name: self.interval(name, level) for name in self.samples} if sure else {},
                "billions": self.law.billions,
                **{key: getattr(self, key) for key in ("codes", "scores", "ranges", "unmoved", "rests", "digest")},
                **{key: getattr(self, key) for key in ("settings", "warnings", "versions")},
                "rejection": self.rejection,
                "lack_of_fit": {corpus: asdict(one) for corpus, one in self.lack_of_fit.items()},
                "remedies": [{**asdict(one), "helps": one.helps} for one in self.remedies],
                "standing": verdicts.standing(self.scores.get("held_out", {})),
            }
        )

    def single(self, corpus: str) -> "Fit":
        """The fit of one corpus out of a joint fit, under the parameters' own names."""
        if isinstance(self.eval, str) or corpus not in self.eval:
            raise FitError(f"{corpus!r} is not among the jointly fitted corpora: {self.eval}")
        law = self.law.base or self.law

        def pick(values: Mapping[str, Any]) -> dict[str, Any]:
            names = [*law.names, *law.fixed]
            return {
                n: values.get(f"{n}[{corpus}]", values.get(n))
                for n in names
                if n in values or f"{n}[{corpus}]" in values
            }

        own = self.residuals[self.residuals["eval"] == corpus]
        fitted = own[~own["held_out"]]
        x = {name: rows.column(fitted, name, law, (corpus,)) for name in law.columns}
        return Fit(
            **{
                **self.__dict__,
                "law": law,
                "eval": corpus,
                "params": pick(self.params),
                "samples": pick(self.samples),
                "influence": {run: pick(value) for run, value in self.influence.items()},
                "residuals": own,
                "ranges": {name: (float(values.min()), float(values.max())) for name, values in x.items()},
                "n_rows": len(fitted),
                "process": {corpus: self.process[corpus]} if corpus in self.process else {},
                "lack_of_fit": {corpus: self.lack_of_fit[corpus]} if corpus in self.lack_of_fit else {},
                "remedies": tuple(one for one in self.remedies if one.eval == corpus),
            }
        )

    def for_domain(
        self,
        name: str,
        probe: pd.DataFrame | None = None,
        *,
        k1: float | None = None,
        k2: float | None = None,
        k3: float | None = None,
    ) -> "Fit":
        """The fit as it speaks of one domain, which may be new: of a table of several (`runs.by_domain`).

        The law holds that domain's learnability; predictions and decisions are also conditioned on the rows of the
        probe. What no probe shows of a new domain is as uncertain as the table's domains differ.

        Args:
          name: the domain, as predictions and decisions call it. One of the table's needs nothing else.
          probe: rows of short runs of the new domain, made with `runs.by_domain` at the same tokens as the table.
          k1, k2, k3: its learnability, instead of the probe's (nats).

        Raises:
          FitError: the fit is not of such a table, or neither a probe nor the table tells what the law reads.
        """
        frame, corpus = self.residuals, self.eval
        if not isinstance(corpus, str) or "mixed_in" not in frame:
            raise FitError("this fit is not of a table of several domains; make one with cptlaw.runs.by_domain")
        known = frame[frame["mixed_in"] == name]
        if probe is not None:
            known = probe[(probe["eval"] == corpus) & runs.finished(probe) & (probe["tokens"] > 0)]
            if known.empty:
                raise FitError(f"the probe has no finished row with eval {corpus}: make it with cptlaw.runs.by_domain")
            if (frame["mixed_in"] == name).any():
                raise FitError(f"{name} is a domain of the fitted table: give its probe another name, or no probe")
        if known.empty and (k1, k2, k3) == (None, None, None):
            there = ", ".join(sorted(set(frame["mixed_in"])))
            raise FitError(f"no domain {name!r} among those fitted ({there}): give its probe, or its k1 and k2")
        given = {}
        for column, value in zip(runs.COEFFICIENTS, (k1, k2, k3), strict=True):
            if column not in self.law.columns:
                continue
            measured = known[column] if column in known and len(known) else pd.Series(dtype=float)
            if value is None and measured.nunique() != 1:
                raise FitError(f"{self.law.title} needs {column} of {name}: give it, or a probe that measures it")
            given[column] = float(measured.iloc[0] if value is None else value)
        law, own = self.law.at(**given), name if corpus == runs.DOMAIN else corpus
        found = {}
        if process := self.process.get(corpus):
            new = known if probe is not None else known.iloc[:0]
            x = {c: rows.column(new, c, law, (corpus,)) if len(new) else np.empty(0) for c in law.columns}
            loss, run = new["loss"].to_numpy(float), new["run"].astype(str).tolist()
            found = {own: process.about(name, given, x, loss, run, rows.bases(new) if len(new) else None)}
        return replace(
            self,
            law=law,
            eval=own,
            ranges={column: ends for column, ends in self.ranges.items() if column not in given},
            rests={column: names for column, names in self.rests.items() if column not in given},
            process=found,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON atomically (see `saved`)."""
        if self.law.given:
            raise FitError("a fit that speaks of one domain is not saved: save the fit of all, and ask it with a probe")
        saved.write(path, self.law.base or self.law, {name: getattr(self, name) for name in saved.CONTENT})

    @classmethod
    def load(cls, path: str | os.PathLike[str], law: str | Law | None = None) -> "Fit":
        """Reads and validates a saved fit; needs no JAX and runs nothing that the file names.

        Args:
          law: the user's law that the fit is by, `FILE.py:NAME` or a `Law`: such a fit loads only with it, and only if
            its source is the one that was fitted. Of a fit by a built-in law it is not read.

        Raises:
          FitError: a file that is missing, damaged, foreign or of another version, by field; or of another law.
        """
        return cls(**saved.read(path, law))

    @property
    def _count(self) -> int:
        return len(next(iter(self.samples.values()), ()))

    def _conditioned(
        self,
        x: dict[str, np.ndarray],
        shape: tuple[int, ...],
        level: float,
        target: str,
        run: str | None,
        eval: str | None,
    ) -> Prediction:
        corpus = self.eval if isinstance(self.eval, str) else eval
        if corpus not in self.process:
            raise FitError(f"target {target!r}: this fit is of the law alone; ask for the target 'law', or fit again")
        process = self.process[corpus]
        if run is not None and run not in process.run:
            raise FitError(f"no run {run!r} of {corpus} in this fit; leave run out for a new one")
        flat = {name: x[name].ravel() for name in self.law.columns if name != "corpus"}
        count = len(next(iter(flat.values())))
        found = process.predict(flat, target, None if run is None else np.full(count, run))
        low, high = found.interval(level)
        silent = process.silent(flat)
        low, high = (np.where(silent, np.nan, bound).reshape(shape) for bound in (low, high))
        parts = {name: (value / found.sd**2).reshape(shape) for name, value in found.parts.items()}
        point = np.exp(found.mean).reshape(shape)
        return Prediction(point, low, high, np.empty((0, *shape)), level, target, parts, tuple(process.cautions(flat)))

    def _interval(self, point: np.ndarray, samples: np.ndarray, at: Any, level: float, method: str) -> Prediction:
        wider = self.expanded(level)
        if not len(samples):
            nothing = np.full(point.shape, np.nan)
            return Prediction(point, nothing, nothing, samples, level)
        push = intervals.acceleration(self.params, self.influence, at) if method == "bca" else None
        low, high = intervals.bounds(point, samples, wider, method, push)
        return Prediction(point, low, high, samples, level)

    def with_shares(self, x: Mapping[str, Any], eval: str | None = None) -> dict[str, Any]:
        """Columns with `ratio` told as the shares of two corpora, where the law reads those and not it."""
        own = eval or self.eval
        names = [name for name in self.law.columns if name.startswith("w_")]
        named = any(name.startswith("w_") for name in x)
        if named or "ratio" not in x or "ratio" in self.law.columns or len(names) != 2 or f"w_{own}" not in names:
            return dict(x)
        (other,) = set(names) - {f"w_{own}"}
        told = {f"w_{own}": x["ratio"], other: 1 - np.asarray(x["ratio"], float)}
        return told | {name: value for name, value in x.items() if name != "ratio"}

    @property
    def of_share(self) -> bool:
        """Whether the law is one of the evaluated corpus's own share (and size and tokens), as `ratio` gives it."""
        names = {name for name in self.law.columns if name not in ("params", "tokens")}
        return names == {"ratio"} or (
            len(names) == 2 and f"w_{self.eval}" in names and all(n[:2] == "w_" for n in names)
        )

    def _columns(
        self, columns: Mapping[str, ArrayLike], shares: Mapping[str, ArrayLike] | None, eval: str | None
    ) -> dict[str, np.ndarray]:
        given = self.with_shares({**columns, **{f"w_{k}": v for k, v in (shares or {}).items()}}, eval)
        if "corpus" in self.law.columns:
            if eval is None or eval not in self.eval:
                raise FitError(f"a joint fit needs eval=, one of {', '.join(self.eval)}")
            given["corpus"] = np.asarray(self.eval.index(eval))
        if COLUMN in self.law.columns:
            if COLUMN not in given:
                raise FitError(f"this fit has a factor: give a level of {self.law.factor.column}, one of "
                               f"{', '.join(sorted(self.law.factor.levels))}")  # fmt: skip
            if isinstance(given[COLUMN], str):
                given[COLUMN] = self.law.factor.index(given[COLUMN])
        missing = [c for c in self.law.columns if c not in given]
        unknown = [c for c in given if c not in self.law.columns]
        if missing or unknown:
            wrong = [f"needs {', '.join(missing)}"] * bool(missing) + [f"does not read {', '.join(unknown)}"] * bool(
                unknown
            )
            raise FitError(f"law {self.law.name} {' and '.join(wrong)}; it reads {', '.join(self.law.columns)}")
        names = list(given)
        arrays = dict(zip(names, np.broadcast_arrays(*(np.asarray(given[n], float) for n in names))))
        for name, values in arrays.items():
            share, count = name == "ratio" or name.startswith("w_"), name in ("params", "tokens")
            bad = ~np.isfinite(values) | (((values < 0) | (values > 1)) & share) | ((values <= 0) & count)
            if bad.any():
                rule = "a share in [0, 1]" if share else "a positive count" if count else "finite"
                raise FitError(f"{name} = {values[bad].flat[0]:g} is not {rule}")
        if shares_of := [name for name in self.law.columns if name.startswith("w_")]:
            total = np.asarray(sum(arrays[name] for name in shares_of))
            if (off := np.abs(total - 1) > runs.SHARE_TOLERANCE).any():
                raise FitError(f"the shares {', '.join(shares_of)} sum to {total[off].flat[0]:.6g}, not 1")
        return arrays
