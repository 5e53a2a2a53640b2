"""Learning-rate schedules as arrays, and the sums of them that the learning-dynamics law reads.

A schedule is computed on the host in float64, whole: the learning rate enters the compiled step as a number, so
runs with different schedules share one program.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import numpy as np

from cptlaw import fields
from cptlaw.fields import ConfigError, OneOf, above, at_least

# Decays from 1 to 0 over progress from 0 to 1.
DECAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: 0.5 * (1 + np.cos(np.pi * progress)),
    "sqrt": lambda progress: 1 - np.sqrt(progress),
}
KINDS = ("constant", *DECAYS, "wsd", "infinite", "cyclic")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """(Re-)warm-up from `start` to `peak`, then one of `KINDS`. Learning rates are raw; lengths are steps.

      constant   stays at `peak`
      linear, cosine, sqrt   decays to `final` over all steps after the warm-up
      wsd        warm-up, stable, decay: stays at `peak`, then cools down
      infinite   decays (cosine) to `stable` over `decay` steps, stays there, then cools down, if it does
                 (Ibrahim et al. 2024, arXiv 2403.08763)
      cyclic     `cycles` equal cycles, each a (re-)warm-up and a cosine decay to `final`

    A cool-down takes the last `cooldown` steps to `final`, in the form `shape` (one of `DECAYS`; sqrt is 1 - sqrt of
    Haegele et al. 2024, arXiv 2405.18392). Schedules that differ in their cool-down alone are the same until it begins,
    so one long run can be the trunk from which a run of each length branches.

    Attributes:
      start: where the first warm-up starts. Its last step is the first at `peak`.
    """

    peak: Annotated[float, above(0, what="needs a positive peak,")]
    steps: Annotated[int, at_least(1)]
    warmup: Annotated[int, at_least(0)] = 0
    kind: Annotated[str, OneOf(KINDS)] = "constant"
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
        if self.cooldown and self.kind not in ("wsd", "infinite"):
            raise ConfigError("schedule.cooldown", f"cool-down steps belong to wsd and infinite, not to {self.kind}")
        if self.kind == "wsd" and not self.cooldown:
            raise ConfigError("schedule.cooldown", "wsd needs cool-down steps; without them it is constant")
        if (self.kind == "infinite") != (self.stable > 0):
            raise ConfigError("schedule.stable", "a stable learning rate belongs to infinite, and infinite needs one")
        if self.decay and self.kind != "infinite":
            raise ConfigError("schedule.decay", f"decay steps belong to infinite, not to {self.kind}")
        if self.cycles != 1 and self.kind != "cyclic":
            raise ConfigError("schedule.cycles", f"cycles belong to cyclic, not to {self.kind}; leave it at 1")

    def learning_rates(self) -> np.ndarray:
        """The learning rate of every step: float64 (steps,)."""
        if self.kind == "cyclic":
            ends = np.linspace(0, self.steps, self.cycles + 1).round().astype(int)
            starts = [self.start, *[self.final] * (self.cycles - 1)]
            return np.concatenate([self._cycle(start, n) for start, n in zip(starts, np.diff(ends))])
        if self.kind in DECAYS:
            return np.concatenate([self._warm(self.start), _decay(self.kind, self.peak, self.final, self._after)])
        level = self.stable if self.kind == "infinite" else self.peak
        down = _decay("cosine", self.peak, level, self.decay)
        flat = np.full(self._after - self.decay - self.cooldown, level)
        # A cool-down begins at its first step below the level, and its last step is at `final`.
        return np.concatenate(
            [self._warm(self.start), down, flat, _decay(self.shape, level, self.final, self.cooldown)]
        )

    @property
    def _after(self) -> int:
        return self.steps - self.warmup

    def _warm(self, start: float) -> np.ndarray:
        return start + (self.peak - start) * np.arange(1, self.warmup + 1) / max(self.warmup, 1)

    def _cycle(self, start: float, steps: int) -> np.ndarray:
        return np.concatenate([self._warm(start), _decay("cosine", self.peak, self.final, steps - self.warmup)])


def _decay(shape: str, high: float, low: float, steps: int) -> np.ndarray:
    """Progress 0 is the step before and 1 the last step, so that the decay ends at `low`."""
    return low + (high - low) * DECAYS[shape](np.arange(1, steps + 1) / max(steps, 1))


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
