"""Usage 3 of the D-CPT Law: the best size and tokens for a compute budget, with or without the share."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw.fitting.process import SILENT, Process
from cptlaw.planning import decision as d
from cptlaw.planning.decision import Decision, DecisionError, Option
from cptlaw.planning.influence import with_influence
from cptlaw.planning.tradeoff import RULES

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

BILLION = 1e9
TRAINING, INFERENCE = 6.0, 2.0  # FLOPs a parameter a token: forward and backward, or forward alone
SIZES_TABLED, MIXES_TABLED = 81, 65  # points of a table over sizes and shares, under the predictive distribution
VAGUE = 100.0  # an interval of the size over this factor or more says nothing
AGREE = 1.25  # sizes within this factor are the same decision


@with_influence
def budget(
    fit: "Fit",
    general: "Fit | None" = None,
    *,
    flops: float,
    share: float | None = None,
    sizes: Sequence[float] | None = None,
    inference_tokens: float = 0.0,
    ceiling: float | None = None,
    level: float = 0.9,
) -> Decision:
    """Size and tokens (and share) with the smallest loss that `flops` can pay for.

    N parameters and D tokens cost 6 N D + 2 N `inference_tokens`.

    Args:
      fit: law of params, tokens and, unless it has none, the corpus's share.
      general: fit of the corpus that the ceiling is on.
      flops: for training and inference together.
      share: of `fit`'s corpus in the mix; None chooses it too.
      sizes: the sizes there are to start from; None takes any.
      inference_tokens: tokens the model will serve over its life.
      ceiling: the loss of `general`, at one minus the share, stays at or under it, in nats per token.
      level: of every interval.

    Raises:
      DecisionError: a number out of range, a budget that buys no tokens, a ceiling nothing meets.
    """
    name = d.corpus(fit)
    _check(fit, flops, share, inference_tokens, general, ceiling)
    wide = d.expanded(level, *([fit] if general is None else [fit, general]))
    (fit, *rest), warnings = d.paired(fit, *([] if general is None else [general]))
    general = rest[0] if rest else None
    menu = None if sizes is None else _affordable(sizes, flops, inference_tokens)
    free = share is None and fit.of_share
    most = flops / (TRAINING * d.FEWEST + INFERENCE * inference_tokens)
    draws = d.draws(fit) + 1

    def tokens_of(n: np.ndarray) -> np.ndarray:
        return (flops - INFERENCE * n * inference_tokens) / (TRAINING * n)

    smallest, largest = d.FEWEST, most
    if conditioned := d.conditioned(fit):
        smallest, largest = _within(conditioned, tokens_of, d.FEWEST, most)

    def exactly(one: "Fit", own: Callable[[Any], Any]) -> Callable[[Any, Any], np.ndarray]:
        def at(log_n: np.ndarray, r: np.ndarray | float) -> np.ndarray:
            x = {"params": np.exp(log_n), "tokens": tokens_of(np.exp(log_n))}
            return d.losses(one, x | {"ratio": own(r)})

        if not d.conditioned(one):
            return at
        sizes = np.linspace(math.log(smallest), math.log(largest), SIZES_TABLED) if menu is None else np.log(menu)
        if len(sizes) == 1:
            sizes = sizes + np.array([0.0, 1e-6])
        mixes = np.linspace(0, 1, MIXES_TABLED) if free else np.array([0.0, 1.0])
        n, r = np.meshgrid(sizes, mixes if free else np.full(2, 1.0 if share is None else share), indexing="ij")
        return d.Tabulated(at(n.ravel(), r.ravel()).reshape(-1, *n.shape), (sizes, mixes))

    loss_of = exactly(fit, lambda r: r)
    ceiling_of = None if general is None else exactly(general, lambda r: 1 - np.asarray(r))

    def both(log_n: np.ndarray, r: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """(loss, nats over the ceiling)."""
        value = loss_of(log_n, r)
        if ceiling_of is None:
            return value, np.zeros_like(value)
        return value, np.maximum(ceiling_of(log_n, r) - ceiling, 0)

    def allowed(log_n: np.ndarray, r: np.ndarray | float) -> np.ndarray:
        value, over = both(log_n, r)
        return np.where(over > 0, np.inf, value)

    def best_share(log_n: np.ndarray, grid: int = 33, zoom: int = 9) -> np.ndarray:
        """Each draw's best share at (draws, K) sizes."""
        if not free:
            return np.full(log_n.shape, 1.0 if share is None else share)

        def flat(r: np.ndarray) -> np.ndarray:
            return allowed(log_n[:, :, None], r.reshape(*log_n.shape, -1)).reshape(log_n.size, -1)

        return d.minimise(flat, 0, 1, log_n.size, grid, zoom).reshape(log_n.shape)

    def profile(log_n: np.ndarray) -> np.ndarray:
        r = best_share(log_n)
        return np.where(np.isnan(r), np.inf, allowed(log_n, np.nan_to_num(r)))

    if menu is not None:
        columns = np.broadcast_to(np.log(menu), (draws, len(menu)))
        pick = np.argmin(profile(columns), axis=1)
        own, chosen = columns[np.arange(draws), pick], np.array(menu)[pick]
    elif not free and inference_tokens == 0 and not conditioned and fit.law.name in ("dcpt", "chinchilla"):
        theta = {key: np.concatenate([[fit.params[key]], draw]) for key, draw in fit.samples.items()}
        own = np.log(np.clip(closed_form(theta, 1.0 if share is None else share, flops)[0], d.FEWEST, most))
    else:
        own = d.minimise(profile, math.log(smallest), math.log(largest), draws, grid=41, zoom=11)
        own = np.where(np.isnan(own), math.log(smallest), own)
    if menu is None:
        chosen = np.exp(own)
    shares = best_share(own[:, None], 201, 41)[:, 0]
    if np.isnan(shares[0]):
        assert general is not None and ceiling is not None
        over = both(np.linspace(math.log(smallest), math.log(largest), 401) if menu is None else np.log(menu), 0.0)[1][
            0
        ]
        raise DecisionError(
            f"nothing that {flops:.3g} FLOPs buy keeps the {d.corpus(general)} loss at or under {ceiling:.4f} nats: "
            f"raise the ceiling to {ceiling + over.min():.4f} or more, or the budget"
        )
    lost = np.isnan(shares[1:])
    if lost.any():
        warnings += (f"in {lost.mean():.0%} of resamples nothing meets the ceiling; they are left out",)
    sizes_own, shares_own = np.where(lost, np.nan, chosen[1:]), shares[1:]
    log_n, n, r = own[:1], float(chosen[0]), float(shares[0])
    tokens = float(tokens_of(np.array(n)))
    value, over = both(log_n, np.array([r]))
    own_best = both(own[:, None], np.nan_to_num(shares)[:, None])[0][1:, 0]
    regret = (np.maximum(value[1:, 0] - own_best, 0) + over[1:, 0])[~lost]

    rows: tuple[dict[str, Any], ...] = ()
    if menu is not None:
        mixes, found = best_share(columns), profile(columns)
        for i, size in enumerate(menu):
            fits_in = np.isfinite(found[1:, i])
            row = {"params": size, "tokens": float(tokens_of(np.array(size)))} | (
                {"share": mixes[0, i]} if free else {}
            )
            row |= d.banded(found[np.r_[True, fits_in], i], wide) if fits_in.any() else {}
            rows += (row | {"best in": float(np.mean(np.isclose(sizes_own[~lost], size)))},)

    def predicted(size: float, r: float) -> tuple[dict[str, dict[str, float]], float | None]:
        """Each corpus's loss at a size and share, and the share of resamples in which the ceiling holds there."""
        x = {"params": size, "tokens": float(tokens_of(np.array(size)))}
        found, holds = {name: d.banded(d.losses(fit, x | {"ratio": r})[:, 0], wide)}, None
        if general is not None and ceiling is not None:
            losses = d.losses(general, x | {"ratio": 1 - r})[:, 0]
            found[d.corpus(general)], holds = d.banded(losses, wide), float(np.mean(losses[1:] <= ceiling))
        return found, holds

    options = []
    if menu is None and inference_tokens == 0:
        rule = math.sqrt(flops / (TRAINING * 20))
        options.append(Option("20 tokens a parameter", {"params": rule, "tokens": 20 * rule}, *predicted(rule, r)))
    for one, own_share in ((fit, r), *([(general, 1 - r)] if general is not None else [])):
        notes, _ = d.cautions(one, {"params": n, "tokens": tokens, "ratio": own_share})
        warnings += notes
    near = (np.maximum(sizes_own / n, n / sizes_own)[~lost] < (1.0001 if menu is not None else AGREE)).mean()
    samples = {"params": sizes_own, "tokens": tokens_of(sizes_own)} | ({"share": shares_own} if free else {})
    point = {"params": n, "tokens": tokens} | ({"share": r} if free else {})
    reach = d.extrapolation(fit, {"params": n, "tokens": tokens, "ratio": r})
    if general is not None:
        reach += d.extrapolation(general, {"params": n, "tokens": tokens, "ratio": 1 - r})
    if free:
        at = {"params": n, "tokens": tokens}
        options += [Option(rule, at | {"share": rival}, *predicted(n, rival)) for rule, rival in RULES.items()]
    mix = f", {d.percent(r)} {name} text" if free else ""
    span = d.interval(sizes_own, wide)
    supported = span[1] < VAGUE * span[0]
    within = f"{level:.0%} interval of the size {d.count(span[0])} to {d.count(span[1])}"
    return Decision(
        kind="budget",
        question=f"Which model size and how many tokens give the smallest {name} loss for {flops:.3g} FLOPs"
        + (f", {d.count(inference_tokens)} tokens served included" if inference_tokens else "")
        + (f", with the {d.corpus(general)} loss at or under {ceiling:.4f}" if general is not None else "")
        + "?",
        answer=f"{d.count(n)} parameters and {d.count(tokens)} tokens{mix} ({within})."
        if supported
        else f"These runs cannot say which size: {within}.",
        inputs={
            "flops": flops, "share": share, "sizes": menu, "inference_tokens": inference_tokens, "ceiling": ceiling,
            "domain": name, "general": None if general is None else d.corpus(general),
        },
        point=point,
        interval={key: d.interval(values, wide) for key, values in samples.items()},
        samples=samples,
        level=level,
        agreement=float(near),
        agreement_means="their own size is " + ("the same" if menu is not None else "within a factor of 1.25 of it"),
        regret=d.summarise_regret(regret),
        losses=predicted(n, r)[0],
        supported=supported,
        options=tuple(options),
        extrapolation=reach,
        rows=rows,
        warnings=warnings,
    )  # fmt: skip


