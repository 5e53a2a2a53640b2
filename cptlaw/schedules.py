"""Learning-rate schedules as arrays, and the sums of them that the learning-dynamics law reads.

A schedule is computed on the host in float64, whole: the learning rate enters the compiled step as a number, so
runs with different schedules share one program.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from cptlaw.errors import UserError

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
    Haegele et al. 2024, arXiv 2405.18392). Until it begins, schedules that differ in it alone are the same: one long
    run serves as the trunk of a branch for each length (`branched`).

    Attributes:
      start: where the first warm-up starts. Its last step is the first at `peak`.
    """

    peak: float
    steps: int
    warmup: int = 0
    kind: str = "constant"
    final: float = 0.0
    start: float = 0.0
    cooldown: int = 0
    shape: str = "linear"
    stable: float = 0.0
    decay: int = 0
    cycles: int = 1

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"schedule: one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.shape not in DECAYS:
            raise UserError(f"schedule: a cool-down is one of {', '.join(DECAYS)}, not {self.shape!r}")
        if self.steps < 1 or self.peak <= 0:
            raise UserError(f"schedule: needs at least 1 step and a positive peak, not {self.steps} and {self.peak}")
        before = self.warmup * self.cycles + self.decay
        if min(self.warmup, self.decay, self.cooldown) < 0 or before + self.cooldown > self.steps:
            raise UserError(
                f"schedule: warm-up {self.warmup}{f' x {self.cycles}' if self.cycles != 1 else ''}, decay {self.decay} "
                f"and cool-down {self.cooldown} do not fit into {self.steps} steps"
            )
        if self.cooldown and self.kind not in ("wsd", "infinite"):
            raise UserError(f"schedule: cool-down steps belong to wsd and infinite, not to {self.kind}")
        if self.kind == "wsd" and not self.cooldown:
            raise UserError("schedule: wsd needs cool-down steps; without them it is constant")
        if (self.kind == "infinite") != (self.stable > 0):
            raise UserError("schedule: a stable learning rate belongs to infinite, and infinite needs one")
        if self.decay and self.kind != "infinite":
            raise UserError(f"schedule: decay steps belong to infinite, not to {self.kind}")
        if self.cycles < 1 or (self.cycles != 1 and self.kind != "cyclic"):
            raise UserError(f"schedule: cycles belong to cyclic and are positive, not {self.cycles} of {self.kind}")

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

    def branched(self, steps: int, cooldown: int) -> "Schedule":
        """This schedule as it would be with `steps` steps, the last `cooldown` of them a cool-down.

        Raises UserError for a schedule that has no level to cool down from, or has not reached it by then.
        """
        if self.kind not in ("constant", "wsd", "infinite"):
            raise UserError(f"schedule: cool-down branches start from constant, wsd or infinite, not from {self.kind}")
        kind = "infinite" if self.kind == "infinite" else "wsd"
        return dataclasses.replace(self, kind=kind, steps=steps, cooldown=cooldown)

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
