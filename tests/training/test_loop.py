import dataclasses
import functools
import math
import os
import signal

import jax
import numpy as np
import pytest
from tiny_run import CFG, Batches

from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.schedules import Schedule, dynamics
from cptlaw.training import loop, metrics
from cptlaw.training.checkpoints import Checkpoints, CheckpointWarning
from cptlaw.training.guard import Spike, on_sigterm
from cptlaw.training.start import first_state, next_phase
from cptlaw.training.step import Optimizer, make_start

SCHEDULE = Schedule(2e-2, 12, warmup=2, kind="cosine")


@pytest.fixture(scope="module")
def layout():
    return Layout(make_mesh())


def train(layout, **changes):
    events = []
    options = {
        "layout": layout,
        "log_every": 5,
        "log": lambda seen: events.append(("log", seen.point.step, seen.loss)),
        "evaluate": lambda point, params: events.append(("eval", point.step, float(params["embed"].sum()))),
        **changes,
    }
    schedule, batches = options.pop("schedule", SCHEDULE), options.pop("batches", Batches())
    result = loop.train(CFG, schedule, batches, lambda: first_state(CFG, Optimizer(), layout), **options)
    return result, events


def test_a_run_learns_evaluates_and_reports_where_it_is(layout):
    result, events = train(layout, eval_steps=(0, 6, 12))
    assert [(kind, step) for kind, step, _ in events] == [
        ("eval", 0),
        ("log", 5),
        ("eval", 6),
        ("log", 10),
        ("log", 12),
        ("eval", 12),
    ]
    losses = [value for kind, _, value in events if kind == "log"]
    assert losses[-1] < losses[0] < math.log(64) + 0.2
    rates = SCHEDULE.learning_rates()
    lr_sum, lr_anneal = dynamics(rates, before=0.0)
    tokens = 12 * 8 * 16
    flops = tokens * transformer.flops_per_token(CFG, 16)["training"]
    assert result.status == loop.FINISHED
    assert result.point == metrics.Point(12, tokens, rates[-1], lr_sum[-1], lr_anneal[-1], flops)
    assert events[-1][2] == float(result.params["embed"].sum())


def test_metrics_are_read_one_step_late(layout):
    order = []

    class Watched(Batches):
        def batch(self, step, rows=slice(None)):
            order.append(("batch", step + 1))
            return super().batch(step, rows)

    train(layout, batches=Watched(), log=lambda seen: order.append(("log", seen.point.step)))
    assert order.index(("log", 5)) == order.index(("batch", 6)) + 1


def test_sigterm_saves_and_the_next_run_continues(layout, tmp_path):
    whole, _ = train(layout)

    class Preempted(Batches):
        def batch(self, step, rows=slice(None)):
            if step == 6:  # while the checkpoint of step 6 is being written
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(step, rows)

    with Checkpoints(tmp_path, seconds=0.0) as checkpoints, on_sigterm() as asked:
        stopped, _ = train(layout, batches=Preempted(), checkpoints=checkpoints, should_stop=asked)
    assert (stopped.status, stopped.point.step) == (loop.STOPPED, 7)
    with Checkpoints(tmp_path, seconds=None) as checkpoints:
        resumed, events = train(layout, checkpoints=checkpoints, eval_steps=(0, 6, 12))
        assert resumed.status == loop.FINISHED
        assert [step for kind, step, _ in events if kind == "eval"] == [12], "6 was done before the stop"
        n, state = checkpoints.restore(make_start(CFG, Optimizer(), layout)[1])
    assert n == 12
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    jax.tree.map(np.testing.assert_array_equal, state.params, whole.params)


def test_muon_and_an_average_continue_exactly_and_on_any_mesh(layout, tmp_path):
    """The average is that of the weights after each step, computed here from the steps' own weights."""
    cfg, decay = dataclasses.replace(CFG, layers=1), 0.6
    optimizer = Optimizer(kind="muon", ema=decay, moment_dtype="bfloat16", z_loss=1e-2)
    abstract = make_start(cfg, optimizer, layout)[1]
    kept, evaluated = [], []

    def train(steps, place=layout, **options):
        return loop.train(
            cfg,
            Schedule(2e-2, 5),
            Batches(),
            lambda: first_state(cfg, optimizer, place),
            optimizer=optimizer,
            layout=place,
            should_stop=lambda: len(kept) >= steps,
            **options,
        )

    def on_step(step, state):
        kept.append(jax.device_get(state.params))

    def evaluate(point, params):
        evaluated.append((point.step, point.averaged, jax.device_get(params)))

    result = train(9, eval_steps=[0, 5], evaluate=evaluate, on_step=on_step)
    after = [*kept[1:], result.params]
    shares = [(1 - decay) * decay ** (5 - i) / (1 - decay**5) for i in range(1, 6)]
    expected = jax.tree.map(lambda *weights: sum(s * np.float64(w) for s, w in zip(shares, weights)), *after)
    assert [(step, averaged) for step, averaged, _ in evaluated] == [(0, False), (0, True), (5, False), (5, True)]
    jax.tree.map(np.testing.assert_array_equal, evaluated[0][2], evaluated[1][2])
    jax.tree.map(np.testing.assert_array_equal, evaluated[2][2], jax.device_get(result.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), evaluated[3][2], expected)

    kept.clear()
    on_a_mesh, place = [], Layout(make_mesh(2, 2, 2))
    train(9, place, eval_steps=[5], evaluate=lambda point, params: on_a_mesh.append(params))
    for params, (_, _, whole) in zip(on_a_mesh, evaluated[2:], strict=True):
        assert jax.tree.map(lambda x: x.sharding, params) == place.shardings(params)
        for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(whole)):
            assert np.abs(ours).sum() == pytest.approx(np.abs(theirs).sum(), rel=1e-4)

    with Checkpoints(tmp_path) as checkpoints:
        assert train(2, checkpoints=checkpoints, on_step=on_step).status == loop.STOPPED
    with Checkpoints(tmp_path) as checkpoints:
        assert train(9, checkpoints=checkpoints, eval_steps=[5], evaluate=evaluate).status == loop.FINISHED
        _, state = checkpoints.restore(abstract)
    for ours, theirs in [
        (state.params, result.params),
        (state.average, evaluated[3][2]),
        (evaluated[5][2], state.average),
    ]:
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(theirs))
    assert int(next_phase(tmp_path, abstract).step) == 0
    jax.tree.map(np.testing.assert_array_equal, next_phase(tmp_path, abstract).average, state.params)


