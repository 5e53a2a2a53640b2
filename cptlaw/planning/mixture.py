"""The best mix of any number of corpora: a weighted sum or the worst of target losses over the simplex.

Under the predictive distribution, among measured mixes and their blends; under laws alone, by mirror descent in JAX.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from cptlaw import cores
from cptlaw.planning import decision as d
from cptlaw.planning.decision import Decision, DecisionError, Option
from cptlaw.planning.influence import with_influence
from cptlaw.planning.tradeoff import AGREE

if TYPE_CHECKING:
    from cptlaw.fitting import Fit
    from cptlaw.laws import Law

STEPS = 300
LANES = 256
STARTS, RESTARTS = 64, 2  # of the fitted parameters, and of each resample beside the fitted parameters' optimum
BLENDS, BLENDED, BLEND_STAGES = 2000, 4, 3  # blends a stage, measured mixes in one, stages
CONVEX = ("mixing",)  # laws whose every descent ends in the one optimum
PENALTY = 20.0  # nats a nat over a ceiling costs: more than any trade of one loss for another
SLACK = 1e-3  # nats over a ceiling that count as meeting it


@with_influence
def mixture(
    *fits: "Fit",
    weights: Mapping[str, float] | None = None,
    worst: bool = False,
    params: float | None = None,
    tokens: float | None = None,
    floors: Mapping[str, float] | None = None,
    caps: Mapping[str, float] | None = None,
    corpus_tokens: Mapping[str, float] | None = None,
    max_epochs: float | Mapping[str, float] = 1.0,
    ceilings: Mapping[str, float] | None = None,
    beyond: bool = False,
    level: float = 0.9,
) -> Decision:
    """The shares with the smallest weighted sum (or the smallest worst) of the fits' losses.

    Under the predictive distribution the mixes looked at are the measured ones and blends of them: nothing is known
    outside their hull.

    Args:
      fits: one for each target corpus, laws of `w_<corpus>` or of the corpus's own share.
      weights: target -> weight, 1 each by default.
      worst: minimise the largest weighted loss instead of the sum.
      params, tokens: of the planned run, for laws that read them and for `corpus_tokens`.
      floors, caps: corpus -> smallest and largest share.
      corpus_tokens, max_epochs: unique tokens there are of a corpus, and the most passes over them.
      ceilings: target -> largest loss allowed, nats per token.
      beyond: look outside the hull of the measured mixes too.
      level: of every interval.

    Raises:
      DecisionError: an unknown corpus or target, limits that leave no mix, a ceiling that no mix meets.
    """
    wide = d.expanded(level, *fits)
    d.check_share_law(*fits)
    targets = [d.corpus(fit) for fit in fits]
    corpora = _corpora(fits)
    scale = _named("weights", weights or dict.fromkeys(targets, 1.0), targets)
    if not (np.isfinite(scale) & (scale >= 0)).all() or not scale.any():
        raise DecisionError("weights: give each target a weight of 0 or more, and one of them more than 0")
    limit = _named("ceilings", ceilings or {}, targets, missing=np.inf)
    low, high = _limits(corpora, floors or {}, caps or {}, corpus_tokens or {}, max_epochs, tokens)
    x = {}
    for name, value, unit in (("params", params, "parameters"), ("tokens", tokens, "tokens")):
        if value is not None:
            x[name] = d.check_positive(name, value, unit)
        elif any(name in fit.law.columns for fit in fits):
            raise DecisionError(f"these laws depend on {name}: give the planned run's")
    kept, warnings = d.paired(*fits)

    numbers = (scale, limit, low, high)

    def judged(mixes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(objective, nats over the ceilings) of mixes (K, corpora) in every draw, (S + 1, K) each, the point first."""
        named = {f"w_{name}": mixes[:, i] for i, name in enumerate(corpora)}
        each = [d.losses(fit, {**x, **named, "ratio": named.get(f"w_{t}", np.nan)}) for t, fit in zip(targets, kept)]
        stacked = np.stack(each, axis=-1)
        total = (stacked * scale).max(axis=-1) if worst else (stacked * scale).sum(axis=-1)
        return total, np.maximum(stacked - limit, 0.0).sum(axis=-1)

    def losses(mix: np.ndarray) -> dict[str, dict[str, float]]:
        named = {f"w_{name}": share for name, share in zip(corpora, mix)}
        return {
            name: d.banded(d.losses(fit, {**x, **named, "ratio": named.get(f"w_{name}", np.nan)})[:, 0], wide)
            for name, fit in zip(targets, kept)
        }

    if d.conditioned(kept[0]):
        point, own, at_own, own_over = _among(_blends(kept, corpora, low, high, beyond), judged)
    else:
        asked = Asked(tuple(fit.law for fit in kept), tuple(targets), tuple(corpora), tuple(x.items()), worst)
        point, own, at_own, own_over = _descended(asked, kept, numbers)
    at_point, over = (value[:, 0] for value in judged(point[None]))
    if over[0] > SLACK:
        near = losses(point)
        raise DecisionError(
            f"no mix within the limits meets the ceilings: the nearest is over by {over[0]:.4f} nats in all. It gives "
            + ", ".join(f"{name} {near[name]['point']:.4f}" for name in ceilings or {})
            + ": raise the ceilings to there"
        )
    regret = np.maximum(at_point[1:] - at_own, 0) + np.maximum(over[1:] - own_over, 0)
    distance = np.abs(own - point).sum(axis=1) / 2

    options = []
    rules = {"equal shares": np.full(len(corpora), 1 / len(corpora))}
    if corpus_tokens and set(corpus_tokens) == set(corpora):
        size = np.array([corpus_tokens[name] for name in corpora])
        rules["proportional to size"] = size / size.sum()
    for rule, mix in rules.items():
        held = None if not ceilings else float((judged(mix[None])[1][1:] <= 0).mean())
        options.append(Option(rule, dict(zip(corpora, mix.tolist())), losses(mix), held))
    spans = {name: d.interval(own[:, i], wide) for i, name in enumerate(corpora)}
    supported = max(high - low for low, high in spans.values()) < d.WIDE
    shares = ", ".join(f"{d.percent(share)} {name}" for name, share in zip(corpora, point))
    named = {f"w_{name}": float(share) for name, share in zip(corpora, point)}
    for name, fit in zip(targets, kept):
        notes, silent = d.cautions(fit, {**x, **named, "ratio": named.get(f"w_{name}", np.nan)})
        warnings, supported = warnings + notes, supported and not silent
    what = "largest" if worst else "weighted sum of the"
    return Decision(
        kind="mixture",
        question=f"Which mix of {', '.join(corpora)} gives the smallest {what} {', '.join(targets)} loss?",
        answer=f"{shares}."
        if supported
        else f"These runs cannot say which mix: {', '.join(f'{n} {d.spread(*s)}' for n, s in spans.items())}.",
        inputs={
            **x, "weights": dict(zip(targets, scale.tolist())), "worst": worst, "ceilings": dict(ceilings or {}),
            "low": dict(zip(corpora, low.tolist())), "high": dict(zip(corpora, high.tolist())), "beyond": beyond,
        },
        holds=float((over[1:] <= SLACK).mean()) if ceilings else None,
        point=dict(zip(corpora, point.tolist())),
        interval=spans,
        samples={name: own[:, i] for i, name in enumerate(corpora)},
        level=level,
        agreement=float(np.mean(distance <= AGREE)),
        agreement_means=f"their own mix moves at most {100 * AGREE:.0f} points of share",
        regret=d.summarise_regret(regret),
        losses=losses(point),
        supported=supported,
        options=tuple(options),
        extrapolation=tuple(dict.fromkeys(
            note for fit in kept
            for note in d.extrapolation(fit, x | {f"w_{name}": float(s) for name, s in zip(corpora, point)})
        )),
        warnings=warnings,
    )  # fmt: skip


