"""What ends a run, asks it to stop, and watches it."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import pytest

from cptlaw.training import guard
from cptlaw.training.guard import Diverged, Guard, Spike
from cptlaw.training.metrics import Metrics, Point


def metrics(step, loss):
    return Metrics(Point(step, 8 * step, 1e-3, 0.0, 0.0, 0.0), nats=8 * loss, count=8.0, grad_norm=1.0)


def fed(losses, **rule):
    seen = Guard(Spike(**{"deviations": 4.0, "patience": 2, "window": 5, **rule}))
    for step, loss in enumerate(losses, 1):
        seen.check(metrics(step, loss))
    return seen


NOISE = [3.0, 3.1, 2.9, 3.05, 2.95]  # median 3, robust deviation 0.074


def test_a_spike_is_high_against_the_median_that_it_does_not_move():
    assert fed([*NOISE, 3.29]).sound
    assert not fed([*NOISE, 3.31]).sound
    assert fed([*NOISE, 9.0, 3.0]).sound, "once is an outlier"
    assert fed([*NOISE, 9.0, 3.0, 9.0, 3.0]).sound
    with pytest.raises(Diverged, match=r"2 times in a row above its median of 3 at step 7 \(loss 9"):
        fed([*NOISE, 9.0, 9.0])
    assert fed([2.9, 3.0, 9.0, 9.0]).sound, "nothing is high before the window is full"


def test_falling_losses_are_no_spikes_and_without_a_rule_nothing_is():
    fed([8 / (1 + i) + (-1) ** i * 0.1 for i in range(100)])
    off = Guard(None)
    for step, loss in enumerate([*NOISE, 50.0, 50.0, 50.0], 1):
        off.check(metrics(step, loss))
    with pytest.raises(Diverged, match=r"not finite at step 9 .*lower the peak learning rate"):
        off.check(metrics(9, float("nan")))


def test_sigterm_asks_to_stop():
    before = signal.getsignal(signal.SIGTERM)
    with guard.on_sigterm() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stalled_step_leaves_its_stack(tmp_path):
    path = tmp_path / "run" / "stalls.txt"
    with guard.stall_watch(path, 0.05) as beat:
        beat(1, None)
        deadline = time.monotonic() + 60
        while "test_a_stalled_step" not in path.read_text():
            assert time.monotonic() < deadline, "no stack was written"
            time.sleep(0.01)
    with guard.stall_watch(tmp_path / "none.txt", 1000.0) as beat:
        beat(1, None)
    assert not (tmp_path / "none.txt").exists(), "nothing stalled"
    with guard.stall_watch(tmp_path / "none.txt", 0) as beat:
        beat(1, None)
    assert not (tmp_path / "none.txt").exists()


def test_a_range_of_steps_is_traced(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append(path))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    for first, last, steps, expected in [
        (2, 3, range(1, 6), ["start 2", "stop 4"]),
        (2, 3, range(3, 6), ["start 3", "stop 4"]),  # resumed within the range
        (2, 9, range(1, 4), ["start 2", "stop end"]),  # ended within it
        (0, 0, range(1, 4), []),
    ]:
        seen = []
        with guard.profiler(tmp_path, first, last) as at:
            for step in steps:
                at(step, jnp.zeros(()))
                seen += [f"{'stop' if call == 'stop' else 'start'} {step}" for call in calls]
                calls.clear()
        seen += ["stop end" for _ in calls]
        calls.clear()
        assert seen == expected
