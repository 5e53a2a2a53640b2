"""What training measures of itself: its loss, and how fast and how well it uses the machine."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator
from typing import Any

# Dense bfloat16 FLOP/s of one JAX device by the words that `device.device_kind` begins with; the longest match counts.
# From the vendors' data sheets, without sparsity. A chip of TPU v2, v3 and 7x is two devices.
PEAK_FLOPS = {
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA GB200": 2500e12,
}


def peak_flops(device_kind: str) -> float | None:
    """A device's bfloat16 FLOP/s, or None when the table does not know it."""
    known = [name for name in PEAK_FLOPS if re.match(rf"{re.escape(name)}\b", device_kind)]
    return PEAK_FLOPS[max(known, key=len)] if known else None


@dataclasses.dataclass(frozen=True)
class Point:
    """Where a run is: columns of the runs table.

    Attributes:
      step, tokens: how many are done.
      lr: the learning rate of the last step.
      lr_sum, lr_anneal: S1 and S2 of the learning-dynamics law up to here (see `schedules.dynamics`).
      flops: training FLOPs spent.
      averaged: whether what is evaluated here is the average of the weights, not the weights (`Optimizer.ema`).
    """

    step: int
    tokens: int
    lr: float
    lr_sum: float
    lr_anneal: float
    flops: float
    averaged: bool = False


@dataclasses.dataclass(frozen=True)
class Speed:
    """Averages since the metrics before.

    Attributes:
      step_seconds: wall clock of a step; evaluations and saves are not in it.
      mfu: model FLOPs utilisation, the share of the devices' peak FLOPs that the model's own FLOPs are (recomputation
        not counted); None for devices of unknown peak.
      goodput: share of this process's wall clock that went into steps, the rest being start, compilation, evaluations
        and saves.
    """

    step_seconds: float
    tokens_per_second: float
    mfu: float | None
    goodput: float


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What the step that led to `point` measured before its update.

    Attributes:
      nats, count: the sum of the losses of the batch, and the number of tokens that it is over.
      grad_norm: the gradient's global norm, before clipping.
      speed: None at the first metrics of a process, because compilation took most of that time.
    """

    point: Point
    nats: float
    count: float
    grad_norm: float
    speed: Speed | None = None

    @property
    def loss(self) -> float:
        return self.nats / self.count if self.count else math.nan

    def record(self) -> dict[str, Any]:
        """Flat, for a writer: what is not known is left out."""
        at = {**dataclasses.asdict(self.point), "averaged": None}  # a step has no part in an average
        speed = dataclasses.asdict(self.speed) if self.speed else {}
        record = {**at, "loss": self.loss, "grad_norm": self.grad_norm, **speed}
        return {name: value for name, value in record.items() if value is not None}


class Clock:
    """Times steps by the moments at which their metrics arrive on the host."""

    def __init__(self, tokens_per_step: int, flops_per_token: float, device_kind: str, devices: int):
        peak = peak_flops(device_kind)
        self._tokens = tokens_per_step
        # Tokens/s times this is the MFU.
        self._utilisation = None if peak is None else flops_per_token / (peak * devices)
        self._begin = time.perf_counter()
        self._paused = self._seconds = 0.0
        self._first = self._last = 0
        self._at: float | None = None

    def start(self, step: int) -> None:
        """`step` is the number of steps that were done before."""
        self._first = step

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is not a step. The device has nothing queued when it begins."""
        begin = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begin

    def arrived(self, step: int) -> Speed | None:
        """Called with each step whose metrics arrive, in order."""
        now = time.perf_counter()
        if self._at is None:
            speed, self._counted = None, step
        else:
            seconds = now - self._at - self._paused
            self._seconds += seconds
            rate = self._tokens * (step - self._last) / seconds
            mean = self._seconds / (step - self._counted)
            speed = Speed(
                step_seconds=seconds / (step - self._last),
                tokens_per_second=rate,
                mfu=None if self._utilisation is None else rate * self._utilisation,
                # The steps before the first metrics are taken to have lasted as long as the others.
                goodput=min(1.0, mean * (step - self._first) / (now - self._begin)),
            )
        self._at, self._last, self._paused = now, step, 0.0
        return speed
