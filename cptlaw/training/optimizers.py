"""What gives a step its direction: AdamW, Muon, and any of the user's own."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import optax

from cptlaw.registry import Registry
from cptlaw.training import muon

if TYPE_CHECKING:
    from cptlaw.training.step import Optimizer


@dataclasses.dataclass(frozen=True)
class Direction:
    """A kind of optimizer.

    Attributes:
      make: from the `Optimizer`'s settings to the Optax transformation of (clipped) gradients to the direction of the
        step, which the learning rate and decoupled weight decay come after.
    """

    make: "Callable[[Optimizer], optax.GradientTransformation]"


OPTIMIZERS: Registry[Direction] = Registry("optimizer", Direction, "@cptlaw.training.optimizers.optimizer")


def optimizer(make: "Callable[[Optimizer], optax.GradientTransformation]") -> Direction:
    """Makes an optimizer of a function from the settings (`cptlaw.training.step.Optimizer`: b1, b2, eps, momentum,
    moment_dtype, ...) to an Optax transformation.

    In a file of your own; `FILE.py:NAME` is then a config's `optimizer.kind`. Gradients come clipped. The
    transformation gives the direction, not multiplied by the learning rate; decoupled weight decay is added to it.

    >>> @optimizer
    ... def lion(settings):
    ...     return optax.scale_by_lion(settings.b1, settings.b2, mu_dtype=settings.moment_dtype)
    """
    return Direction(make)


def _adamw(settings: "Optimizer") -> optax.GradientTransformation:
    return optax.scale_by_adam(settings.b1, settings.b2, settings.eps, mu_dtype=settings.moment_dtype)


def _muon(settings: "Optimizer") -> optax.GradientTransformation:
    return muon.with_adamw(settings.momentum, _adamw(settings), settings.moment_dtype)


OPTIMIZERS.add("adamw", optimizer(_adamw))
OPTIMIZERS.add("muon", optimizer(_muon))