def test_a_diverging_run_fails_with_its_reason_and_keeps_the_last_sound_state(layout, tmp_path):
    class Poisoned(Batches):
        def batch(self, step, rows=slice(None)):
            batch = super().batch(step, rows)
            if step == 7:
                batch["mask_BT"] = np.where(batch["mask_BT"] > 0, np.float32(np.inf), np.float32(0))
            return batch

    with Checkpoints(tmp_path, seconds=0.0) as checkpoints:
        result, events = train(layout, batches=Poisoned(), checkpoints=checkpoints, eval_steps=(7, 8, 9))
        assert result.status == loop.FAILED
        assert "not finite at step 8" in result.reason and "learning rate" in result.reason
        assert [step for kind, step, _ in events if kind == "eval"] == [7]
        assert checkpoints.restore(make_start(CFG, Optimizer(), layout)[1])[0] == 7


class Confusing(Batches):
    """From the step `at` on, other targets: the loss jumps."""

    at = 16

    def batch(self, step, rows=slice(None)):
        batch = super().batch(step, rows)
        if step >= self.at:
            batch["targets_BT"] = (batch["targets_BT"] + 31) % 64
        return batch


def test_a_loss_spike_stops_the_run_before_it_is_kept(layout, tmp_path):
    spike = Spike(deviations=4.0, patience=2, window=4)
    options = {"batches": Confusing(), "log_every": 1, "schedule": Schedule(2e-2, 20)}
    with Checkpoints(tmp_path, seconds=0.0) as checkpoints:
        result, _ = train(layout, checkpoints=checkpoints, spike=spike, **options)
        assert (result.status, result.point.step) == (loop.FAILED, 18)
        assert "2 times in a row above its median" in result.reason
        assert checkpoints.restore(make_start(CFG, Optimizer(), layout)[1])[0] == 16, "the last before the spike"
    assert train(layout, **options)[0].status == loop.FINISHED, "off unless asked for"


@pytest.mark.parametrize(
    "stops",
    [(1, 2, 3, 11, 16, 17), *(pytest.param(at, marks=pytest.mark.slow) for at in ((4,), (17, 18), (19,)))],
    ids=str,
)
def test_whether_a_run_diverges_does_not_depend_on_when_it_was_stopped(layout, tmp_path, stops):
    """Every second loss counts; the window is full from step 4 on, and steps 18 and 20 are high."""
    spike = Spike(deviations=2.0, patience=2, window=2)
    options = {"batches": Confusing(), "log_every": 2, "schedule": Schedule(2e-2, 24), "spike": spike}
    whole, _ = train(layout, **options)
    assert (whole.status, whole.point.step) == (loop.FAILED, 20)
    with Checkpoints(tmp_path, seconds=0.0) as checkpoints:
        for stop in stops:
            steps = iter(range(1, 30))
            start = checkpoints.restore(make_start(CFG, Optimizer(), layout)[1])
            first = start[0] if start else 0
            asked = functools.partial(lambda first, stop, steps: first + next(steps) >= stop, first, stop, steps)
            result, _ = train(layout, checkpoints=checkpoints, should_stop=asked, **options)
        result, _ = train(layout, checkpoints=checkpoints, **options)
    assert (result.status, result.reason) == (whole.status, whole.reason)


def test_what_a_checkpoint_s_guard_remembers_is_sealed(layout, tmp_path):
    spike, abstract = Spike(window=4), make_start(CFG, Optimizer(), layout)[1]
    with Checkpoints(tmp_path, seconds=0.0) as checkpoints:
        train(layout, checkpoints=checkpoints, spike=spike, log_every=1)
        checkpoints.restore(abstract)
        assert len(checkpoints.memory) == 1 + 4 and checkpoints.memory[0] == 0
        file = tmp_path / "12" / "memory" / "metadata"
        file.write_text(file.read_text().replace(str(checkpoints.memory[-1]), "2.5"))
        with pytest.warns(CheckpointWarning, match="step 12 is damaged .*memory: .*do not agree with their hash"):
            assert checkpoints.restore(abstract)[0] == 11


def test_steps_to_keep_are_saved_and_stay(layout, tmp_path):
    with Checkpoints(tmp_path, recent=1, keep=[3, 8], seconds=None) as checkpoints:
        assert train(layout, checkpoints=checkpoints)[0].status == loop.FINISHED
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [3, 8, 12]


def test_divergence_is_noticed_without_evaluations_or_checkpoints(layout):
    result, _ = train(layout, schedule=Schedule(1e30, 12))
    assert result.status == loop.FAILED and result.point.step in (5, 10)


def test_what_a_step_moves_to_the_device_says_so(layout, monkeypatch):
    monkeypatch.setattr(Layout, "replicate", lambda self, value: value)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(layout)
