"""The end of a run from its beginning: the loss at its last token, from the evaluations so far and from earlier runs.

What is predicted is the change of the log loss that is still to come, d = log L(T) - log L(t), t being the last
evaluation. Alone, a run is taken to go on as

    log L(T) = log L(t) + s (1 - (T/t)^-b) / b

with its slope s against log tokens, and the exponent b by which that flattens, averaged over what its own evaluations
and a prior of b say; early evaluations count less. With earlier runs that reached T, the same change is known of each,
at the same tokens; d is then kriged from theirs: linear in what the run alone would predict and in what it has moved
since the base model, plus Gaussian misses that are shared by runs of like size and share, of like mix, and of the same
mix (which see the same documents in the same order). The interval is as wide as the earlier runs, each left out in
turn, call for.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.errors import UserError
from cptlaw.fitting import intervals

# Alone, the exponent b is log-normal about 0.3, s normal about 0, and an evaluation at a part p of the last tokens is
# off by NOISE (1 + FADES log(1/p)).
EXPONENTS = np.geomspace(0.04, 2.0, 14)
EXPONENT, EXPONENT_SD, SLOPE_SD = 0.3, 0.6, 0.3
NOISE, FADES = np.array([0.0005, 0.001, 0.002, 0.004, 0.008]), 0.7
# Its sd^2 is that of this average, plus (FLOOR log2(T/t))^2 + (DOUBT d)^2, by `python -m benchmarks.prefix`.
FLOOR, DOUBT = 0.003, 0.15
DF = 5.0  # degrees of freedom of the interval
LEAST = 6  # earlier runs; fewer are not used
MOST = 120  # of the earlier runs, those most alike
COOLED = 0.1  # of a run's largest learning rate: it has been cooled down where it ends below
BINS = 8  # an e-fold of tokens, to which dense metrics are averaged
DENSE = 64  # points, above which metrics are
ALIKE = 1e-6  # relative distance of tokens that are the same
FEW_SIZES, WIDER = 2, math.sqrt(2)  # with earlier runs of so few other sizes, intervals are so much wider

_SIZE, _SHARE, _MIX = 4.0, 0.3, 0.3  # lengths of the similarities: log parameters, root shares
_SCALES = np.log([0.01, 0.01, 0.005, 0.003, 0.1])  # medians of the prior: three misses, noise, noise relative to d
_COEFFICIENTS = {"constant": (0.0, 0.02), "alone": (1.0, 0.5), "drop": (0.0, 0.1)}  # means and sds of the prior


@dataclasses.dataclass(frozen=True)
class Curve:
    """The losses of one corpus along one run.

    Attributes:
      tokens, loss: (K,) ascending, above zero tokens; nats per token.
      params: non-embedding parameters, NaN where not known.
      shares: training corpus -> token share.
      base: loss at zero tokens, NaN where not known.
      cooled: its last point is at a learning rate below `COOLED` of its largest.
    """

    run: str
    eval: str
    tokens: np.ndarray
    loss: np.ndarray
    params: float = math.nan
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    base: float = math.nan
    cooled: bool = False

    def until(self, tokens: float) -> "Curve":
        """Its beginning, up to `tokens`; before the cool-down at its end, if it has one."""
        seen = self.tokens <= tokens * (1 + ALIKE)
        cooled = self.cooled and bool(seen.all())
        return dataclasses.replace(self, tokens=self.tokens[seen], loss=self.loss[seen], cooled=cooled)

    def log_loss(self, tokens: float) -> float:
        """Linear in log tokens between its points; NaN outside, and between the two last of a cooled one."""
        at, where = math.log(tokens), np.log(self.tokens)
        if not where[0] - ALIKE <= at <= where[-1] + ALIKE:
            return math.nan
        if self.cooled and len(where) > 1 and where[-2] + ALIKE < at < where[-1] - ALIKE:
            return math.nan
        return float(np.interp(at, where, np.log(self.loss)))


@dataclasses.dataclass(frozen=True)
class Ending:
    """A predicted final loss, nats per token.

    Attributes:
      point, low, high: the loss, and its interval at `level`.
      tokens: at which; `seen`: of the last evaluation.
      scale: of the log loss, Student's t with `DF` degrees of freedom.
      earlier: runs that it was learned from; 0: from the run alone.
      nearest: the run's last loss moved as the most similar earlier run moved, NaN without one.
    """

    point: float
    low: float
    high: float
    level: float
    tokens: float
    seen: float
    scale: float
    earlier: int
    nearest: float = math.nan

    def above(self, ceiling: float) -> float:
        """The probability that the final loss is above a ceiling (nats)."""
        from scipy.special import stdtr

        return float(stdtr(DF, math.log(self.point / ceiling) / self.scale))


def curves(table: pd.DataFrame) -> list[Curve]:
    """The curves of a runs table with `tokens`, of runs with an evaluation above zero tokens.

    Raises:
      UserError: the table has no column tokens.
    """
    if "tokens" not in table:
        raise UserError("the table has no column tokens: name yours with --columns tokens=HEADER or --tokens-per-step")
    rows = table[runs.finished(table)]
    if "ema" in rows:
        rows = rows[rows["ema"].fillna(0) == 0]
    names, found = runs.corpora(rows), []
    for (run, corpus), own in rows.sort_values("tokens").groupby(["run", "eval"], sort=False):
        first, later = own[own["tokens"] == 0], own[own["tokens"] > 0]
        if later.empty:
            continue
        lr = later["lr"].to_numpy(float) if "lr" in later else np.ones(len(later))
        tokens, loss = _thinned(later["tokens"].to_numpy(float), later["loss"].to_numpy(float))
        found.append(
            Curve(
                str(run), str(corpus), tokens, loss,
                params=float(own["params"].iloc[0]) if "params" in own else math.nan,
                shares={name: float(own[f"w_{name}"].iloc[0]) for name in names},
                base=float(first["loss"].iloc[0]) if len(first) else math.nan,
                cooled=bool(lr[-1] < COOLED * lr.max()),
            )
        )  # fmt: skip
    return found


def _thinned(tokens: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dense metrics averaged over `BINS` stretches an e-fold, the last of which ends at the last point."""
    if len(tokens) <= DENSE:
        return tokens, loss
    back = np.floor(BINS * np.log(tokens[-1] / tokens)).astype(int)
    _, first = np.unique(back, return_index=True)
    cuts = np.sort(first)
    count = np.diff(np.append(cuts, len(tokens)))
    means = [np.add.reduceat(values, cuts) / count for values in (np.log(tokens), np.log(loss))]
    return np.exp(means[0]), np.exp(means[1])


