"""Learning-rate schedules as arrays, and the sums of them that the learning-dynamics law reads.

A schedule is computed on the host in float64, whole: the learning rate enters the compiled step as a number, so
runs with different schedules share one program.
"""

import dataclasses

import numpy as np

from cptlaw.errors import UserError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """(Re-)warm-up, then one of `KINDS`. Learning rates are raw; `warmup` and `cooldown` are steps.

    Attributes:
      kind: constant; cosine or linear from `peak` to `final` over all steps after the warm-up; wsd
        (warm-up, stable, decay): constant, then linear to `final` over the last `cooldown` steps.
      start: where the warm-up starts. Its last step is the first at `peak`.
    """

    peak: float
    steps: int
    warmup: int = 0
    kind: str = "constant"
    final: float = 0.0
    start: float = 0.0
    cooldown: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"schedule: one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.steps < 1 or self.peak <= 0:
            raise UserError(f"schedule: needs at least 1 step and a positive peak, not {self.steps} and {self.peak}")
        if min(self.warmup, self.cooldown) < 0 or self.warmup + self.cooldown > self.steps:
            raise UserError(
                f"schedule: warm-up {self.warmup} and cool-down {self.cooldown} do not fit into {self.steps} steps"
            )
        if (self.kind == "wsd") != (self.cooldown > 0):
            raise UserError(
                f"schedule: cool-down steps belong to wsd, and wsd needs them ({self.kind}, {self.cooldown})"
            )

    def learning_rates(self) -> np.ndarray:
        """The learning rate of every step: float64 (steps,)."""
        warm = self.start + (self.peak - self.start) * np.arange(1, self.warmup + 1) / max(self.warmup, 1)
        after = self.steps - self.warmup
        # Progress 0 is the last warm-up step and 1 the last step, so that the schedule ends at `final`.
        return np.concatenate([warm, KINDS[self.kind](self, np.arange(1, after + 1) / max(after, 1))])


def _constant(schedule: Schedule, progress: np.ndarray) -> np.ndarray:
    return np.full_like(progress, schedule.peak)


def _cosine(schedule: Schedule, progress: np.ndarray) -> np.ndarray:
    return schedule.final + (schedule.peak - schedule.final) * 0.5 * (1 + np.cos(np.pi * progress))


def _linear(schedule: Schedule, progress: np.ndarray) -> np.ndarray:
    return schedule.peak + (schedule.final - schedule.peak) * progress


def _wsd(schedule: Schedule, progress: np.ndarray) -> np.ndarray:
    left = np.arange(progress.size - 1, -1, -1)
    return schedule.final + (schedule.peak - schedule.final) * np.minimum(1.0, left / schedule.cooldown)


KINDS = {"constant": _constant, "cosine": _cosine, "linear": _linear, "wsd": _wsd}


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
