"""Learning-rate schedules as arrays, and the sums of them that the learning-dynamics law reads.

A schedule is computed on the host in float64, whole: the learning rate enters the compiled step as a number, so
runs with different schedules share one program.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import numpy as np

from cptlaw import fields
from cptlaw.errors import UserError
from cptlaw.fields import ConfigError, OneOf, above, at_least
from cptlaw.registry import Registry

# Decays from 1 to 0 over progress from 0 to 1.
DECAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + np.cos(np.pi * progress)),
    "sqrt": lambda progress: 1 - np.sqrt(progress),
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of schedule.

    Attributes:
      rates: from the `Schedule` to its learning rate of every step, (steps,), raw, warm-up included.
      uses: the fields it reads, of those that not all kinds do: cooldown, stable, decay, cycles.
    """

    rates: "Callable[[Schedule], np.ndarray]"
    uses: tuple[str, ...] = ()


KINDS: Registry[Kind] = Registry("schedule", Kind, "@cptlaw.schedules.schedule", UserError)


def schedule(*uses: str) -> "Callable[[Callable[[Schedule], np.ndarray]], Kind]":
    """Makes a schedule of a function of the `Schedule`, in a file of your own: `FILE.py:NAME` is then a config's
    `schedule`.

    >>> @schedule()
    ... def inverse_sqrt(s):
    ...     steps = np.arange(1, s.steps + 1)
    ...     return s.peak * np.minimum(steps / max(s.warmup, 1), np.sqrt(max(s.warmup, 1) / steps))

    Args:
      uses: fields of the `Schedule` that it reads beside peak, steps, warmup, start and final: cooldown (and shape),
        stable, decay, cycles. A config that sets another one is refused, because it would do nothing.
    """
    return lambda rates: Kind(rates, uses)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """(Re-)warm-up from `start` to `peak`, then one of `KINDS`. Learning rates are raw; lengths are steps.

      constant   stays at `peak`
      linear, cosine, sqrt   decays to `final` over all steps after the warm-up
      wsd        warm-up, stable, decay: stays at `peak`, then cools down
      infinite   decays (cosine) to `stable` over `decay` steps, stays there, then cools down, if it does
                 (Ibrahim et al. 2024, arXiv 2403.08763)
      cyclic     `cycles` equal cycles, each a (re-)warm-up and a cosine decay to `final`
      FILE.py:NAME   one of your own, decorated with `schedule`

    A cool-down takes the last `cooldown` steps to `final`, in the form `shape` (one of `DECAYS`; sqrt is 1 - sqrt of
    Haegele et al. 2024, arXiv 2405.18392). Schedules that differ in their cool-down alone are the same until it begins,
    so one long run can be the trunk from which a run of each length branches.

    Attributes:
      start: where the first warm-up starts. Its last step is the first at `peak`.
    """

    peak: Annotated[float, above(0, what="needs a positive peak,")]
    steps: Annotated[int, at_least(1)]
    warmup: Annotated[int, at_least(0)] = 0
    kind: Annotated[str, KINDS] = "constant"
    final: Annotated[float, at_least(0)] = 0.0
    start: Annotated[float, at_least(0)] = 0.0
    cooldown: Annotated[int, at_least(0)] = 0
    shape: Annotated[str, OneOf(tuple(DECAYS))] = "linear"
    stable: Annotated[float, at_least(0)] = 0.0
    decay: Annotated[int, at_least(0)] = 0
    cycles: Annotated[int, at_least(1)] = 1

    def __post_init__(self):
        fields.check(self, "schedule")
        if self.warmup * self.cycles + self.decay + self.cooldown > self.steps:
            longest = max(("warmup", "decay", "cooldown"), key=lambda name: getattr(self, name))
            raise ConfigError(
                f"schedule.{longest}",
                f"warm-up {self.warmup}{f' x {self.cycles}' if self.cycles != 1 else ''}, decay {self.decay} "
                f"and cool-down {self.cooldown} do not fit into {self.steps} steps",
            )
        uses = KINDS.find(self.kind).uses
        needed = {"cooldown": self.kind == "wsd", "stable": "stable" in uses}
        given = {"cooldown": self.cooldown, "stable": self.stable, "decay": self.decay, "cycles": self.cycles - 1}
        for name, value in given.items():
            if value and name not in uses:
                others = " and ".join(kind for kind, entry in KINDS.items() if name in entry.uses)
                words = {"cooldown": "cool-down steps belong", "decay": "decay steps belong", "cycles": "cycles belong"}
                said = words.get(name, "a stable learning rate belongs")
                raise ConfigError(f"schedule.{name}", f"{said} to {others}, not to {self.kind}")
            if needed.get(name) and not value:
                why = "wsd needs cool-down steps; without them it is constant"
                raise ConfigError(f"schedule.{name}", why if name == "cooldown" else f"{self.kind} needs one above 0")

    def learning_rates(self) -> np.ndarray:
        """The learning rate of every step: float64 (steps,).

        Raises ConfigError for a kind of the user's own that gives something else.
        """
        rates = np.asarray(KINDS.find(self.kind).rates(self), np.float64)
        if rates.shape != (self.steps,) or not np.isfinite(rates).all() or (rates < 0).any():
            span = f" from {rates.min():g} to {rates.max():g}" if rates.size else ""
            name = self.kind.partition("@")[0]
            raise ConfigError(
                "schedule.kind",
                f"{name} must give {self.steps} learning rates, finite and not below 0, and gave an array of shape "
                f"{rates.shape}{span}",
            )
        return rates

    @property
    def after(self) -> int:
        """Steps after the warm-up."""
        return self.steps - self.warmup

    def warm(self, start: float | None = None) -> np.ndarray:
        """The warm-up, (warmup,), from `start` (the schedule's by default) to the peak."""
        start = self.start if start is None else start
        return start + (self.peak - start) * np.arange(1, self.warmup + 1) / max(self.warmup, 1)


