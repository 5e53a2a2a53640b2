"""What watches over training: rules that end a run, requests to stop, stalls, and the profiler."""

import collections
import contextlib
import dataclasses
import faulthandler
import itertools
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cptlaw.fields import above, at_least
from cptlaw.training.metrics import Metrics

OnStep = Callable[[int, Any], Any]


@dataclasses.dataclass(frozen=True)
class Spike:
    """A loss is high when it exceeds the median of the last `window` reported ones that were not by `deviations`
    robust standard deviations (1.4826 times the median absolute deviation). `patience` high ones in a row end the run.

    A reported loss is that of one step, every `log_every`. No loss is high before `window` are known.

    Attributes:
      deviations: robust standard deviations above the median, from which on a loss is high.
      patience: high losses in a row that end the run.
      window: reported losses that the median is of.
    """

    deviations: Annotated[float, above(0)] = 8.0
    patience: Annotated[int, at_least(1)] = 3
    window: Annotated[int, at_least(2)] = 50


class Diverged(Exception):
    """The run is of no use any more; its message is the reason."""

    def __init__(self, metrics: Metrics, what: str):
        point = metrics.point
        super().__init__(
            f"{what} at step {point.step} (loss {metrics.loss:.4g}, gradient norm {metrics.grad_norm:.4g}, learning "
            f"rate {point.lr:.3g}); lower the peak learning rate or warm up longer"
        )
        self.point = point


class Guard:
    """Sees a run's metrics in order.

    What it remembers is saved with every checkpoint (`memory`), so that a resumed run diverges exactly when the run
    would have that was never interrupted.

    Attributes:
      sound: whether the last loss was not high, and no high one that counts came directly before it: only a sound
        state is worth keeping.
    """

    def __init__(self, spike: Spike | None):
        self._spike = spike
        self._losses = collections.deque[float](maxlen=spike.window if spike else 0)
        self._high = 0
        self.sound = True

    def memory(self) -> list[float]:
        """What `recall` takes: the number of high losses in a row, and the losses of the window, oldest first."""
        return [float(self._high), *self._losses]

    def recall(self, memory: Sequence[float]) -> None:
        """Goes on from the memory of another guard. A shorter window takes the last losses of a longer one."""
        if self._spike is not None and memory:
            self._high = int(memory[0])
            self._losses.extend(memory[1:])
            self.sound = self._high == 0

    def check(self, metrics: Metrics, counts: bool = True) -> None:
        """Raises Diverged when the loss or its gradient is no number, or the spike rule says so.

        A loss that does not `count` leaves the rule's memory as it is. Such are the losses that are looked at because
        a checkpoint is due: its time depends on the machine, and whether a run diverges must not.
        """
        if not (math.isfinite(metrics.nats) and math.isfinite(metrics.grad_norm)):
            raise Diverged(metrics, "the loss or its gradient is not finite")
        if self._spike is None or not metrics.count:
            return
        high = self._is_high(metrics.loss, self._spike)
        if counts and high:
            self._high += 1
            if self._high >= self._spike.patience:
                median = statistics.median(self._losses)
                raise Diverged(metrics, f"the loss is {self._high} times in a row above its median of {median:.4g}")
        elif counts:
            self._high = 0
            self._losses.append(metrics.loss)
        self.sound = self._high == 0 and not high

    def _is_high(self, loss: float, spike: Spike) -> bool:
        if len(self._losses) < spike.window:
            return False
        median = statistics.median(self._losses)
        deviation = 1.4826 * statistics.median(abs(seen - median) for seen in self._losses)
        return loss > median + spike.deviations * deviation


@contextlib.contextmanager
def on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yields a `should_stop` that turns true at SIGTERM, as clusters send before they take a machine back.

    Only the main thread may use it. Of several processes, JAX's own handler tells all: see `agree`.
    """
    if jax.process_count() > 1:
        yield lambda: False
        return
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


_CALLS = itertools.count(1)  # of `agree`, which all processes call together


def agree(stop: bool, due: bool, together: bool) -> tuple[bool, bool]:
    """Whether to stop after this step, and to save: what any process says, all do.

    SIGTERM to any of several processes makes all of them stop after the same step. What one of them says by itself
    is heard at steps at which they come `together` anyway.
    """
    if jax.process_count() == 1:
        return stop, due
    # A count of calls, not the run's step: JAX refuses a number it has passed, and a second run starts at step 0.
    preempted = multihost_utils.reached_preemption_sync_point(next(_CALLS))
    if together:
        stop, due = (bool(said) for said in multihost_utils.process_allgather(np.array([stop, due])).any(axis=0))
    else:
        stop = due = False
    return stop or preempted, due


@contextlib.contextmanager
def stall_watch(path: Path, seconds: float) -> Iterator[OnStep]:
    """Yields a function to call at every step; when it is not for `seconds`, all threads' stacks go to `path`.

    And again every `seconds`, so that two dumps tell a slow step from a stuck one. 0 seconds: never.
    """
    if not seconds:
        yield lambda step, state: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        armed = -math.inf

        def beat(step: int, state: Any) -> None:
            nonlocal armed
            now = time.monotonic()
            if now - armed > seconds / 10:  # arming starts a thread, which is much for a small model's step
                faulthandler.dump_traceback_later(seconds, repeat=True, file=file)
                armed = now

        try:
            yield beat
        finally:
            faulthandler.cancel_dump_traceback_later()
            if not path.stat().st_size:
                path.unlink()


@contextlib.contextmanager
def profiler(directory: Path, first: int, last: int) -> Iterator[OnStep]:
    """Yields a function to call before every step; steps `first` to `last` are traced into `directory`, if last > 0.

    The trace is for `tensorboard --logdir` with its profile plugin, or Perfetto.
    """
    tracing = False

    def stop(state: Any) -> None:
        nonlocal tracing
        if tracing:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            tracing = False

    def at(step: int, state: Any) -> None:
        nonlocal tracing
        if step > last:
            stop(state)
        elif step >= first and not tracing:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(directory))
            tracing = True

    try:
        yield at
    finally:
        stop(None)