def ending(
    curve: Curve, tokens: float, earlier: Sequence[Curve] = (), *, cooled: bool = False, level: float = 0.9
) -> Ending:
    """The loss of a run at `tokens`, from its evaluations so far.

    Args:
      curve: the run so far.
      tokens: where it will end, all corpora together.
      earlier: curves of other runs; those of the same evaluated corpus that reached `tokens` are used, or of all
        corpora where fewer than `LEAST` of that one did.
      cooled: the run will end in a cool-down of its learning rate, of which only earlier runs that did can tell.
      level: of the interval.

    Raises:
      UserError: too few evaluations, or too few earlier runs for what is asked.
    """
    if not len(curve.tokens):
        raise UserError(f"{curve.run}: no evaluation of {curve.eval} after zero tokens yet")
    seen, last = float(curve.tokens[-1]), float(np.log(curve.loss[-1]))
    if tokens <= seen * (1 + ALIKE):
        loss = math.exp(last)
        return Ending(loss, loss, loss, level, tokens, seen, ALIKE, 0)
    others = [one for one in earlier if one.run != curve.run and one.cooled == cooled and _tells(one, seen, tokens)]
    own = [one for one in others if one.eval == curve.eval]
    others = own if len(own) >= LEAST else others
    alone, sd = _alone(curve, seen, tokens)
    if len(others) < LEAST:
        if cooled:
            raise UserError(
                f"{curve.run}: its learning rate is cooled down at the end, and what that does is known only from "
                f"earlier runs that were; {len(others)} of them reached {tokens:g} tokens, and {LEAST} are needed"
            )
        if not math.isfinite(alone):
            raise UserError(
                f"{curve.run}: alone, a run needs evaluations of {curve.eval} at two numbers of tokens, the smaller at "
                "most half the larger"
            )
        change, count, nearest = alone, 0, math.nan
        scale = math.hypot(sd, FLOOR * math.log2(tokens / seen), DOUBT * alone)
    else:
        change, scale, nearest = _kriged(curve, seen, tokens, alone, others, level)
        count, nearest = min(len(others), MOST), math.exp(last + nearest)
    half = intervals.student(level, DF) * scale
    point, low, high = (math.exp(last + change + move) for move in (0.0, -half, half))
    return Ending(point, low, high, level, tokens, seen, scale, count, nearest)


