"""`Fit`: a fitted law as data. Loads, predicts and gives intervals with NumPy alone."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cptlaw import atomic, laws
from cptlaw.errors import UserError
from cptlaw.fields import plain
from cptlaw.fitting import intervals
from cptlaw.laws import Law
from cptlaw.words import count, percent

FORMAT, VERSION = "cptlaw.fit", 1


class FitError(UserError):
    """A fit that cannot be made, read or asked what it was asked."""


@dataclass(frozen=True)
class Prediction:
    """Loss in nats per token: `point`, `low` and `high` (...), `samples` (S, ...), at confidence `level`."""

    point: np.ndarray
    low: np.ndarray
    high: np.ndarray
    samples: np.ndarray
    level: float


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
      ranges: column -> (smallest, largest) fitted.
      settings: everything that was asked for.
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
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""

    def predict(
        self,
        *,
        level: float = 0.9,
        method: str = "percentile",
        lack_of_fit: bool = False,
        shares: Mapping[str, ArrayLike] | None = None,
        eval: str | None = None,
        **columns: ArrayLike,
    ) -> Prediction:
        """Loss at broadcast `columns` (`params=`, `tokens=`, `ratio=`, ...; counts), with its interval.

        Args:
          level: confidence of the interval for the law's mean loss.
          method: "percentile" or "bca".
          lack_of_fit: widen by how far the law missed when it extrapolated before (see `intervals.lack_of_fit`).
          shares: corpus -> share, for laws that read `w_<corpus>`.
          eval: which corpus, for a joint fit.
        """
        x = self._columns(columns, shares, eval)
        shape = x[self.law.columns[0]].shape

        def at(theta: Mapping[str, Any]) -> np.ndarray:
            return np.broadcast_to(self.law.predict(theta, x), shape)

        stacked = {k: v.reshape(-1, *[1] * len(shape)) for k, v in self.samples.items()}
        samples = np.broadcast_to(self.law.predict({**self.params, **stacked}, x), (self._count, *shape))
        misfit = intervals.lack_of_fit(self.scores, self.ranges, x) if lack_of_fit else None
        return self._interval(np.array(at(self.params)), samples, at, level, method, misfit)

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
        rows = [np.asarray(function(theta), float) for theta in draws]
        samples = np.array(rows).reshape(self._count, *point.shape)
        return self._interval(point, samples, lambda theta: np.asarray(function(theta), float), level, method, None)

    def expanded(self, level: float) -> float:
        """The level of quantiles of `samples` that make an honest interval of `level` (see `intervals.expanded`)."""
        fitted = self.residuals[~self.residuals["held_out"]]
        units = fitted["run"].nunique() if self.settings["resample"] == "runs" else len(fitted)
        free = [name for name in self.law.names if name not in self.settings["fixed"] and name not in self.law.fixed]
        return intervals.expanded(level, units, len(free))

    def stretched(self, point: ArrayLike, samples: np.ndarray, level: float) -> np.ndarray:
        """Resamples (S, ...) of `point` whose plain quantiles at `level` make an honest interval.

        Use them where another noise is to be added: that noise does not come from so few runs and needs no expansion.
        """
        normal = NormalDist()
        stretch = normal.inv_cdf((1 + self.expanded(level)) / 2) / normal.inv_cdf((1 + level) / 2)
        return np.asarray(point) + stretch * (samples - np.asarray(point))

    def moves(self) -> list[tuple[str, float]]:
        """Runs that move the fit most: relative change that each makes to the loss predicted at the far corner of the
        fitted ranges; largest first."""
        corner = {k: np.asarray(0.0 if k == "corpus" else self.ranges[k][1]) for k in self.law.columns}
        base = float(self.law.predict(self.params, corner))
        found = []
        for run, move in self.influence.items():
            without = {k: v - move.get(k, 0.0) for k, v in self.params.items()}
            found.append((run, base / float(self.law.predict(without, corner)) - 1))
        return sorted(found, key=lambda item: -abs(item[1]))

    def extrapolation(self, **columns: ArrayLike) -> list[str]:
        """Where a question lies outside the fitted ranges, and how far, in words: a note a column and side."""
        of = self.eval if isinstance(self.eval, str) else ", ".join(self.eval)
        notes = []
        for name, value in columns.items():
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
            if (most := float(values.max())) > high * (1 + 1e-6):
                times = f"{most / high:.3g} times" if high > 0 else "over"
                far = f"{times} the largest fitted for {of} ({count(high)})"
                notes.append(f"{name} {count(most)} is above the fitted range: {far}")
            if (least := float(values.min())) < low * (1 - 1e-6):
                times = f"{low / least:.3g} times " if least > 0 else ""
                far = f"{times}below the smallest fitted for {of} ({count(low)})"
                notes.append(f"{name} {count(least)} is below the fitted range: {far}")
        return notes

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
                **{key: getattr(self, key) for key in ("codes", "scores", "ranges", "digest", "settings", "warnings")},
                "versions": self.versions,
            }
        )

    def single(self, corpus: str) -> "Fit":
        """The fit of one corpus out of a joint fit, under the parameters' own names."""
        if isinstance(self.eval, str) or corpus not in self.eval:
            raise FitError(f"{corpus!r} is not among the jointly fitted corpora: {self.eval}")
        law = laws.get(self.law.name, **self.law.options)

        def pick(values: Mapping[str, Any]) -> dict[str, Any]:
            names = [*law.names, *law.fixed]
            return {
                n: values.get(f"{n}[{corpus}]", values.get(n))
                for n in names
                if n in values or f"{n}[{corpus}]" in values
            }

        rows = self.residuals[self.residuals["eval"] == corpus]
        return Fit(
            **{
                **self.__dict__,
                "law": law,
                "eval": corpus,
                "params": pick(self.params),
                "samples": pick(self.samples),
                "influence": {run: pick(value) for run, value in self.influence.items()},
                "residuals": rows,
                "n_rows": int((~rows["held_out"]).sum()),
            }
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes JSON atomically."""
        source = Path(self.law.file).read_bytes() if self.law.file else b""
        data = {
            "format": FORMAT,
            "version": VERSION,
            "law": {
                "name": self.law.name,
                "options": dict(self.law.options),
                "sha256": hashlib.sha256(source).hexdigest(),
            },
            "eval": self.eval,
            "samples": {k: plain(v) for k, v in self.samples.items()},
            "residuals": {k: plain(v.to_numpy()) for k, v in self.residuals.items()},
        }
        rest = (
            "params",
            "codes",
            "influence",
            "scores",
            "ranges",
            "n_rows",
            "digest",
            "settings",
            "warnings",
            "versions",
        )
        data |= {name: plain(getattr(self, name)) for name in (*rest, "command")}
        atomic.write_text(path, json.dumps(data, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Fit":
        """Reads a saved fit; needs no JAX.

        Raises:
          FitError: missing, truncated or foreign file, another version, or a user's law that has changed.
        """
        path = Path(path)
        if not path.is_file():
            raise FitError(f"{path}: no such file; `cptlaw fit TABLE --law NAME --out {path}` makes one")
        try:
            data = json.loads(path.read_text())
        except ValueError as error:
            raise FitError(f"{path}: truncated or not JSON ({error}); fit again") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise FitError(f"{path}: not a saved fit; `cptlaw fit TABLE --out {path}` makes one")
        if data.get("version") != VERSION:
            raise FitError(
                f"{path}: saved by version {data.get('version')} of the format, this is {VERSION}; fit again"
            )
        try:
            about = data["law"]
            law = laws.get(about["name"], **about["options"])
            if law.file and hashlib.sha256(Path(law.file).read_bytes()).hexdigest() != about["sha256"]:
                raise FitError(f"{path}: {law.file} has changed since the fit; fit again")
            corpora = data["eval"] if isinstance(data["eval"], str) else tuple(data["eval"])
            if not isinstance(corpora, str):
                law = laws.joint(law, corpora, data["settings"]["shared"])
            return cls(
                law=law,
                eval=corpora,
                params={k: _float(v) for k, v in data["params"].items()},
                samples={k: np.array(v, float) for k, v in data["samples"].items()},
                residuals=pd.DataFrame(data["residuals"]),
                ranges={k: (v[0], v[1]) for k, v in data["ranges"].items()},
                **{k: data[k] for k in ("codes", "influence", "scores", "n_rows", "digest", "settings")},
                **{k: data[k] for k in ("warnings", "versions", "command")},
            )
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise FitError(f"{path}: incomplete ({type(error).__name__}: {error}); fit again") from error

    @property
    def _count(self) -> int:
        return len(next(iter(self.samples.values()), ()))

    def _interval(
        self, point: np.ndarray, samples: np.ndarray, at: Any, level: float, method: str, misfit: np.ndarray | None
    ) -> Prediction:
        wider = self.expanded(level)
        if not len(samples):
            nothing = np.full(point.shape, np.nan)
            return Prediction(point, nothing, nothing, samples, level)
        if misfit is not None:
            samples, wider = self.stretched(point, samples, level), level
            noise = np.random.default_rng(self.settings["seed"]).standard_t(intervals.MISFIT_DF, len(samples))
            samples = samples * np.exp(noise.reshape(-1, *[1] * point.ndim) * misfit)
        push = intervals.acceleration(self.params, self.influence, at) if method == "bca" else None
        low, high = intervals.bounds(point, samples, wider, method, push)
        return Prediction(point, low, high, samples, level)

    def _columns(
        self, columns: Mapping[str, ArrayLike], shares: Mapping[str, ArrayLike] | None, eval: str | None
    ) -> dict[str, np.ndarray]:
        given = {**columns, **{f"w_{k}": v for k, v in (shares or {}).items()}}
        if "corpus" in self.law.columns:
            if eval is None or eval not in self.eval:
                raise FitError(f"a joint fit needs eval=, one of {', '.join(self.eval)}")
            given["corpus"] = np.asarray(self.eval.index(eval))
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
            share = name == "ratio" or name.startswith("w_")
            bad = ~np.isfinite(values) | (((values < 0) | (values > 1)) if share else False)
            bad = bad | ((values <= 0) if name in ("params", "tokens") else False)
            if bad.any():
                rule = (
                    "a share in [0, 1]" if share else "a positive count" if name in ("params", "tokens") else "finite"
                )
                raise FitError(f"{name} = {values[bad].flat[0]:g} is not {rule}")
        return arrays


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)
