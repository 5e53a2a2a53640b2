"""What the runs there are tell of a decision, and what a run not yet made would: Gaussian, around several basins.

Around a basin (the fitted parameters, or a resample's) the law is taken as linear: the runs there are, with their
noise, give its parameters a covariance, and the decision and a candidate's losses are linear in them. The bootstrap
gives the basins and not the covariance: dropping a run from a small table moves the decision by more than its noise,
and a run that stands alone is fitted exactly in every resample, so its noise never shows.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cptlaw.planning import decision as d
from cptlaw.planning import linear, noise, questions
from cptlaw.planning.decision import Decision, DecisionError

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

CHECKPOINTS = (0.25, 0.5, 1.0)  # of a candidate's tokens: where its losses would be read
BASINS = 16
DECISIONS = 1000  # about how many decisions the derivatives of one may cost
STEP = 1e-2  # of a parameter's size, the most it is moved for the derivative of a decision
VAGUE = 3.0  # prior standard deviation of a parameter, in its usual size: only keeps flat directions finite
CONTRADICTED = 3.0  # chi-square over the point's, a parameter, at which a resample is no basin of these runs


@dataclasses.dataclass(frozen=True)
class Knowledge:
    """What is known of one corpus's law around each of B basins, with P parameters, C candidates of m losses each.

    Attributes:
      covariance: (B, P, P) of the parameters.
      target: (B, T, P) derivatives of what is to be made surer.
      slopes: (B, C, m, P) derivatives of the candidates' losses.
      error: (m, m) noise covariance of one candidate's losses.
    """

    covariance: np.ndarray
    target: np.ndarray
    slopes: np.ndarray
    error: np.ndarray

    def variance(self) -> np.ndarray:
        """(B,) variance of the targets, summed over them."""
        return np.einsum("btp,bpq,btq->b", self.target, self.covariance, self.target)

    def explained(self) -> np.ndarray:
        """(B, C) part of that variance each candidate's losses would explain."""
        known = np.einsum("bcmp,bpq->bcmq", self.slopes, self.covariance)
        seen = np.einsum("bcmq,bcnq->bcmn", known, self.slopes) + self.error
        cross = np.einsum("bcmq,btq->bcmt", known, self.target)
        return np.einsum("bcmt,bcmt->bc", cross, np.linalg.solve(seen, cross))

    def information(self) -> np.ndarray:
        """(B, C) nats that each candidate's losses would tell about the parameters, D-optimality's measure."""
        seen = np.einsum("bcmp,bpq,bcnq->bcmn", self.slopes, self.covariance, self.slopes) + self.error
        return 0.5 * (np.linalg.slogdet(seen)[1] - np.linalg.slogdet(self.error)[1])

    def after(self, index: int) -> "Knowledge":
        """With one candidate's losses seen; a repeat of it has noise of its own."""
        slope = self.slopes[:, index]
        known = slope @ self.covariance
        gain = np.linalg.solve(known @ slope.swapaxes(1, 2) + self.error, known)
        return dataclasses.replace(self, covariance=self.covariance - known.swapaxes(1, 2) @ gain)


