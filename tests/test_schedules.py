import dataclasses

import numpy as np
import pytest

from cptlaw.errors import UserError
from cptlaw.schedules import DECAYS, Schedule, dynamics


def test_shapes_of_the_schedules():
    warm = Schedule(peak=1.0, steps=10, warmup=4, start=0.2).learning_rates()
    np.testing.assert_allclose(warm, [0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1, 1])
    linear = Schedule(1.0, 6, warmup=2, kind="linear", final=0.2).learning_rates()
    np.testing.assert_allclose(linear, [0.5, 1, 0.8, 0.6, 0.4, 0.2])
    cosine = Schedule(1.0, 4, kind="cosine").learning_rates()
    np.testing.assert_allclose(cosine, [(1 + np.cos(np.pi * x)) / 2 for x in (0.25, 0.5, 0.75, 1)])
    wsd = Schedule(1.0, 6, warmup=1, kind="wsd", cooldown=2).learning_rates()
    np.testing.assert_allclose(wsd, [1, 1, 1, 1, 0.5, 0])


def test_an_infinite_schedule_decays_to_its_level_and_cools_down_when_told():
    open_ended = Schedule(1.0, 9, warmup=2, kind="infinite", stable=0.4, decay=2)
    np.testing.assert_allclose(open_ended.learning_rates(), [0.5, 1, 0.7, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4])
    cooled = dataclasses.replace(open_ended, steps=8, cooldown=2)
    np.testing.assert_allclose(cooled.learning_rates(), [0.5, 1, 0.7, 0.4, 0.4, 0.4, 0.2, 0])


def test_a_cyclic_schedule_warms_up_again_from_where_it_ended():
    rates = Schedule(1.0, 9, warmup=1, kind="cyclic", cycles=2, final=0.2, start=0.1).learning_rates()
    down = [0.2 + 0.4 * (1 + np.cos(np.pi * x)) for x in (1 / 3, 2 / 3, 1)]
    np.testing.assert_allclose(rates[:4], [1, *down])
    np.testing.assert_allclose(rates[[4, 6, 8]], [1, 0.6, 0.2])
    two_steps = Schedule(1.0, 8, warmup=2, kind="cyclic", cycles=2, final=0.2, start=0.0).learning_rates()
    np.testing.assert_allclose(two_steps[[0, 1, 3, 4, 5, 7]], [0.5, 1, 0.2, 0.6, 1, 0.2])


@pytest.mark.parametrize("shape, half", [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - 0.5**0.5)])
def test_a_cool_down_has_a_shape(shape, half):
    rates = Schedule(2.0, 4, kind="wsd", cooldown=2, shape=shape).learning_rates()
    np.testing.assert_allclose(rates, [2, 2, 2 * half, 0], atol=1e-12)


@pytest.mark.parametrize("kind", ["wsd", "infinite"])
def test_a_branch_is_its_trunk_until_it_cools_down(kind):
    level = {"stable": 0.3, "decay": 3} if kind == "infinite" else {}
    trunk = Schedule(1.0, 12, 2, "infinite" if level else "constant", **level)
    for steps, cooldown in [(7, 2), (12, 4), (20, 8)]:
        branch = Schedule(1.0, steps, 2, kind, cooldown=cooldown, **level).learning_rates()
        same = steps - cooldown
        np.testing.assert_array_equal(branch[:same], trunk.learning_rates()[:same])
        assert branch.size == steps and branch[same] < branch[same - 1] and branch[-1] == 0


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "sqrt"])
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


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(0.7, 9),
        *(Schedule(0.7, 9, warmup=2, kind=kind, final=0.1, start=0.2) for kind in DECAYS),
        *(Schedule(0.7, 9, warmup=2, kind="wsd", cooldown=4, shape=shape) for shape in DECAYS),
        Schedule(0.7, 9, warmup=2, kind="infinite", stable=0.3, decay=2, cooldown=3, final=0.05),
        Schedule(0.7, 9, warmup=1, kind="cyclic", cycles=2, final=0.1),
    ],
    ids=lambda schedule: f"{schedule.kind}-{schedule.shape}",
)
def test_dynamics_equal_the_double_sum(schedule):
    rates = schedule.learning_rates()
    before = np.array([schedule.start, *rates])
    for t, (lr_sum, lr_anneal) in enumerate(zip(*dynamics(rates, before=schedule.start, decay=0.9))):
        assert lr_sum == pytest.approx(sum(float(rate) for rate in rates[: t + 1]))
        drops = [(before[k] - before[k + 1]) * 0.9 ** (i - k) for i in range(t + 1) for k in range(i + 1)]
        assert lr_anneal == pytest.approx(sum(drops), abs=1e-12)


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"kind": "cosin"}, "one of constant, linear, cosine, sqrt, wsd"),
        ({"warmup": 11}, "do not fit"),
        ({"kind": "wsd"}, "wsd needs cool-down steps"),
        ({"cooldown": 2}, "belong to wsd"),
        ({"kind": "infinite"}, "infinite needs one"),
        ({"kind": "infinite", "stable": 0.1, "warmup": 5, "decay": 6}, "decay 6 .*do not fit"),
        ({"decay": 3}, "decay steps belong to infinite"),
        ({"kind": "cyclic", "cycles": 3, "warmup": 4}, "warm-up 4 x 3"),
        ({"cycles": 2}, "cycles belong to cyclic"),
        ({"kind": "wsd", "cooldown": 2, "shape": "step"}, "one of linear, cosine, sqrt"),
        ({"peak": 0.0}, "positive peak"),
    ],
)
def test_a_wrong_schedule_says_what(fields, says):
    with pytest.raises(UserError, match=says):
        Schedule(**{"peak": 1.0, "steps": 10, **fields})
