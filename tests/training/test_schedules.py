import numpy as np
import pytest

from cptlaw.errors import UserError
from cptlaw.training.schedules import Schedule, dynamics


def test_shapes_of_the_schedules():
    warm = Schedule(peak=1.0, steps=10, warmup=4, start=0.2).learning_rates()
    np.testing.assert_allclose(warm, [0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1, 1])
    linear = Schedule(1.0, 6, warmup=2, kind="linear", final=0.2).learning_rates()
    np.testing.assert_allclose(linear, [0.5, 1, 0.8, 0.6, 0.4, 0.2])
    cosine = Schedule(1.0, 4, kind="cosine").learning_rates()
    np.testing.assert_allclose(cosine, [(1 + np.cos(np.pi * x)) / 2 for x in (0.25, 0.5, 0.75, 1)])
    wsd = Schedule(1.0, 6, warmup=1, kind="wsd", cooldown=2).learning_rates()
    np.testing.assert_allclose(wsd, [1, 1, 1, 1, 0.5, 0])


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear"])
def test_warm_up_alone_is_a_schedule(kind):
    np.testing.assert_allclose(Schedule(1.0, 2, warmup=2, kind=kind).learning_rates(), [0.5, 1])


def test_dynamics_equal_the_published_vectors():
    # 16k constant steps at 2e-4, then 4k linear to 0 (reference sheet of the learning-dynamics law).
    rates = Schedule(2e-4, 20_000, kind="wsd", cooldown=4_000).learning_rates()
    lr_sum, lr_anneal = dynamics(rates)
    assert lr_sum[-1] == pytest.approx(3.600, abs=1e-3) and lr_anneal[-1] == pytest.approx(0.151, abs=5e-4)
    old = 3.057 + 0.490 * lr_sum[-1] ** -0.497 - 0.299 * lr_anneal[-1]
    assert old == pytest.approx(3.2711, abs=1e-4)
    # ... then 10k steps of continual pre-training, 500 of them warm-up, linear to 0.
    cpt = Schedule(1e-4, 10_000, warmup=500, kind="linear").learning_rates()
    s1, s2 = (x[-1] for x in dynamics(cpt, before=0.0))
    old_after = 3.057 + 0.490 * (lr_sum[-1] + s1) ** -0.497 + 0.366 * (1 - (1 + 28 * s1) ** -0.189)
    assert old_after - 0.299 * lr_anneal[-1] - 0.298 * s2 == pytest.approx(3.405, abs=1e-3)


def test_dynamics_equal_the_double_sum():
    rates = np.array([0.3, 0.7, 0.5, 0.1])
    before = np.array([0.2, *rates])
    sums = [
        sum((before[k] - before[k + 1]) * 0.9 ** (i - k) for i in range(t + 1) for k in range(i + 1)) for t in range(4)
    ]
    np.testing.assert_allclose(dynamics(rates, before=0.2, decay=0.9)[1], sums)


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"kind": "cosin"}, "one of constant, cosine"),
        ({"warmup": 11}, "do not fit"),
        ({"kind": "wsd"}, "wsd needs them"),
        ({"cooldown": 2}, "belong to wsd"),
        ({"peak": 0.0}, "positive peak"),
    ],
)
def test_a_wrong_schedule_says_what(fields, says):
    with pytest.raises(UserError, match=says):
        Schedule(**{"peak": 1.0, "steps": 10, **fields})