def _tells(curve: Curve, seen: float, tokens: float) -> bool:
    return math.isfinite(curve.log_loss(seen)) and math.isfinite(curve.log_loss(tokens))


def _alone(curve: Curve, seen: float, tokens: float) -> tuple[float, float]:
    """(mean, sd) of the change between `seen` and `tokens` by the run's evaluations up to `seen`; NaN with too few."""
    known = curve.tokens < seen * (1 - ALIKE)
    if not known.any() or curve.tokens[known][0] > seen / 2 * (1 + ALIKE):
        return math.nan, math.nan
    back = np.log(np.append(curve.tokens[known], seen) / seen)  # (n,), 0 at the end
    y = np.append(np.log(curve.loss[known]), curve.log_loss(seen))
    y = y - y[-1]
    b = EXPONENTS[:, None]
    shape_bn, ahead_b = -np.expm1(-b * back) / b, -np.expm1(-EXPONENTS * math.log(tokens / seen)) / EXPONENTS
    weight_sn = 1 / (NOISE[:, None] * (1 - FADES * back)) ** 2
    # Of each noise and exponent (s, b): the precision of level and slope, and what they are.
    ones, cross = weight_sn.sum(axis=1)[:, None], weight_sn @ shape_bn.T
    square = weight_sn @ (shape_bn**2).T + 1 / SLOPE_SD**2
    level, moved = (weight_sn @ y)[:, None], weight_sn @ (shape_bn * y).T
    determinant = ones * square - cross**2
    slope_sb, level_sb = (ones * moved - cross * level) / determinant, (square * level - cross * moved) / determinant
    # -2 log of the marginal likelihood, but for a constant.
    total = (weight_sn @ y**2)[:, None] - level_sb * level - slope_sb * moved
    total = total + np.log(determinant) - np.log(weight_sn).sum(axis=1)[:, None]
    total = total + (np.log(EXPONENTS / EXPONENT) / EXPONENT_SD) ** 2
    weights = np.exp(-(total - total.min()) / 2)
    weights = weights / weights.sum()
    change_sb = level_sb + slope_sb * ahead_b
    mean = float((weights * change_sb).sum())
    variance_sb = (square + ones * ahead_b**2 - 2 * cross * ahead_b) / determinant
    return mean, math.sqrt(float((weights * (variance_sb + (change_sb - mean) ** 2)).sum()))