Judge = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _among(mixes: np.ndarray, judged: Judge) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best of the mixes and, around what the draws choose, of blends of their choices.

    Returns:
      shares (corpora,) at the prediction, of each draw (S, corpora), and each draw's objective and nats over (S,).
    """
    rng = np.random.default_rng(0)
    for stage in range(BLEND_STAGES):
        total, over = judged(mixes)
        pick = np.argmin(total + PENALTY * over, axis=1)
        if stage < BLEND_STAGES - 1:
            chosen = mixes[np.unique(pick)]
            pairs = rng.integers(len(chosen), size=(BLENDS, 2))
            part = rng.beta(1, 3, BLENDS)[:, None]
            mixes = np.concatenate([chosen, (1 - part) * chosen[pairs[:, 0]] + part * chosen[pairs[:, 1]]])
    draws = np.arange(1, len(pick))
    return mixes[pick[0]], mixes[pick[1:]], total[draws, pick[1:]], over[draws, pick[1:]]


def _blends(fits: list["Fit"], corpora: list[str], low: np.ndarray, high: np.ndarray, beyond: bool) -> np.ndarray:
    """Measured mixes within the limits and blends of them (K, corpora); `beyond`: of all mixes there are.

    Raises:
      DecisionError: the rows lack shares, or no blend of measured mixes is within the limits.
    """
    rng = np.random.default_rng(0)
    names = [f"w_{name}" for name in corpora]
    rows = pd.concat([fit.residuals for fit in fits], ignore_index=True)
    if missing := [name for name in names if name not in rows]:
        raise DecisionError(f"the fitted rows lack {', '.join(missing)}: no mix is known to have been measured")
    measured = np.unique(rows[names].to_numpy(float).round(6), axis=0)
    ends = np.concatenate([measured, np.eye(len(corpora))]) if beyond else measured
    count = min(BLENDED, len(ends))
    several = np.array([rng.choice(len(ends), count, replace=False) for _ in range(BLENDS)])
    weights = rng.dirichlet(np.full(count, 0.7), BLENDS)
    found = np.concatenate([measured, np.einsum("kb,kbc->kc", weights, ends[several])])
    found = found / found.sum(axis=1, keepdims=True)
    inside = ((found >= low - 1e-9) & (found <= high + 1e-9)).all(axis=1)
    if not inside.any():
        raise DecisionError(
            "no blend of the measured mixes is within the limits: loosen them, or look outside the measured mixes (beyond)"
        )
    return found[inside]


def _descended(
    asked: "Asked", kept: list["Fit"], numbers: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What `_among` returns, by mirror descent under the laws alone."""

    def solve(theta: list[dict[str, np.ndarray]], starts: np.ndarray) -> np.ndarray:
        """Best shares (M, corpora) of M draws from starts (M, R, corpora)."""
        draws, restarts = starts.shape[:2]
        lanes = [{name: np.repeat(v, restarts) for name, v in own.items()} for own in theta]
        mix, value = _chunked(asked, lanes, starts.reshape(draws * restarts, -1), numbers)
        pick = np.argmin(value.reshape(draws, restarts), axis=1)
        return mix.reshape(draws, restarts, -1)[np.arange(draws), pick]

    rng = np.random.default_rng(0)
    draws, size = d.draws(kept[0]), len(asked.corpora)
    cold = rng.dirichlet(np.ones(size), (1, STARTS))
    point = solve([{n: np.array([v]) for n, v in fit.params.items()} for fit in kept], cold)[0]
    others = 0 if all(fit.law.name in CONVEX for fit in kept) else RESTARTS
    warm = np.concatenate([np.broadcast_to(point, (draws, 1, size)),
                           rng.dirichlet(np.ones(size), (draws, others))], axis=1)  # fmt: skip
    own = solve(_thetas(kept), warm)
    at_own, over = _parts(np, asked, _thetas(kept), own, *numbers[:2])
    return point, own, at_own, over


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a descent is compiled for: the targets' laws and names, the corpora, params and tokens, sum or worst."""

    laws: tuple["Law", ...]
    targets: tuple[str, ...]
    corpora: tuple[str, ...]
    run: tuple[tuple[str, float], ...]
    worst: bool


