"""Usage 3 of the D-CPT Law: the best size and tokens for a compute budget, with or without the share."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw.fitting.process import SILENT, Process
from cptlaw.laws.base import BILLION
from cptlaw.planning.decision import Decision, DecisionError, Option, with_rejections
from cptlaw.planning.identified import check_identified
from cptlaw.planning.influence import with_influence
from cptlaw.planning.numbers import (
    FEWEST,
    Tabulated,
    banded,
    cautions,
    check_parameters,
    check_positive,
    check_share,
    conditioned,
    corpus,
    expanded,
    interval,
    losses,
    minimise,
    notes_of_reach,
    paired,
    resamples,
    stacked,
    summarise_regret,
)
from cptlaw.planning.shares import RULES
from cptlaw.words import count, percent

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

TRAINING, INFERENCE = 6.0, 2.0  # FLOPs a parameter a token: forward and backward, or forward alone
SIZES_TABLED, SHARES_TABLED = 81, 65  # points of a table over sizes and shares
LossOf = Callable[[Any, Any], np.ndarray]  # of log sizes and shares
VAGUE = 100.0  # an interval of the size over this factor or more settles nothing
SAME_SIZE = 1.25  # sizes within this factor are the same decision


@with_rejections
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
    _check(fit, flops, share, inference_tokens, general, ceiling)
    check_parameters(fit)
    wide = expanded(level, *([fit] if general is None else [fit, general]))
    (fit, *rest), warnings = paired(fit, *([] if general is None else [general]))
    for each in (fit, *rest):
        given = {} if share is None else {"ratio": share}
        notes = check_identified(each, ("params", "tokens"), given, "which size and tokens to take")
        if share is None:
            check_identified(each, ("ratio",), {}, "which share to take, though it can be given (--share)")
        warnings += notes
    menu = None if sizes is None else _affordable(sizes, flops, inference_tokens)
    bought = _Bought(fit, rest[0] if rest else None, flops, inference_tokens, share, ceiling, menu)

    log_sizes, all_sizes = _best_sizes(bought, menu)
    all_shares = bought.best_share(log_sizes[:, None], 201, 41)[:, 0]
    if np.isnan(all_shares[0]):
        raise _impossible(bought, menu)
    lost = np.isnan(all_shares[1:])
    if lost.any():
        warnings += (f"in {lost.mean():.0%} of resamples nothing meets the ceiling; they are left out",)
    own_sizes, own_shares = np.where(lost, np.nan, all_sizes[1:]), all_shares[1:]
    size, best_share = float(all_sizes[0]), float(all_shares[0])
    tokens = float(bought.tokens(np.array(size)))
    spelled = {"params": own_sizes, "tokens": bought.tokens(own_sizes), "share": own_shares}
    samples = {key: values for key, values in spelled.items() if key != "share" or bought.chooses_share}
    point = {key: {"params": size, "tokens": tokens, "share": best_share}[key] for key in samples}
    factor = 1.0001 if menu is not None else SAME_SIZE
    span = interval(own_sizes, wide)
    supported = span[1] < VAGUE * span[0]
    return Decision(
        kind="budget",
        question=_question(bought),
        answer=_answer(bought, point, span, level, supported),
        inputs={
            "flops": flops, "share": share, "sizes": menu, "inference_tokens": inference_tokens, "ceiling": ceiling,
            "domain": corpus(fit), "general": None if general is None else corpus(general),
        },
        point=point,
        interval={key: interval(values, wide) for key, values in samples.items()},
        samples=samples,
        level=level,
        agreement=float((np.maximum(own_sizes / size, size / own_sizes)[~lost] < factor).mean()),
        agreement_means="their own size is "
        + ("the same" if menu is not None else f"within a factor of {SAME_SIZE} of it"),
        regret=summarise_regret(_regret(bought, log_sizes, all_shares)[~lost]),
        losses=bought.predicted(size, best_share, wide)[0],
        supported=supported,
        options=_options(bought, size, best_share, wide, free_size=menu is None),
        extrapolation=notes_of_reach(*bought.columns_of_fits(size, best_share)),
        rows=() if menu is None else _menu_rows(bought, menu, own_sizes[~lost], wide),
        warnings=warnings
        + tuple(note for one, x in bought.columns_of_fits(size, best_share) for note in cautions(one, x)[0]),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Bought:
    """What a budget buys: each size has its tokens, and each share its loss. S + 1 draws; see `numbers`.

    Attributes:
      fit, general: fits of the loss to be made small and, if there is a ceiling, of the loss that it is on.
      flops: for training and inference together.
      inference_tokens: tokens that the model will serve.
      share: domain share, where the question gives it.
      ceiling: the largest general loss allowed, nats per token.
      menu: the sizes to choose from; None: any.
    """

    fit: "Fit"
    general: "Fit | None"
    flops: float
    inference_tokens: float
    share: float | None
    ceiling: float | None
    menu: list[float] | None

    @property
    def chooses_share(self) -> bool:
        return self.share is None and self.fit.of_share

    @functools.cached_property
    def sizes(self) -> tuple[float, float]:
        """The smallest size, and the largest: the one that is left `FEWEST` tokens, or of which something is known."""
        largest = self.flops / (TRAINING * FEWEST + INFERENCE * self.inference_tokens)
        if process := conditioned(self.fit):
            return _within(process, self.tokens, FEWEST, largest)
        return FEWEST, largest

    def tokens(self, params: np.ndarray) -> np.ndarray:
        return (self.flops - INFERENCE * params * self.inference_tokens) / (TRAINING * params)

    def losses(self, log_params: np.ndarray, share: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """(loss, nats over the ceiling), each (S + 1, K, ...), at log sizes and shares that broadcast to it."""
        value = self._of_fit(log_params, share)
        if self._of_general is None:
            return value, np.zeros_like(value)
        return value, np.maximum(self._of_general(log_params, share) - self.ceiling, 0)

    @functools.cached_property
    def _of_fit(self) -> LossOf:
        return self._loss_of(self.fit, lambda share: share)

    @functools.cached_property
    def _of_general(self) -> LossOf | None:
        return None if self.general is None else self._loss_of(self.general, lambda share: 1 - np.asarray(share))

    def _loss_of(self, fit: "Fit", own: Callable[[Any], Any]) -> LossOf:
        """The loss of a fit at log sizes and shares; under the predictive distribution, read from a table."""

        def at(log_params: np.ndarray, share: np.ndarray | float) -> np.ndarray:
            x = {"params": np.exp(log_params), "tokens": self.tokens(np.exp(log_params))}
            return losses(fit, x | {"ratio": own(share)})

        if not conditioned(fit):
            return at
        sizes = (
            np.log(np.geomspace(self.sizes[0], self.sizes[1], SIZES_TABLED)) if self.menu is None else np.log(self.menu)
        )
        if len(sizes) == 1:
            sizes = sizes + np.array([0.0, 1e-6])
        shares = np.linspace(0, 1, SHARES_TABLED) if self.chooses_share else np.array([0.0, 1.0])
        asked = shares if self.chooses_share else np.full(2, 1.0 if self.share is None else self.share)
        n, r = np.meshgrid(sizes, asked, indexing="ij")
        return Tabulated(at(n.ravel(), r.ravel()).reshape(-1, *n.shape), (sizes, shares))

    def allowed(self, log_params: np.ndarray, share: np.ndarray | float) -> np.ndarray:
        """The loss where it keeps the ceiling, inf elsewhere."""
        value, over = self.losses(log_params, share)
        return np.where(over > 0, np.inf, value)

    def best_share(self, log_params: np.ndarray, grid: int = 33, zoom: int = 9) -> np.ndarray:
        """Each draw's best share at its log sizes (S + 1, K); NaN where no share keeps the ceiling."""
        if not self.chooses_share:
            return np.full(log_params.shape, 1.0 if self.share is None else self.share)

        def flat(share: np.ndarray) -> np.ndarray:
            """(rows, points) -> (rows, points), a row for each draw and size."""
            own = share.reshape(*log_params.shape, -1)
            return self.allowed(log_params[:, :, None], own).reshape(log_params.size, -1)

        return minimise(flat, 0, 1, log_params.size, grid, zoom).reshape(log_params.shape)

    def least(self, log_params: np.ndarray) -> np.ndarray:
        """Loss at each draw's best share, (S + 1, K) -> (S + 1, K); inf where no share keeps the ceiling."""
        share = self.best_share(log_params)
        return np.where(np.isnan(share), np.inf, self.allowed(log_params, np.nan_to_num(share)))

    def columns_of_fits(self, params: float, share: float) -> list[tuple["Fit", dict[str, float]]]:
        """(fit, what its law reads) of one size and share."""
        x = {"params": params, "tokens": float(self.tokens(np.array(params)))}
        both = [(self.fit, x | {"ratio": share})]
        return both if self.general is None else [*both, (self.general, x | {"ratio": 1 - share})]

    def predicted(self, params: float, share: float, level: float) -> tuple[dict[str, dict[str, float]], float | None]:
        """Each corpus's loss at one size and share, and the part of the resamples that keep the ceiling there."""
        found = {corpus(fit): losses(fit, x)[:, 0] for fit, x in self.columns_of_fits(params, share)}
        bands = {name: banded(values, level) for name, values in found.items()}
        if self.general is None:
            return bands, None
        return bands, float(np.mean(found[corpus(self.general)][1:] <= self.ceiling))


