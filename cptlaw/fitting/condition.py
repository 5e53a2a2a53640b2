"""A law conditioned on a table: `condition` finds the scales of a `Process` by tempered restricted likelihood.

The design is of kriging with a trend (REML: Patterson & Thompson 1971; Handcock & Stein 1993), the trend being the law,
linear about its mode, with proper priors; the scales have the empirical prior of `prior.json`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cptlaw.errors import UserError
from cptlaw.fitting import kernels, prior
from cptlaw.fitting.kernels import DOMAINS, NOISE, SMOOTH, Points
from cptlaw.fitting.process import Process, slopes
from cptlaw.laws import Law, Param

CHECKPOINTS = 6  # kept of a run: its ends and those nearest to even steps of log tokens
MOST_ROWS = 600  # kept of a table; its cost is cubic
ROUNDS = 2  # of mode and scales in turn
NEWTON, STEPS = 12, 40  # steps of the mode and of the scales, at most
ELSEWHERE = (4.0, 0.25)  # times the first scales: where a table's second mode may lie, of few rows
FEW_ROWS, CLEARLY = 150, 2.0  # up to how many rows those are tried, and by how many nats they must be better
LONGEST, BACK = 1.5, 20  # most a log scale moves in a step, and halvings of a step
FAILED = 1e12  # value of scales whose covariance matrix has no Cholesky factor
CLIPS = {"alpha": (0.08, 1.2), "beta": (0.08, 1.2), "t": (-6.0, 6.0)}
LEAST_PART = 0.005  # of the least loss: below it a linear term is lifted, or its column of slopes is zero


def condition(
    law: Law,
    theta: Mapping[str, float],
    x: Mapping[str, np.ndarray],
    loss: np.ndarray,
    run: Sequence[str],
    base: Sequence[str] | None = None,
    *,
    domain: Sequence[str] | None = None,
    weights: np.ndarray | None = None,
    held: Sequence[str] = (),
    given: prior.Prior | None = None,
) -> Process:
    """Conditions `law`, from an ordinary fit's parameters `theta`, on rows.

    Args:
      theta: reported parameters, a start.
      x: column of the law -> (rows,); `loss` (rows,), nats; `run` ids.
      base: ids of the base models; None: one a size.
      domain: of each row, where the table pools the losses of several domains; None: there is one.
      weights: (rows,) precision of each row's checkpoint noise over the average row's; None: all alike.
      held: parameters not to be moved.
      given: the prior; None: the shipped one.

    Raises:
      UserError: too few rows.
    """
    given = given or prior.shipped()
    if len(loss) < 3:
        raise UserError(f"{len(loss)} rows are too few to say how far a law misses; give 3 or more")
    runs = np.array([str(v) for v in run])
    if base is None:
        base = [f"{n:g}" for n in x["params"]] if "params" in x else ["all"] * len(loss)
    bases = np.array([str(v) for v in base])
    domains = np.array([str(v) for v in (domain if domain is not None else [""] * len(loss))])
    counts = {"runs": len(np.unique(runs)), "rows": len(loss)}
    counts |= {"sizes": len(np.unique(x["params"]))} if "params" in x else {}
    # A run without a domain's text stands in the series of every domain, and each of them is thinned alone.
    kept = thin(x, np.array([f"{run} of {name}" for run, name in zip(runs, domains)]), domains)
    x, log_y = {k: np.asarray(v, float)[kept] for k, v in x.items()}, np.log(np.asarray(loss, float)[kept])
    runs, bases, domains = runs[kept], bases[kept], domains[kept]
    noise = np.ones(len(kept)) if weights is None else 1 / np.asarray(weights, float)[kept]
    ids = [np.unique(v, return_inverse=True)[1] for v in (runs, bases, domains)]
    at = kernels.points(x, ids[0], ids[1], given.offset, domain=ids[2])
    least = float(np.exp(log_y.min()))
    moving = [p for p in law.params if p.name not in held and p.name not in law.fixed]
    begin = [_inside(law, p, theta, x, least) for p in moving]
    about = [prior.of_parameter(p, value, least) for p, value in zip(moving, begin)]
    logged = np.array([log for log, _, _ in about], bool)
    centre, spread = np.array([c for _, c, _ in about], float), np.array([w for _, _, w in about], float)
    found = Process(
        law=law,
        scales={term: given.scales[term][0] for term in _shown(at)},
        lengths=dict(given.lengths),
        offset=given.offset,
        df=given.df,
        moving=tuple(p.name for p in moving),
        logged=logged,
        fixed={k: float(v) for k, v in theta.items() if k not in {p.name for p in moving}},
        centre=centre,
        spread=spread,
        phi=np.where(logged, np.log(np.where(logged, np.array(begin, float), 1.0)), np.array(begin, float)),
        x=x,
        log_y=log_y,
        noise=noise,
        run=tuple(runs.tolist()),
        base=tuple(bases.tolist()),
        domain=tuple(domains.tolist()),
        counts=counts,
    )
    matrices = {t: kernels.correlation(t, at, at, given.lengths) for t in found.scales if t != NOISE}
    matrices[NOISE] = np.diag(noise)
    phi, scales = found.phi, found.scales
    for _ in range(ROUNDS):
        phi = _mode(found, phi, np.sum([scales[t] ** 2 * matrices[t] for t in scales], axis=0))
        scales = _scales(found, phi, scales, matrices, given)
    return dataclasses.replace(found, phi=phi, scales=scales)


def thin(x: Mapping[str, np.ndarray], run: np.ndarray, domain: np.ndarray | None = None) -> np.ndarray:
    """Indices of the rows kept, ascending: the same for the same table whatever its order of runs.

    The checkpoints of one run say little more than one of them does. Beyond `MOST_ROWS` rows, the runs are kept that
    lie farthest apart; runs of two domains are.
    """
    order = np.lexsort((x["tokens"], run)) if "tokens" in x else np.argsort(run, kind="stable")
    groups = np.split(order, np.flatnonzero(run[order][1:] != run[order][:-1]) + 1)
    for most in (CHECKPOINTS, 4, 3, 2):
        chosen = [_checkpoints(x, group, most) for group in groups]
        if sum(map(len, chosen)) <= MOST_ROWS:
            return np.sort(np.concatenate(chosen))
    ends = kernels.points({k: np.asarray(v, float)[[g[-1] for g in groups]] for k, v in x.items()},
                          np.arange(len(groups)), np.zeros(len(groups), int), 0.005)  # fmt: skip
    places = np.concatenate([v / max(float(np.ptp(v)), 1e-9) for v in ends.axes.values()], axis=1)
    if domain is not None:
        last = domain[[group[-1] for group in groups]]
        places = np.concatenate([places, last[:, None] == np.unique(last)], axis=1)
    picked = _apart(places, MOST_ROWS // 2)
    return np.sort(np.concatenate([chosen[i] for i in picked]))


def _checkpoints(x: Mapping[str, np.ndarray], group: np.ndarray, most: int) -> np.ndarray:
    if len(group) <= most:
        return group
    where = np.log(x["tokens"][group]) if "tokens" in x else np.arange(len(group), dtype=float)
    wanted = np.linspace(where[0], where[-1], most)
    return group[np.unique(np.abs(where[:, None] - wanted).argmin(axis=0))]


def _apart(places: np.ndarray, count: int) -> np.ndarray:
    """`count` rows of (rows, dims), each the farthest from those before it."""
    chosen = [0]
    nearest = np.full(len(places), np.inf)
    for _ in range(min(count, len(places)) - 1):
        nearest = np.minimum(nearest, ((places - places[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


def _shown(at: Points) -> list[str]:
    """The terms whose scales these rows hold information about."""
    varying = kernels.varying(at)
    several_rows = len(np.unique(at.run)) < len(at)
    out = [NOISE, *(["run"] if several_rows else [])]
    if several_rows and "tokens" in varying:
        out.append("drift")
    pairs = np.unique(np.stack([at.base, at.run]), axis=1)
    if pairs.shape[1] > len(np.unique(at.base)):  # some base has several runs
        out.append("base")
    smooth = SMOOTH | (DOMAINS if len(np.unique(at.domain)) > 1 else {})
    return out + [term for term, axes in smooth.items() if set(axes) <= set(varying)]


def _inside(law: Law, param: Param, theta: Mapping[str, float], x: Mapping[str, np.ndarray], least: float) -> float:
    """A start at which the parameter matters: off its bounds, and a linear term of at least `LEAST_PART`."""
    value = float(theta[param.name])
    name = param.name.split("[")[0]
    if name == "E":
        return max(value, 0.05 * least)
    if name in CLIPS:
        return float(np.clip(value, *CLIPS[name]))
    if param.low < 0:
        return value
    if not param.linear:
        low, high = param.start
        return float(np.clip(value, max(low, 1e-3) / 10, max(high, 1e-3) * 10))
    with np.errstate(all="ignore"):
        one, none = (law.predict({**theta, param.name: v}, x) for v in (1.0, 0.0))
        unit = float(np.nanmax(np.abs(np.asarray(one) - np.asarray(none))))
    return max(value, LEAST_PART * least / unit) if unit > 0 and math.isfinite(unit) else max(value, 1e-6)


def _mode(found: Process, phi: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Gauss-Newton on the misfit weighted by the inverse of `covariance`, plus the prior of phi; steps are halved."""
    white = np.linalg.inv(np.linalg.cholesky(covariance))

    def value(at: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(invalid="ignore", over="ignore"):  # a step may go where the law has no finite loss
            off = white @ (found.log_y - found.law_log(at, found.x))
        total = off @ off + np.sum(((at - found.centre) / found.spread) ** 2)
        return (float(total) if np.isfinite(total) else math.inf), off

    best, off = value(phi)
    if not math.isfinite(best):
        return phi
    for _ in range(NEWTON):
        slope = white @ slopes(lambda p: found.law_log(p, found.x), phi)
        hessian = slope.T @ slope + np.diag(found.spread**-2.0)
        move = np.linalg.solve(hessian, slope.T @ off - (phi - found.centre) / found.spread**2)
        for half in 0.5 ** np.arange(8):
            now, off_now = value(phi + half * move)
            if now < best:
                break
        else:
            return phi
        gain, best, phi, off = best - now, now, phi + half * move, off_now
        if gain < 1e-6 * max(best, 1.0):
            break
    return phi


def _scales(
    found: Process,
    phi: np.ndarray,
    start: Mapping[str, float],
    matrices: Mapping[str, np.ndarray],
    given: prior.Prior,
) -> dict[str, float]:
    """Scales at the maximum of the tempered restricted likelihood times their prior."""
    terms = list(start)
    slope = slopes(lambda p: found.law_log(p, found.x), phi)
    off = found.log_y - found.law_log(phi, found.x) - slope @ (found.centre - phi)
    about = np.array([(math.log(given.scales[t][0]), given.scales[t][1]) for t in terms])
    surprise = restricted(off, slope * found.spread, np.stack([matrices[t] for t in terms]), about, given.rows)
    begin = np.log([start[t] for t in terms])
    # A few rows may be explained by noise, or by a law that misses: two modes, of which one start finds one.
    shifts = np.log((1.0, *ELSEWHERE)) if len(off) <= FEW_ROWS else np.zeros(1)
    smooth = np.array([t in SMOOTH or t in DOMAINS for t in terms])
    modes = [descend(surprise, begin + shift * smooth) for shift in shifts]
    values = [surprise(at)[0] + (CLEARLY if shift else 0.0) for at, shift in zip(modes, shifts)]
    best = modes[int(np.argmin(values))]
    return {t: float(v) for t, v in zip(terms, np.exp(best))}


def descend(value: Callable[[np.ndarray], tuple[float, np.ndarray]], at: np.ndarray) -> np.ndarray:
    """A minimum by BFGS with backtracking from `at`; `value` gives the slope too. SciPy's takes a second to import."""
    inverse = np.eye(len(at))
    now, slope = value(at)
    for _ in range(STEPS):
        move = -inverse @ slope
        if move @ slope >= 0:  # rounding has spoilt the curvature
            inverse, move = np.eye(len(at)), -slope
        move *= min(1.0, LONGEST / max(np.abs(move).max(), 1e-12))
        for _ in range(BACK):
            new, new_slope = value(at + move)
            if new <= now + 1e-4 * (move @ slope):
                break
            move = move / 2
        else:
            return at
        change = new_slope - slope
        gain, at, now, slope = now - new, at + move, new, new_slope
        if (curve := move @ change) > 1e-12:
            left = np.eye(len(at)) - np.outer(move, change) / curve
            inverse = left @ inverse @ left.T + np.outer(move, move) / curve
        if gain < 1e-7 * max(abs(now), 1.0):
            return at
    return at


def restricted(
    off: np.ndarray, law: np.ndarray, matrices: np.ndarray, about: np.ndarray, rows: float
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Minus the tempered restricted log likelihood and log prior, with its gradient, as a function of log scales (T,).

    Args:
      off: (rows,) log residuals.
      law: (rows, P) slopes of the law times the prior sds of its parameters.
      matrices: (T, rows, rows) correlations of the terms.
      about: (T, 2) mean and sd of the log scales.
      rows: beyond so many, the likelihood counts as that of so many: dense tables would overrule the prior by detail.
    """
    weight = min(1.0, rows / len(off))
    trend = law @ law.T
    flat = matrices.reshape(len(matrices), -1)
    middle, wide = about.T

    def surprise(log_scale: np.ndarray) -> tuple[float, np.ndarray]:
        square = np.exp(2 * log_scale)
        away = (log_scale - middle) / wide
        try:
            root = np.linalg.cholesky(trend + (square @ flat).reshape(trend.shape))
        except np.linalg.LinAlgError:
            return FAILED, np.zeros(len(square))
        inverse_root = np.linalg.inv(root)
        inverse = inverse_root.T @ inverse_root
        solved = inverse @ off
        value = np.log(np.diag(root)).sum() + 0.5 * off @ solved
        slope = square * (flat @ (inverse - np.outer(solved, solved)).ravel())
        return float(weight * value + 0.5 * away @ away), weight * slope + away / wide

    return surprise