def knowledge(
    target: Decision | Mapping[str, float], fits: Sequence["Fit"], table: pd.DataFrame
) -> tuple[Knowledge, ...]:
    """What each fit knows, around the same basins: the fitted parameters, and resamples the runs do not contradict.

    Raises:
      DecisionError: a law that reads what the candidates lack, or a target that no parameter moves.
    """
    parameters = sum(len(linear.free(fit)) for fit in fits)
    count = int(np.clip(DECISIONS // (2 * parameters), 2, BASINS))
    draws = np.unique(np.linspace(0, d.draws(fits[0]), count).astype(int))  # row 0 of every draw is the fitted point
    laws = [_Linear(fit, draws) for fit in fits]
    if isinstance(target, Decision):
        moved = _decision_slopes(target, fits, laws)
    else:
        at = pd.DataFrame([dict(target)])
        moved = [np.zeros((len(draws), len(fits), len(law.names))) for law in laws]
        for i, law in enumerate(laws):
            moved[i][:, i] = law.slopes(linear.columns(law.fit, at))[:, 0]
    misfit = np.sum([law.misfit for law in laws], axis=0)
    good = misfit <= misfit[0] + CONTRADICTED * parameters
    good &= np.all([np.isfinite(move).all(axis=(1, 2)) for move in moved], axis=0)
    good &= np.any([(move != 0).any(axis=(1, 2)) for move in moved], axis=0)
    if not good.any():
        raise DecisionError("no parameter of these laws moves the decision: no run can make it surer")
    out = []
    for law, move in zip(laws, moved):
        slopes = np.stack([law.slopes(linear.columns(law.fit, table, part)) for part in law.checkpoints], axis=2)
        out.append(Knowledge(law.covariance[good], move[good], slopes[good], law.error))
    return tuple(out)


class _Linear:
    """A fit's law to first order in its free parameters, around B of its draws."""

    def __init__(self, fit: "Fit", draws: np.ndarray):
        self.fit, self.names = fit, linear.free(fit)
        self.theta = {n: np.append(fit.params[n], fit.samples[n])[draws] for n in self.names}
        rows = fit.residuals[~fit.residuals["held_out"].astype(bool)]
        group = pd.factorize(rows["run"])[0]
        several = "tokens" in fit.law.columns and np.max(np.bincount(group)) > 1
        self.checkpoints = CHECKPOINTS if several else CHECKPOINTS[-1:]
        run, checkpoint = noise.of_fit(fit)
        self.error = run**2 + checkpoint**2 * np.eye(len(self.checkpoints))
        x = linear.columns(fit, rows)
        off = rows["observed"].to_numpy(dtype=float) - self.predict(x)
        both = np.concatenate([self.slopes(x), off[..., None]], axis=2)  # (B, rows, P + 1)
        gram = noise.whitened(both, group, (run / checkpoint) ** 2)[0] / checkpoint**2
        sane = np.isfinite(gram).all(axis=(1, 2))
        gram[~sane] = 0.0
        # A parameter that happens to be near 0 is not known to be small: its starts say what size it can have.
        usual = [max(map(abs, fit.law[name].start)) for name in self.names]
        scale = VAGUE * np.maximum(np.abs(np.stack(list(self.theta.values()), axis=1)), usual)  # (B, P)
        information = gram[:, :-1, :-1] * scale[:, :, None] * scale[:, None, :] + np.eye(len(self.names))
        # The prior makes 1 the least eigenvalue; rounding of the largest must not take it away.
        size, axes = np.linalg.eigh(information)
        axes = axes * scale[:, :, None]
        self.covariance = (axes / np.maximum(size, 1)[:, None, :]) @ axes.swapaxes(1, 2)
        self.misfit = np.where(sane, gram[:, -1, -1], np.inf)
        noticed = 1 / np.sqrt(np.einsum("bpp->bp", gram)[:, :-1] + 1e-300)  # a move the runs would just notice
        self.step = np.minimum(noticed, STEP / VAGUE * scale)

    def predict(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """(B, rows)."""
        theta = self.fit.params | {name: value[:, None] for name, value in self.theta.items()}
        return np.asarray(self.fit.law.predict(theta, x))

    def slopes(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """(B, rows, P)."""
        theta = self.fit.params | {name: value[:, None] for name, value in self.theta.items()}
        return linear.jacobian(self.fit.law, theta, x, self.names)


def _decision_slopes(decision: Decision, fits: Sequence["Fit"], laws: Sequence[_Linear]) -> list[np.ndarray]:
    """(B, T, P) of each fit: derivatives of the decision, made again with every parameter moved both ways."""
    moves = [(i, name, sign) for i, law in enumerate(laws) for name in law.names for sign in (1, -1)]
    moved = []
    for i, (fit, law) in enumerate(zip(fits, laws)):
        step = dict(zip(law.names, law.step.T))
        samples = {
            name: np.concatenate([law.theta[name] + s * step[name] * ((j, n) == (i, name)) for j, n, s in moves])
            for name in law.names
        }
        held = {n: np.full(len(samples[law.names[0]]), fit.params[n]) for n in fit.samples if n not in samples}
        moved.append(dataclasses.replace(fit, samples=samples | held, influence={}))
    found = questions.decide(decision, moved).samples
    names = list(found) if decision.kind == "mixture" else list(found)[:1]
    values = np.stack([found[name] for name in names], axis=1).reshape(len(moves) // 2, 2, -1, len(names))
    slope = np.split((values[:, 0] - values[:, 1]) / 2, np.cumsum([len(law.names) for law in laws])[:-1])
    return [np.moveaxis(part, 0, 2) / law.step[:, None] for part, law in zip(slope, laws)]