def _best_sizes(bought: _Bought, menu: list[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """(log size, size) that is best for each draw, (S + 1,) each; a size of the menu if there is one."""
    draws, (smallest, largest) = resamples(bought.fit) + 1, bought.sizes
    if menu is not None:
        columns = np.broadcast_to(np.log(menu), (draws, len(menu)))
        pick = np.argmin(bought.least(columns), axis=1)
        return columns[np.arange(draws), pick], np.array(menu)[pick]
    closed = not bought.chooses_share and bought.inference_tokens == 0 and not conditioned(bought.fit)
    if closed and bought.fit.law.name in ("dcpt", "chinchilla"):
        params, _ = closed_form(stacked(bought.fit), 1.0 if bought.share is None else bought.share, bought.flops)
        found = np.log(np.clip(params, FEWEST, largest))
    else:
        found = minimise(bought.least, math.log(smallest), math.log(largest), draws, grid=41, zoom=11)
        found = np.where(np.isnan(found), math.log(smallest), found)
    return found, np.exp(found)


def _regret(bought: _Bought, log_sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(S,) nats that the recommendation (draw 0's) costs each resample: loss over its own best, plus nats over the
    ceiling. Log sizes and shares are each draw's own best, (S + 1,)."""
    value, over = bought.losses(log_sizes[:1], shares[:1])
    own = bought.losses(log_sizes[:, None], np.nan_to_num(shares)[:, None])[0]
    return np.maximum(value - own, 0)[1:, 0] + over[1:, 0]


def _impossible(bought: _Bought, menu: list[float] | None) -> DecisionError:
    """The error of a ceiling that nothing meets: says how high it would have to be."""
    assert bought.general is not None and bought.ceiling is not None
    tried = np.log(np.geomspace(bought.sizes[0], bought.sizes[1], 401)) if menu is None else np.log(menu)
    over = bought.losses(tried, 0.0)[1][0]
    return DecisionError(
        f"nothing that {bought.flops:.3g} FLOPs buy keeps the {corpus(bought.general)} loss at or under "
        f"{bought.ceiling:.4f} nats: raise the ceiling to {bought.ceiling + over.min():.4f} or more, or the budget"
    )


def _menu_rows(bought: _Bought, menu: list[float], own_sizes: np.ndarray, level: float) -> tuple[dict[str, Any], ...]:
    """What each size of the menu gives, and in what part of the resamples it is the best."""
    columns = np.broadcast_to(np.log(menu), (resamples(bought.fit) + 1, len(menu)))
    mixes, found = bought.best_share(columns), bought.least(columns)
    rows = []
    for i, size in enumerate(menu):
        row: dict[str, Any] = {"params": size, "tokens": float(bought.tokens(np.array(size)))}
        if bought.chooses_share:
            row["share"] = mixes[0, i]
        keeps = np.isfinite(found[1:, i])
        if keeps.any():
            row |= banded(found[np.r_[True, keeps], i], level)
        rows.append(row | {"best in": float(np.mean(np.isclose(own_sizes, size)))})
    return tuple(rows)


def _options(bought: _Bought, size: float, share: float, level: float, free_size: bool) -> tuple[Option, ...]:
    """Rules of thumb at the same cost: tokens per parameter where any size will do, shares where the share is free."""
    options = []
    if free_size and bought.inference_tokens == 0:
        rule = math.sqrt(bought.flops / (TRAINING * 20))
        point = {"params": rule, "tokens": 20 * rule}
        options.append(Option("20 tokens a parameter", point, *bought.predicted(rule, share, level)))
    if bought.chooses_share:
        at = {"params": size, "tokens": float(bought.tokens(np.array(size)))}
        for name, rival in RULES.items():
            options.append(Option(name, at | {"share": rival}, *bought.predicted(size, rival, level)))
    return tuple(options)


def _question(bought: _Bought) -> str:
    name, paid = corpus(bought.fit), f"{bought.flops:.3g} FLOPs"
    text = f"Which model size and how many tokens give the smallest {name} loss for {paid}"
    if bought.inference_tokens:
        text += f", {count(bought.inference_tokens)} tokens served included"
    if bought.general is not None:
        text += f", with the {corpus(bought.general)} loss at or under {bought.ceiling:.4f}"
    return text + "?"


def _answer(
    bought: _Bought, point: Mapping[str, float], span: tuple[float, float], level: float, supported: bool
) -> str:
    within = f"{level:.0%} interval of the size {count(span[0])} to {count(span[1])}"
    if not supported:
        return f"These runs cannot say which size: {within}."
    mix = f", {percent(point['share'])} {corpus(bought.fit)} text" if bought.chooses_share else ""
    return f"{count(point['params'])} parameters and {count(point['tokens'])} tokens{mix} ({within})."


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
            f"these runs say nothing about what the budget buys: every size or its tokens lie more than {SILENT:g} "
            "times beyond the fitted ones"
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
    corpus(fit)
    check_positive("flops", flops, "FLOPs")
    if not (math.isfinite(inference_tokens) and inference_tokens >= 0):
        raise DecisionError(f"inference_tokens {inference_tokens:g} is not a count of tokens")
    if share is not None:
        check_share("share", share)
    if (general is None) != (ceiling is None):
        raise DecisionError("a ceiling needs both the general fit and its value in nats per token")
    if general is not None and share is not None:
        raise DecisionError("a ceiling chooses the share: give one of ceiling and share")
    least = FEWEST * (TRAINING * FEWEST + INFERENCE * inference_tokens)
    if flops < least:
        raise DecisionError(
            f"{flops:.3g} FLOPs do not pay for {FEWEST:g} tokens of a model of {FEWEST:g} parameters: give at "
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
        check_positive("size", size, "parameters")
    costs = {size: size * (TRAINING * FEWEST + INFERENCE * inference_tokens) for size in sorted(set(sizes))}
    menu = [float(size) for size, cost in costs.items() if cost <= flops]
    if not menu:
        least = min(costs.values(), default=math.nan)
        raise DecisionError(f"{flops:.3g} FLOPs train none of these sizes; the smallest needs {least:.3g}")
    return menu