def _within(process: Process, tokens_of: Callable[[Any], Any], smallest: float, largest: float) -> tuple[float, float]:
    """The sizes about which the predictive distribution says something, and whose tokens it does.

    Raises:
      DecisionError: the budget buys no such run.
    """
    sizes = np.geomspace(smallest, largest, 2001)[:-1]
    x = {"params": sizes, "tokens": tokens_of(sizes)}
    said = ~np.any([process.reach(x, name) > SILENT for name in ("params", "tokens")], axis=0)
    if not said.any():
        raise DecisionError(
            f"these runs say nothing about what the budget buys: every size or its tokens lie more than {SILENT:g} times "
            "beyond the fitted ones"
        )
    return float(sizes[said][0]), float(sizes[said][-1])


def closed_form(
    theta: Mapping[str, np.ndarray | float], share: float, flops: float
) -> tuple[np.ndarray | float, np.ndarray | float]:
    """(parameters, tokens) with the least loss at 6 N D = `flops`, for Chinchilla and, at a fixed share, D-CPT.

    N = G (C/6)^a, D = (C/6)^b / G, G = (alpha A / (beta B0))^(1/(alpha+beta)), a = beta/(alpha+beta), b = 1 - a,
    B0 = B r^eta, N and D in billions (Que et al. 2024, usage 3; Hoffmann et al. 2022). A zero term gives 0 or inf.
    """
    alpha, beta = theta["alpha"], theta["beta"]
    token_term = theta["B"] * share ** theta.get("eta", 0.0)
    with np.errstate(divide="ignore"):
        scale = (alpha * np.divide(theta["A"], beta * token_term)) ** (1 / (alpha + beta))
        work = flops / TRAINING / BILLION**2
        small = np.divide(BILLION * work ** (alpha / (alpha + beta)), scale)
    return BILLION * scale * work ** (beta / (alpha + beta)), small


