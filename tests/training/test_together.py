"""Runs trained together are the runs that they would be alone, also when stopped and continued."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from tiny_run import CFG, Batches

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.schedules import Schedule
from cptlaw.training import loop, together
from cptlaw.training.checkpoints import Checkpoints, saved_steps
from cptlaw.training.guard import Spike
from cptlaw.training.loop import Member
from cptlaw.training.start import first_state
from cptlaw.training.step import Optimizer

ONE = Layout(make_mesh(devices=jax.devices()[:1]))
# A large eps, because Adam's step for a gradient near zero is as large as for any other, whatever its sign.
ADAMW = Optimizer(eps=1e-3, ema=0.5)


class Shifted(Batches):
    """Another run's data."""

    def __init__(self, by):
        self.by = by

    def batch(self, step, rows=slice(None)):
        return super().batch(step + self.by, rows)


MEMBERS = [
    Member(
        Schedule(1e-2 / (1 + seed), 6, warmup=2),
        Shifted(100 * seed),
        lambda seed=seed: first_state(CFG, ADAMW, ONE, seed=seed),
    )
    for seed in range(4)
]


def run(members=MEMBERS, **options):
    seen = []
    results = together.train_all(
        CFG, members, optimizer=ADAMW, log_every=2, log=lambda *args: seen.append(args), **options
    )
    return results, seen


def saving(stack, directory, members=MEMBERS, **options):
    """The same members with checkpoints."""
    return [
        dataclasses.replace(member, checkpoints=stack.enter_context(Checkpoints(directory / str(i), **options)))
        for i, member in enumerate(members)
    ]


def run_alone(i, **options):
    seen, member = [], MEMBERS[i]
    result = loop.train(
        CFG,
        member.schedule,
        member.batches,
        member.init,
        optimizer=ADAMW,
        layout=ONE,
        log_every=2,
        log=seen.append,
        **options,
    )
    return result, seen


def summary(point, params):
    return point.step, point.averaged, float(params["embed"].sum())


def assert_same(params, others):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, others)


def test_together_equals_alone_and_continues(tmp_path):
    measured = []
    with contextlib.ExitStack() as stack:
        members = saving(stack, tmp_path, seconds=None)
        asked = iter([False, False, True])
        stopped, before = run(members, should_stop=lambda: next(asked))
        assert {(result.status, result.point.step) for result in stopped} == {(loop.STOPPED, 3)}
        results, after = run(
            members,
            eval_steps=[0, 6],
            evaluate=lambda i, *evaluated: measured.append((i, *summary(*evaluated))),
        )
    seen = {(i, metrics.point.step): metrics for i, metrics in before + after}
    for i in range(len(MEMBERS)):
        own = []
        result, alone = run_alone(
            i, eval_steps=[6], evaluate=lambda *evaluated, own=own: own.append(summary(*evaluated))
        )
        for ours, theirs in zip([rest for run, *rest in measured if run == i], own, strict=True):
            assert ours == pytest.approx(list(theirs), rel=1e-4)
        assert results[i].point == result.point and results[i].status == loop.FINISHED
        for metrics in alone:
            assert seen[i, metrics.point.step].loss == pytest.approx(metrics.loss, rel=1e-5)
        assert_same(results[i].params, result.params)
    assert [tuple(one[:3]) for one in measured] == [(i, 6, averaged) for averaged in (False, True) for i in range(4)]
    assert measured[2][3] == pytest.approx(float(results[2].params["embed"].sum()))
    assert measured[2][3] != pytest.approx(measured[6][3], rel=1e-3), "an average differs from the weights"


def test_a_run_changes_between_its_program_and_its_own(tmp_path):
    """What is on disk is each run's own: stopped together, one goes on alone, and the rest, begun alone, together."""
    whole = [run_alone(i)[0] for i in range(len(MEMBERS))]
    with contextlib.ExitStack() as stack:
        members = saving(stack, tmp_path, seconds=None)
        asked = iter([False, True])
        run(members, should_stop=lambda: next(asked))
        last, _ = run_alone(3, checkpoints=members[3].checkpoints)
        assert_same(last.params, whole[3].params)
        asked = iter([True])
        run_alone(2, checkpoints=members[2].checkpoints, should_stop=lambda: next(asked))
        with pytest.raises(UserError, match=r"go on from the same step, not \[2, 3\]"):
            run(members[:3])
        results, _ = run(members[:2])
    for result, alone in zip(results, whole):
        assert_same(result.params, alone.params)