def _kriged(
    curve: Curve, seen: float, tokens: float, alone: float, earlier: Sequence[Curve], level: float
) -> tuple[float, float, float]:
    """(the change of the log loss, its scale, the change of the most similar earlier run)."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    away = np.array([_away(one, curve) for one in earlier])
    order = np.argsort(away, kind="stable")[:MOST]
    chosen = [*(earlier[i] for i in order), curve]
    n = len(order)
    change = np.array([one.log_loss(tokens) - one.log_loss(seen) for one in chosen[:n]])
    by_itself = np.append([_alone(one, seen, tokens)[0] for one in chosen[:n]], alone)
    drops = np.array([one.log_loss(seen) - math.log(one.base) for one in chosen])
    features = {"constant": np.ones(n + 1)}
    features |= {name: v for name, v in (("alone", by_itself), ("drop", drops)) if np.isfinite(v).all()}
    mean, sd = np.array([_COEFFICIENTS[name] for name in features]).T
    basis = np.array(list(features.values())).T
    linear = (basis * sd**2) @ basis.T
    alike = _similarities(chosen)
    # Noise grows with the change that is to come, as the run alone or, without that, the others tell it.
    size = np.abs(features.get("alone", np.full(n + 1, np.abs(change).mean())))
    off = change - basis[:n] @ mean

    def covariance(scales: np.ndarray) -> np.ndarray:
        *misses, noise, relative = np.exp(2 * scales)
        total = linear + np.diag(noise + relative * size**2)
        for variance, one in zip(misses, alike):
            total = total + variance * one
        return total

    def deviance(scales: np.ndarray) -> float:
        try:
            factor = cho_factor(covariance(scales)[:n, :n], lower=True)
        except np.linalg.LinAlgError:
            return 1e9
        prior = ((scales - _SCALES) ** 2).sum()
        return float(off @ cho_solve(factor, off) + 2 * np.log(np.diag(factor[0])).sum() + prior)

    found = minimize(deviance, _SCALES, method="Nelder-Mead", options={"maxiter": 100, "xatol": 0.05, "fatol": 0.1}).x
    total = covariance(found)
    inverse = np.linalg.inv(total[:n, :n])
    weights = inverse @ off
    left_out = np.abs(weights) / np.sqrt(np.diag(inverse))  # each earlier run's miss when left out, in its own sds
    variance = max(float(total[n, n] - total[n, :n] @ inverse @ total[:n, n]), 1e-12)
    # Split conformal, with the run's own sd as the scale; never narrower than the sds say.
    held = float(np.quantile(left_out, min(1.0, level * (1 + 1 / n)), method="higher"))
    stretch = max(1.0, held / intervals.student(level, DF))
    sizes = {one.params for one in chosen[:n]}
    if curve.params not in sizes and len(sizes) <= FEW_SIZES:
        stretch *= WIDER
    moved = float(basis[n] @ mean + total[n, :n] @ weights)
    return moved, stretch * math.sqrt(variance), float(change[0])


def _away(one: Curve, other: Curve) -> float:
    """How far two runs are apart: parameters, mix, evaluated corpus."""
    size = abs(math.log(one.params / other.params)) if math.isfinite(one.params / other.params) else 0.0
    names = {*one.shares, *other.shares}
    mix = sum(abs(one.shares.get(name, 0.0) - other.shares.get(name, 0.0)) for name in names)
    return size / 4 + mix + (one.eval != other.eval)


def _similarities(chosen: Sequence[Curve]) -> list[np.ndarray]:
    """(n + 1, n + 1) each: of size and the evaluated corpus's share, of size and mix, and of the same mix alone."""
    log_size = np.log([one.params for one in chosen])
    log_size = np.nan_to_num(log_size, nan=float(np.nanmean(log_size)) if np.isfinite(log_size).any() else 0.0)
    names = sorted({name for one in chosen for name in one.shares})
    mixes = np.sqrt([[one.shares.get(name, 0.0) for name in names] for one in chosen]).reshape(len(chosen), -1)
    share = np.sqrt([one.shares.get(one.eval, 0.0) for one in chosen])
    evals = np.array([one.eval for one in chosen])
    same = evals[:, None] == evals

    def near(values: np.ndarray, length: float) -> np.ndarray:
        return np.exp(-(np.subtract.outer(values, values) ** 2) / (2 * length**2))

    apart = ((mixes[:, None] - mixes) ** 2).sum(axis=-1)
    size = near(log_size, _SIZE)
    return [size * near(share, _SHARE), size * same * np.exp(-apart / (2 * _MIX**2)), 1.0 * (same & (apart < 1e-6))]