def _decay(shape: str, high: float, low: float, steps: int) -> np.ndarray:
    """Progress 0 is the step before and 1 the last step, so that the decay ends at `low`."""
    return low + (high - low) * DECAYS[shape](np.arange(1, steps + 1) / max(steps, 1))


def _flat_then_down(s: Schedule, level: float, before: np.ndarray) -> np.ndarray:
    """What comes `before`, the level, and a cool-down: it begins at its first step below the level, and ends at
    `final`."""
    flat = np.full(s.steps - len(before) - s.cooldown, level)
    return np.concatenate([before, flat, _decay(s.shape, level, s.final, s.cooldown)])


def _decays(shape: str) -> Callable[[Schedule], np.ndarray]:
    return lambda s: np.concatenate([s.warm(), _decay(shape, s.peak, s.final, s.after)])


def _infinite(s: Schedule) -> np.ndarray:
    return _flat_then_down(s, s.stable, np.concatenate([s.warm(), _decay("cosine", s.peak, s.stable, s.decay)]))


def _cyclic(s: Schedule) -> np.ndarray:
    ends = np.linspace(0, s.steps, s.cycles + 1).round().astype(int)
    starts = [s.start, *[s.final] * (s.cycles - 1)]
    cycles = zip(starts, np.diff(ends))
    return np.concatenate([
        part for start, n in cycles for part in (s.warm(start), _decay("cosine", s.peak, s.final, n - s.warmup))
    ])  # fmt: skip


KINDS.add("constant", Kind(lambda s: _flat_then_down(s, s.peak, s.warm())))
for _shape in DECAYS:
    KINDS.add(_shape, Kind(_decays(_shape)))
KINDS.add("wsd", Kind(lambda s: _flat_then_down(s, s.peak, s.warm()), ("cooldown",)))
KINDS.add("infinite", Kind(_infinite, ("cooldown", "stable", "decay")))
KINDS.add("cyclic", Kind(_cyclic, ("cycles",)))


def dynamics(
    learning_rates: np.ndarray, before: float | None = None, decay: float = 0.999
) -> tuple[np.ndarray, np.ndarray]:
    """S1 and S2 of the learning-dynamics law (Wang et al. 2025, arXiv 2505.07796) after every step.

    S1(t) = sum of the learning rates; S2(t) = sum_{i<=t} sum_{k<=i} (lr_{k-1} - lr_k) decay^(i-k), negative while
    warming up.

    Args:
      learning_rates: (steps,).
      before: the learning rate before the first step; None says the same as the first.
      decay: lambda of the law.

    Returns:
      lr_sum, lr_anneal: float64 (steps,) each.
    """
    lrs = np.asarray(learning_rates, np.float64)
    drops = -np.diff(lrs, prepend=lrs[0] if before is None else before)
    momentum = np.empty_like(drops)
    level = 0.0
    for i, drop in enumerate(drops):
        level = decay * level + drop
        momentum[i] = level
    return lrs.cumsum(), momentum.cumsum()