def test_a_high_loss_keeps_its_run_from_being_saved_and_no_other(tmp_path):
    """The spike rule is each run's own."""
    spike = Spike(deviations=0.0, patience=9, window=1)
    rising = dataclasses.replace(MEMBERS[1], schedule=Schedule(10.0, 6))
    with contextlib.ExitStack() as stack:
        members = saving(stack, tmp_path, [MEMBERS[0], rising], seconds=0.0, recent=9)
        losses = {}
        together.train_all(
            CFG,
            members,
            optimizer=ADAMW,
            log_every=1,
            log=lambda i, metrics: losses.setdefault(i, []).append(metrics.loss),
            spike=spike,
        )
    assert losses[1][2] > losses[1][0], "it does not rise"
    assert saved_steps(tmp_path / "0") != saved_steps(tmp_path / "1")
    assert saved_steps(tmp_path / "0")[-1] == 6


def test_runs_that_no_device_number_divides_fill_the_devices():
    """Eleven runs on eight devices: two on each of six, the last of them there twice."""
    members = [dataclasses.replace(MEMBERS[i % 4], schedule=Schedule(1e-2 / (1 + i), 6, warmup=2)) for i in range(11)]
    results, _ = run(members)
    assert len(results) == 11
    for i in (0, 4, 10):
        same, _ = run(members[i : i + 1])
        assert_same(results[i].params, same[0].params)


@pytest.mark.parametrize(
    "layers, d_model, vocab, batch, kind, gib, runs",
    [
        (
            4,
            128,
            1024,
            4,
            "NVIDIA H100 80GB HBM3",
            60,
            together._MOST,
        ),  # 1M, 512 tokens a step: launches, no arithmetic
        (6, 512, 50304, 64, "NVIDIA H100 80GB HBM3", 60, 1),  # 70M: it fills the device by itself
        (4, 256, 1024, 16, "an unknown device", 60, 4),
        (4, 128, 1024, 4, "NVIDIA H100 80GB HBM3", 0.5, 5),  # memory decides
    ],
)
def test_the_number_follows_from_size_and_memory(monkeypatch, layers, d_model, vocab, batch, kind, gib, runs):
    class Device:
        platform, device_kind, client = "gpu", kind, jax.devices()[0].client

        def memory_stats(self):
            return {"bytes_limit": gib * 2**30}

    seq_len = 2048 if runs == 1 else 128
    cfg = transformer.Config(vocab, d_model=d_model, layers=layers, heads=4, kv_heads=4, d_ff=4 * d_model)
    assert together.most(cfg, Optimizer(), batch, seq_len) == 1, "a CPU has no launches to hide"
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert together.most(cfg, Optimizer(), batch, seq_len) == runs


def test_each_device_trains_whole_runs():
    assert [together.make_mesh(runs).size for runs in (1, 2, 5, 8, 9, 12, 16)] == [1, 2, 5, 8, 5, 6, 8]


def test_one_that_diverges_fails_alone():
    wild = Member(Schedule(1e30, 6), MEMBERS[1].batches, MEMBERS[1].init)
    results = together.train_all(CFG, [MEMBERS[0], wild, *MEMBERS[2:]], optimizer=ADAMW, log_every=1)
    assert [result.status for result in results] == ["finished", "failed", "finished", "finished"]
    assert "not finite" in results[1].reason


def test_nothing_is_trained_when_all_have_diverged():
    wild = [Member(Schedule(1e30, 60), member.batches, member.init) for member in MEMBERS]
    steps = []
    results = together.train_all(
        CFG, wild, optimizer=ADAMW, log_every=1, on_step=lambda step, state: steps.append(step)
    )
    assert {result.status for result in results} == {"failed"} and max(steps) < 10


def test_one_whose_evaluation_is_no_number_fails_alone():
    def evaluate(run, point, params):
        if run == 2:
            raise FloatingPointError("the code loss is nan after step 3")

    results, _ = run(eval_steps=[3], evaluate=evaluate)
    assert [result.status for result in results] == ["finished", "finished", "failed", "finished"]
    assert results[2].reason == "the code loss is nan after step 3" and results[2].point.step == 3


def test_runs_of_other_lengths_do_not_fit():
    longer = Member(Schedule(1e-2, 7), MEMBERS[0].batches, MEMBERS[0].init)
    with pytest.raises(UserError, match="the same steps"):
        together.train_all(CFG, [*MEMBERS, longer])
