"""What the runs so far tell of a decision, and what a run not yet made would: Gaussian, around several basins.

A basin is one draw's parameters: the fit's, or a resample's. Around it the law is taken as linear: the runs so far,
with their noise, give its parameters a covariance, and the decision and a candidate's losses are linear in them. The
covariance does not come from the bootstrap: dropping a run from a small table moves the decision by more than its
noise, and a run that stands alone is fitted exactly in every resample, so its noise never shows.

Letters of shapes: B basins, P free parameters, C candidates, m losses (checkpoints) of a candidate, T coordinates of
what is to be made surer, n rows of the table.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cptlaw.planning import linear, noise, questions
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.numbers import resamples, stacked

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

CHECKPOINTS = (0.25, 0.5, 1.0)  # of a candidate's tokens: where its losses would be read
BASINS = 16
DECISIONS = 1000  # about how many decisions the derivatives of one may cost
STEP = 1e-2  # of a parameter's size, the most it is moved for the derivative of a decision
VAGUE = 3.0  # prior standard deviation of a parameter, in its usual size: only keeps flat directions finite
CONTRADICTED = 3.0  # chi-square over the fit's, a parameter, at which a resample is no basin of these runs


@dataclasses.dataclass(frozen=True)
class Posterior:
    """What the runs so far say of one corpus's law around each basin.

    Attributes:
      covariance: (B, P, P) of the parameters.
      target: (B, T, P) derivatives of what is to be made surer.
      slopes: (B, C, m, P) derivatives of the candidates' losses.
      error: (C, m, m) noise covariance of each candidate's losses.
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

    def after(self, index: int) -> "Posterior":
        """With one candidate's losses seen; a repeat of it has noise of its own."""
        slope = self.slopes[:, index]
        known = slope @ self.covariance
        gain = np.linalg.solve(known @ slope.swapaxes(1, 2) + self.error[index], known)
        return dataclasses.replace(self, covariance=self.covariance - known.swapaxes(1, 2) @ gain)


