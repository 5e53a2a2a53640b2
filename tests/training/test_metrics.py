"""Speeds are what the clock says, and only for devices that are known is there an MFU."""

import pytest

from cptlaw.training import metrics
from cptlaw.training.metrics import Clock, Metrics, Point


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("cpu", None),
    ],
)
def test_peaks_are_known_by_device_kind(kind, peak):
    assert metrics.peak_flops(kind) == peak


@pytest.fixture
def clock(monkeypatch):
    """A clock on two H200, its time set by the test."""
    now = iter(())
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now))

    def at(*seconds):
        nonlocal now
        now = iter(seconds)

    at(0.0)
    clock = Clock(tokens_per_step=1000, flops_per_token=989e9, device_kind="NVIDIA H200", devices=2)
    clock.start(40)
    return clock, at


def test_a_clock_leaves_out_compilation_and_pauses(clock):
    clock, at = clock
    at(20.0)  # ten steps, and the compiler
    assert clock.arrived(50) is None
    at(25.0)
    speed = clock.arrived(60)
    assert (speed.step_seconds, speed.tokens_per_second) == (0.5, 2000.0)
    assert speed.mfu == pytest.approx(2000 * 989e9 / (2 * 989e12))
    assert speed.goodput == pytest.approx(20 * 0.5 / 25)
    at(26.0, 29.0)
    with clock.paused():
        pass
    at(31.0)
    speed = clock.arrived(63)
    assert speed.step_seconds == 1.0 and speed.tokens_per_second == 1000.0
    assert speed.goodput == pytest.approx(23 * (8 / 13) / 31)


def test_what_is_not_known_is_not_recorded():
    point = Point(step=1, tokens=8, lr=0.1, lr_sum=0.1, lr_anneal=0.0, flops=64.0)
    clock = Clock(8, 8.0, "cpu", 1)
    first, second = (Metrics(point, 16.0, 8.0, 1.0, clock.arrived(step)).record() for step in (1, 2))
    assert first == {
        "step": 1, "tokens": 8, "lr": 0.1, "lr_sum": 0.1, "lr_anneal": 0.0, "flops": 64.0, "loss": 2.0, "grad_norm": 1.0
    }  # fmt: skip
    assert second.keys() - first.keys() == {"step_seconds", "tokens_per_second", "goodput"}