def _parts(xp: Any, asked: Asked, theta: list[dict[str, Any]], mix: Any, scale: Any, limit: Any) -> tuple[Any, Any]:
    """(objective, nats over the ceilings), each (lanes,), of shares (lanes, corpora) under a theta a lane."""
    shares = {f"w_{name}": mix[:, i] for i, name in enumerate(asked.corpora)}
    values = []
    for law, target, own in zip(asked.laws, asked.targets, theta):
        given = {**dict(asked.run), **shares, "ratio": shares.get(f"w_{target}")}
        values.append(law.predict(own, {c: given[c] for c in law.columns}) + 0 * mix[:, 0])
    stacked = xp.stack(values, axis=-1)
    weighted = stacked * scale
    total = weighted.max(axis=-1) if asked.worst else weighted.sum(axis=-1)
    return total, xp.maximum(stacked - limit, 0.0).sum(axis=-1)


def _chunked(
    asked: Asked, theta: list[dict[str, np.ndarray]], starts: np.ndarray, numbers: Any
) -> tuple[np.ndarray, np.ndarray]:
    """`_descend` of any number of lanes, LANES at a time: one compiled program a set of laws, on every core."""
    count = len(starts)
    index = np.resize(np.arange(count), -(-count // LANES) * LANES).reshape(-1, LANES)

    def run(lanes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):  # a setting of this thread only
            own = [{name: value[lanes] for name, value in one.items()} for one in theta]
            mix, value = _descend(asked, own, starts[lanes], *numbers)
            return np.asarray(mix), np.asarray(value)

    with concurrent.futures.ThreadPoolExecutor(min(len(index), cores.usable())) as pool:
        found = list(pool.map(run, index))
    return np.concatenate([mix for mix, _ in found])[:count], np.concatenate([value for _, value in found])[:count]


@functools.partial(jax.jit, static_argnums=0)
def _descend(asked: Asked, theta: Any, starts: Any, scale: Any, limit: Any, low: Any, high: Any) -> Any:
    """Mirror descent, w <- w exp(-step gradient), projected onto the limits; (shares, penalised value), the best seen.

    The gradient is scaled to a spread of 1 over the corpora and the step falls from 1 to 1e-5, so that the kinks of a
    worst case or a ceiling are met as closely as smooth optima.
    """

    def value(mix: Any) -> Any:
        total, over = _parts(jnp, asked, theta, mix, scale, limit)
        each = total + PENALTY * over
        return each.sum(), each

    slope = jax.value_and_grad(value, has_aux=True)

    def step(i: Any, state: Any) -> Any:
        mix, best, least = state
        (_, found), gradient = slope(mix)
        better = found < least
        best, least = jnp.where(better[:, None], mix, best), jnp.where(better, found, least)
        gradient = gradient - gradient.mean(axis=-1, keepdims=True)
        size = 10.0 ** (-5.0 * i / STEPS)
        moved = mix * jnp.exp(-size * gradient / (jnp.abs(gradient).max(axis=-1, keepdims=True) + 1e-12))
        return _project(moved, low, high), best, least

    mix = _project(starts, low, high)
    return jax.lax.fori_loop(0, STEPS, step, (mix, mix, jnp.full(len(starts), jnp.inf)))[1:]


def _project(mix: Any, low: Any, high: Any) -> Any:
    """The nearest point by relative entropy: clip(c w, low, high) with c such that shares sum to 1, by bisection."""
    mix = jnp.maximum(mix / mix.sum(axis=-1, keepdims=True), 1e-12)

    def halve(_: Any, ends: Any) -> Any:
        small, large = ends
        middle = jnp.sqrt(small * large)
        over = jnp.clip(mix * middle, low, high).sum(axis=-1, keepdims=True) > 1
        return jnp.where(over, small, middle), jnp.where(over, middle, large)

    ends = jnp.full((*mix.shape[:-1], 1), 1e6)
    small, large = jax.lax.fori_loop(0, 32, halve, (1 / ends, ends))
    return jnp.clip(mix * jnp.sqrt(small * large), low, high)


def _thetas(fits: list["Fit"]) -> list[dict[str, Any]]:
    """Parameters of every resample (S,)."""
    return [
        {name: fit.samples.get(name, np.full(d.draws(fit), value)) for name, value in fit.params.items()}
        for fit in fits
    ]


def _corpora(fits: tuple["Fit", ...]) -> list[str]:
    """The training corpora the laws read, in their order."""
    names = [c[2:] for fit in fits for c in fit.law.columns if c.startswith("w_")]
    names += [d.corpus(fit) for fit in fits if "ratio" in fit.law.columns]
    found = list(dict.fromkeys(names))
    if len(found) < 2:
        raise DecisionError("a mixture needs laws of two corpora or more, e.g. --law mixing")
    return found


def _named(what: str, given: Mapping[str, float], known: list[str], missing: float = 0.0) -> np.ndarray:
    if unknown := [name for name in given if name not in known]:
        raise DecisionError(f"{what}: there is no {', '.join(unknown)}; there are {', '.join(known)}")
    return np.array([given.get(name, missing) for name in known], dtype=float)


def _limits(
    corpora: list[str], floors: Mapping[str, float], caps: Mapping[str, float], there: Mapping[str, float],
    max_epochs: float | Mapping[str, float], tokens: float | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Smallest and largest share of each corpus, token limits included."""
    for what, given in (("floors", floors), ("caps", caps)):
        for name, value in given.items():
            d.check_share(f"{what}[{name}]", value)
    low, high = _named("floors", floors, corpora), _named("caps", caps, corpora, missing=1.0)
    size = _named("corpus_tokens", there, corpora, missing=np.inf)
    if there:
        if tokens is None:
            raise DecisionError("corpus_tokens limits the shares of a run of known tokens: give tokens")
        for name, value in there.items():
            d.check_positive(f"corpus_tokens[{name}]", value, "tokens")
        epochs = max_epochs if isinstance(max_epochs, Mapping) else dict.fromkeys(corpora, max_epochs)
        if bad_epochs := [name for name, value in epochs.items() if not value > 0]:
            raise DecisionError(f"max_epochs of {bad_epochs[0]}: more than 0, e.g. 1 for a single pass")
        high = np.minimum(high, size * _named("max_epochs", epochs, corpora, missing=1.0) / tokens)
    if (bad := low > high).any():
        i = int(np.argmax(bad))
        raise DecisionError(f"{corpora[i]}: its floor {low[i]:.3g} is over its largest share {high[i]:.3g}")
    if low.sum() > 1 or high.sum() < 1:
        raise DecisionError(
            f"the limits leave no mix: floors sum to {low.sum():.3g}, largest shares to {high.sum():.3g}"
        )
    return low, high
