"""Runs trained together are the runs that they would be alone, also when stopped and continued."""

import jax
import numpy as np
import pytest
from tiny_run import CFG, Batches

from cptlaw.errors import UserError
from cptlaw.training import loop, together
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.schedules import Schedule
from cptlaw.training.sharding import Layout, make_mesh
from cptlaw.training.start import first_state
from cptlaw.training.step import Optimizer
from cptlaw.training.together import Member

ONE = Layout(make_mesh(devices=jax.devices()[:1]))
# A large eps, because Adam's step for a gradient near zero is as large as for any other, whatever its sign.
ADAMW = Optimizer(eps=1e-3)


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


def run(**options):
    seen = []
    results = together.train(CFG, MEMBERS, optimizer=ADAMW, log_every=2, log=lambda *args: seen.append(args), **options)
    return results, seen


def test_together_equals_alone_and_continues(tmp_path):
    measured = []
    with Checkpoints(tmp_path, seconds=None) as checkpoints:
        asked = iter([False, False, True])
        stopped, before = run(checkpoints=checkpoints, should_stop=lambda: next(asked))
        assert {(result.status, result.point.step) for result in stopped} == {(loop.STOPPED, 3)}
        results, after = run(
            checkpoints=checkpoints,
            eval_steps=[0, 6],
            evaluate=lambda i, point, params: measured.append((i, point.step, float(params["embed"].sum()))),
        )
    seen = {(i, metrics.point.step): metrics for i, metrics in before + after}
    for i, member in enumerate(MEMBERS):
        alone = []
        result = loop.train(
            CFG,
            member.schedule,
            member.batches,
            member.init,
            optimizer=ADAMW,
            layout=ONE,
            log_every=2,
            log=alone.append,
        )
        assert results[i].point == result.point and results[i].status == loop.FINISHED
        for metrics in alone:
            assert seen[i, metrics.point.step].loss == pytest.approx(metrics.loss, rel=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), results[i].params, result.params
        )
    assert [(i, step) for i, step, _ in measured] == [(i, 6) for i in range(4)]
    assert measured[2][2] == pytest.approx(float(results[2].params["embed"].sum()))


def test_one_that_diverges_fails_alone():
    wild = Member(Schedule(1e30, 6), MEMBERS[1].batches, MEMBERS[1].init)
    results = together.train(CFG, [MEMBERS[0], wild, *MEMBERS[2:]], optimizer=ADAMW, log_every=1)
    assert [result.status for result in results] == ["finished", "failed", "finished", "finished"]
    assert "not finite" in results[1].reason


def test_runs_of_other_lengths_do_not_fit():
    longer = Member(Schedule(1e-2, 7), MEMBERS[0].batches, MEMBERS[0].init)
    with pytest.raises(UserError, match="the same steps"):
        together.train(CFG, [*MEMBERS, longer])