def _check(
    fit: "Fit", flops: float, share: float | None, inference_tokens: float, general: "Fit | None", ceiling: float | None
) -> None:
    d.check_positive("flops", flops, "FLOPs")
    if not (math.isfinite(inference_tokens) and inference_tokens >= 0):
        raise DecisionError(f"inference_tokens {inference_tokens:g} is not a count of tokens")
    if share is not None:
        d.check_share("share", share)
    if (general is None) != (ceiling is None):
        raise DecisionError("a ceiling needs both the general fit and its value in nats per token")
    if general is not None and share is not None:
        raise DecisionError("a ceiling chooses the share: give one of ceiling and share")
    least = d.FEWEST * (TRAINING * d.FEWEST + INFERENCE * inference_tokens)
    if flops < least:
        raise DecisionError(
            f"{flops:.3g} FLOPs do not pay for {d.FEWEST:g} tokens of a model of {d.FEWEST:g} parameters: give at "
            f"least {least:.3g}"
        )
    for name in ("params", "tokens"):
        if name not in fit.law.columns:
            raise DecisionError(
                f"the law {fit.law.name} does not know {name}: a budget needs a law of params and tokens"
            )


def _affordable(sizes: Sequence[float], flops: float, inference_tokens: float) -> list[float]:
    """The sizes the budget can train at all, in order."""
    for size in sizes:
        d.check_positive("size", size, "parameters")
    costs = {size: size * (TRAINING * d.FEWEST + INFERENCE * inference_tokens) for size in sorted(set(sizes))}
    menu = [float(size) for size, cost in costs.items() if cost <= flops]
    if not menu:
        least = min(costs.values(), default=math.nan)
        raise DecisionError(f"{flops:.3g} FLOPs train none of these sizes; the smallest needs {least:.3g}")
    return menu
