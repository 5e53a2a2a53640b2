"""The same question asked of other fits, by the kind and the inputs that a decision keeps."""

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cptlaw.planning.budget import budget
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.limited_data import limited_data
from cptlaw.planning.mixture import mixture
from cptlaw.planning.numbers import corpus
from cptlaw.planning.share_for_loss import share_for_loss
from cptlaw.planning.tradeoff import trade_off

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

# kind -> (function, the roles of its fits, the inputs it is asked with)
QUESTIONS: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "trade-off": (trade_off, ("general", "domain"), ("params", "tokens", "base_loss", "ceiling")),
    "share-for-loss": (share_for_loss, ("domain",), ("params", "tokens", "loss")),
    "limited-data": (
        limited_data,
        ("domain",),
        ("params", "domain_tokens", "tokens", "max_epochs", "repetition"),
    ),
    "budget": (budget, ("domain", "general"), ("flops", "share", "sizes", "inference_tokens", "ceiling")),
}


def decide(decision: Decision, fits: Sequence["Fit"]) -> Decision:
    """The decision made from `fits` instead, without its influential runs.

    Raises:
      DecisionError: a kind that cannot be asked again, or a corpus of which there is no fit.
    """
    asked, of = decision.inputs, {corpus(fit): fit for fit in fits}
    if decision.kind == "mixture":
        targets = list(asked["weights"])
        _there(targets, of)
        given: dict[str, Any] = {name: asked[name] for name in ("weights", "worst", "ceilings")}
        given |= {name: asked[name] for name in ("params", "tokens") if name in asked}
        limits = {"floors": asked["low"], "caps": asked["high"]}
        return inspect.unwrap(mixture)(*(of[name] for name in targets), **given, **limits, level=decision.level)
    if decision.kind not in QUESTIONS:
        raise DecisionError(
            f"a {decision.kind} cannot be made surer: give a run instead, whose losses are then predicted more surely"
        )
    function, roles, names = QUESTIONS[decision.kind]
    corpora = [asked[role] for role in roles if asked[role] is not None]
    _there(corpora, of)
    given = {name: asked[name] for name in names}
    if decision.kind == "limited-data" and given["tokens"] is None:
        given["tokens"] = math.inf
    return inspect.unwrap(function)(*(of[name] for name in corpora), **given, level=decision.level)


def _there(corpora: Sequence[str], of: dict[str, "Fit"]) -> None:
    if missing := [name for name in corpora if name not in of]:
        raise DecisionError(f"the decision is about {', '.join(missing)} too, of which no fit is given")