def posteriors(
    target: Decision | Mapping[str, float], fits: Sequence["Fit"], candidates: pd.DataFrame
) -> tuple[Posterior, ...]:
    """Each fit's posterior, around the same basins: the fitted parameters, and resamples the runs do not contradict.

    Raises:
      DecisionError: a law that reads what the candidates lack, or a target that no parameter moves.
    """
    parameters = sum(len(linear.free(fit)) for fit in fits)
    count = int(np.clip(DECISIONS // (2 * parameters), 2, BASINS))
    draws = np.unique(np.linspace(0, resamples(fits[0]), count).astype(int))  # draw 0, the fit itself, is one
    laws = [_Linearised(fit, draws) for fit in fits]
    targets = _decision_slopes(target, laws) if isinstance(target, Decision) else _loss_slopes(target, laws)
    chi_square = np.sum([law.chi_square for law in laws], axis=0)
    good = chi_square <= chi_square[0] + CONTRADICTED * parameters
    good &= np.all([np.isfinite(slope_BTP).all(axis=(1, 2)) for slope_BTP in targets], axis=0)
    good &= np.any([(slope_BTP != 0).any(axis=(1, 2)) for slope_BTP in targets], axis=0)
    if not good.any():
        raise DecisionError("no parameter of these laws moves the decision: no run can make it surer")
    out = []
    for law, slope_BTP in zip(laws, targets):
        parts = [law.slopes(linear.columns(law.fit, candidates, part)) for part in law.checkpoints]
        slopes_BCmP = np.stack(parts, axis=2)
        out.append(Posterior(law.covariance[good], slope_BTP[good], slopes_BCmP[good], law.noise_at(candidates)))
    return tuple(out)


class _Linearised:
    """A fit's law to first order in its free parameters, around the draws that are basins.

    Attributes:
      names: the P free parameters.
      theta: name -> (B,) values at the basins.
      checkpoints: parts of a run's tokens where its losses are read, m.
      error: (m, m) noise covariance of one run's losses.
      covariance: (B, P, P) of the parameters, given the fitted rows.
      chi_square: (B,) of the fitted rows about each basin; inf where its derivatives are not finite.
      step: (B, P) how far a parameter is moved for the derivative of a decision.
    """

    def __init__(self, fit: "Fit", draws: np.ndarray):
        self.fit, self.names = fit, linear.free(fit)
        everything = stacked(fit)
        self.theta = {name: everything[name][draws] for name in self.names}
        rows = fit.residuals[~fit.residuals["held_out"].astype(bool)]
        run_of_row = pd.factorize(rows["run"])[0]
        several = "tokens" in fit.law.columns and np.max(np.bincount(run_of_row)) > 1
        self.checkpoints = CHECKPOINTS if several else CHECKPOINTS[-1:]
        run, checkpoint = noise.of_fit(fit)
        self.error = run**2 + checkpoint**2 * np.eye(len(self.checkpoints))
        gram, sane = self._gram(rows, run_of_row, run, checkpoint)
        self.chi_square = np.where(sane, gram[:, -1, -1], np.inf)
        scale_BP = self._scale()
        self.covariance = _covariance(gram[:, :-1, :-1], scale_BP)
        noticed_BP = 1 / np.sqrt(np.einsum("bpp->bp", gram)[:, :-1] + 1e-300)  # a move the runs would just notice
        self.step = np.minimum(noticed_BP, STEP / VAGUE * scale_BP)

    def noise_at(self, candidates: pd.DataFrame) -> np.ndarray:
        """(C, m, m) noise covariance of each candidate's losses, which repeats show to differ by mix and tokens."""
        rows = self.fit.residuals.rename(columns={"observed": "loss"})
        rows = rows.loc[:, ~rows.columns.duplicated(keep="last")]
        share, kinds = f"w_{self.fit.eval}", noise.by_mix(rows, str(self.fit.eval))
        if not kinds.freedom or not {share, "tokens"} <= set(candidates):
            return np.repeat(self.error[None], len(candidates), axis=0)
        scale = kinds.relative(candidates[share].to_numpy(float), candidates["tokens"].to_numpy(float))
        return scale[:, None, None] ** 2 * self.error

    def _gram(
        self, rows: pd.DataFrame, run_of_row: np.ndarray, run: float, checkpoint: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """(X' V^-1 X of the rows' slopes and residuals (B, P + 1, P + 1), whether a basin's is finite (B,))."""
        x = linear.columns(self.fit, rows)
        off_Bn = rows["observed"].to_numpy(dtype=float) - self.predict(x)
        both_BnP1 = np.concatenate([self.slopes(x), off_Bn[..., None]], axis=2)
        gram = noise.whitened(both_BnP1, run_of_row, (run / checkpoint) ** 2)[0] / checkpoint**2
        sane = np.asarray(np.isfinite(gram).all(axis=(1, 2)))
        gram[~sane] = 0.0
        return gram, sane

    def _scale(self) -> np.ndarray:
        """(B, P) standard deviations of the prior.

        A parameter that happens to be near 0 is not known to be small: its starts say what size it can have.
        """
        usual_P = [max(map(abs, self.fit.law[name].start)) for name in self.names]
        return VAGUE * np.maximum(np.abs(np.stack(list(self.theta.values()), axis=1)), usual_P)

    def predict(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """Losses, (B, n)."""
        return np.asarray(self.fit.law.predict(self._theta_B1(), x))

    def slopes(self, x: Mapping[str, np.ndarray]) -> np.ndarray:
        """Derivatives of the losses, (B, n, P)."""
        return linear.jacobian(self.fit.law, self._theta_B1(), x, self.names)

    def _theta_B1(self) -> dict[str, np.ndarray | float]:
        return self.fit.params | {name: value[:, None] for name, value in self.theta.items()}


def _covariance(information_BPP: np.ndarray, scale_BP: np.ndarray) -> np.ndarray:
    """(B, P, P) inverse of the information plus the prior's, 1 / scale^2.

    In units of the prior the least eigenvalue is 1; it is held there, since rounding of the largest could lower it.
    """
    scaled = information_BPP * scale_BP[:, :, None] * scale_BP[:, None, :] + np.eye(scale_BP.shape[1])
    size_BP, axes_BPP = np.linalg.eigh(scaled)
    axes_BPP = axes_BPP * scale_BP[:, :, None]
    return (axes_BPP / np.maximum(size_BP, 1)[:, None, :]) @ axes_BPP.swapaxes(1, 2)


def _loss_slopes(at: Mapping[str, float], laws: Sequence[_Linearised]) -> list[np.ndarray]:
    """(B, T, P) of each fit: derivatives of the losses at one run; target t is the loss of fit t."""
    row = pd.DataFrame([dict(at)])
    out = []
    for i, law in enumerate(laws):
        slope_B1P = law.slopes(linear.columns(law.fit, row))
        slope_BTP = np.zeros((len(slope_B1P), len(laws), len(law.names)))
        slope_BTP[:, i] = slope_B1P[:, 0]
        out.append(slope_BTP)
    return out


def _decision_slopes(decision: Decision, laws: Sequence[_Linearised]) -> list[np.ndarray]:
    """(B, T, P) of each fit: derivatives of the decision, made again with every parameter moved both ways.

    All moves are the "resamples" of one decision: for each parameter of each law, B draws with it moved up by its step
    and B draws with it moved down. The fits move together, so the draws of each hold the moves of all.
    """
    moves = [(law, name, sign) for law in laws for name in law.names for sign in (1, -1)]
    moved = []
    for law in laws:
        step = dict(zip(law.names, law.step.T))
        samples = {
            name: np.concatenate([
                law.theta[name] + (sign * step[name] if (of, moving) == (law, name) else 0.0)
                for of, moving, sign in moves
            ])
            for name in law.names
        }  # fmt: skip
        count = len(moves) * len(law.step)
        held = {n: np.full(count, law.fit.params[n]) for n in law.fit.samples if n not in samples}
        moved.append(dataclasses.replace(law.fit, samples=samples | held, influence={}))
    found = questions.decide(decision, moved).samples
    names = list(found) if decision.kind == "mixture" else list(found)[:1]
    values = np.stack([found[name] for name in names], axis=1)  # (moves x B, T)
    up_down = values.reshape(len(moves) // 2, 2, -1, len(names))  # (P of all laws, 2, B, T)
    half_PBT = (up_down[:, 0] - up_down[:, 1]) / 2
    of_law = np.split(half_PBT, np.cumsum([len(law.names) for law in laws])[:-1])
    return [np.moveaxis(part_PBT, 0, 2) / law.step[:, None] for part_PBT, law in zip(of_law, laws)]
