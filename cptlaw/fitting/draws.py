"""Joint draws of a predictive distribution, as functions that can be asked anywhere: what decisions are made of."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from cptlaw.fitting import kernels
from cptlaw.fitting.kernels import DOMAINS, NOISE, SMOOTH, Points
from cptlaw.fitting.process import Process

FEATURES = 192  # random Fourier features a term; their variance is right to 1 / sqrt(2 FEATURES)
Waves = dict[str, tuple[dict[str, np.ndarray], np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Draws:
    """S joint draws of the log loss of the mean run. `at(x)` gives their values anywhere.

    Attributes:
      waves: term of `SMOOTH` or `DOMAINS` -> its random features: frequencies by axis, and phases.
      coefficients: of the law's parameters and of the features (parameters + features, S).
      bases: index of a base model of the table -> its effect (S,).
      solved: the correction's weight of each fitted row (rows, S).
      stretch: factor of each draw (S,), which widens it and makes it Student's t.
    """

    process: Process
    waves: Waves
    coefficients: np.ndarray
    bases: dict[int, np.ndarray]
    solved: np.ndarray
    stretch: np.ndarray

    def at(self, x: Mapping[str, np.ndarray], which: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Mean (K,) and draws (S, K) of the log loss at columns `x` (K,)."""
        process = self.process
        x = process.told(x)
        at = process.points(x, None, None, "mean")
        slope = process.slopes(x)
        off = (slope * process.spread) @ process.fitted_slopes.T
        for term, scale in process.scales.items():
            if term != NOISE and term not in ("run", "drift"):
                off = off + scale**2 * kernels.correlation(term, at, process.fitted_points, process.lengths)
        mean = process.law_log(process.phi, x) + slope @ (process.centre - process.phi) + off @ process.solved
        deviation = self.prior(at, slope * process.spread) - off @ self.solved
        return mean, mean + (deviation * self.stretch).T[which]

    def prior(self, at: Points, law: np.ndarray) -> np.ndarray:
        """Draws of the prior's deviation, (K, S): misses and law, and the bases that the table has.

        Of what a domain has of its own, only that of the domain asked about: `draw` has the others' as noise.
        """
        features = [law]
        asked = (at.domain == self.process.codes[2][self.process.asked])[:, None]
        for term, (frequencies, phase) in self.waves.items():
            angle = phase + sum((at.axes[axis] @ w.T for axis, w in frequencies.items()), np.zeros((len(at), 1)))
            wave = self.process.scales[term] * math.sqrt(2 / len(phase)) * np.cos(angle)
            features.append(wave * asked if term in DOMAINS else wave)
        out = np.concatenate(features, axis=1) @ self.coefficients
        for code, value in self.bases.items():
            out[at.base == code] += value
        return out


def draw(process: Process, count: int, seed: int | tuple[int, ...] = 0) -> Draws:
    """`count` joint draws of the mean of runs.

    Pathwise conditioning (Wilson et al. 2020, arXiv 2002.09309): a draw of the prior, of random Fourier features and
    linear in the law's parameters, plus the exact correction by what it misses at the rows.
    """
    rng = np.random.default_rng(seed)
    at = process.fitted_points
    waves = {t: _frequencies(process, t, rng) for t in process.scales if t in SMOOTH or t in DOMAINS}
    columns = sum(len(w[1]) for w in waves.values())
    coefficients = rng.standard_normal((columns + len(process.moving), count))
    bases = sorted(set(at.base[at.base >= 0].tolist())) if "base" in process.scales else []
    base = process.scales.get("base", 0.0) * rng.standard_normal((len(bases), count))
    short = Draws(process, waves, coefficients, {b: base[i] for i, b in enumerate(bases)}, np.empty(0), np.empty(0))
    noise = process.scales[NOISE] ** 2 * np.diag(process.noise)
    others = at.domain != process.codes[2][process.asked]
    for term, scale in process.scales.items():
        if term in ("run", "drift"):
            noise += scale**2 * kernels.correlation(term, at, at, process.lengths)
        elif term in DOMAINS:
            noise += scale**2 * kernels.correlation(term, at, at, process.lengths) * others
    prior = short.prior(at, process.fitted_slopes)
    prior = prior + np.linalg.cholesky(noise) @ rng.standard_normal((len(process.log_y), count))
    solved = process.inverse_root.T @ (process.inverse_root @ prior)
    stretch = process.widened * np.sqrt(process.df / rng.chisquare(process.df, count))
    return dataclasses.replace(short, solved=solved, stretch=stretch)


def _frequencies(process: Process, term: str, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Frequencies (FEATURES, dims) of each axis and phases: those of Matern 5/2 are multivariate t with 5 df."""
    out = {}
    for axis in kernels.axes_of(term):
        size = process.fitted_points.axes[axis].shape[1]
        normal = rng.standard_normal((FEATURES, size))
        out[axis] = normal * np.sqrt(5 / rng.chisquare(5, FEATURES))[:, None] / process.lengths[axis]
    return out, rng.uniform(0, 2 * np.pi, FEATURES)
