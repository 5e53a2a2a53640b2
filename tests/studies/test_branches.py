"""One long run and short cool-downs from it give what a run of its own for every length would give."""

import dataclasses
import json

import pandas as pd
import pytest

from cptlaw.errors import UserError
from cptlaw.execution import sweep, worker
from cptlaw.execution.rundir import RunDir
from cptlaw.schedules import Schedule, dynamics
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid

DATA = {"prose": "p", "code": "c"}
PEAK = 1e-2


def planned(make_config, **changes):
    study = config_lib.parse(make_config(**{"cpt__branch_cooldown": 0.5, **changes}))
    return [run for run in grid.plan(study, 32, DATA) if run.size == "small" and "prose-s0" not in run.id]


def test_a_branch_for_every_evaluation_shares_one_trunk(make_config):
    base, trunk, short, long = planned(make_config)
    assert (trunk.init, trunk.trunk, trunk.eval_tokens, trunk.keep_tokens) == (base.id, None, (), (64, 128))
    assert trunk.tokens == 128 and trunk.phase.schedule == "constant"
    for branch, tokens in [(short, 128), (long, 256)]:
        assert branch.needs == (base.id, trunk.id) and branch.eval_tokens == (tokens,)
        assert branch.first_token == tokens // 2
        assert branch.schedule() == dataclasses.replace(
            trunk.schedule(), kind="wsd", steps=tokens // 64, cooldown=tokens // 128
        )
    assert long.flops() == 2 * short.flops(), "what its trunk has done is not counted again"


def test_branches_measure_what_whole_runs_would(make_config, workdir):
    runs = planned(make_config)
    trunk, *branches = runs[1:]
    for run in runs:
        assert worker.train_run(run, workdir)
    table = sweep.collect(runs, workdir)
    assert table["run"].unique().tolist() == [trunk.id]
    assert table["tokens"].tolist() == [0, 0, 128, 128, 256, 256]
    for branch, (_, rows) in zip(branches, table[table["tokens"] > 0].groupby("tokens")):
        rates = Schedule(PEAK, branch.tokens // 64, 1, "wsd", cooldown=branch.tokens // 128).learning_rates()
        lr_sum, lr_anneal = dynamics(rates, before=0.0)
        assert (rows["lr"] == rates[-1]).all() and (rows["lr_sum"] == lr_sum[-1]).all()
        assert (rows["lr_anneal"] == lr_anneal[-1]).all()

        whole = dataclasses.replace(branch, id=f"whole-{branch.tokens}", trunk=None)
        assert worker.train_run(whole, workdir)
        alone = pd.DataFrame(RunDir(workdir, whole).rows()).query("tokens > 0")
        pd.testing.assert_frame_equal(
            rows.drop(columns="run").reset_index(drop=True), alone.drop(columns="run").reset_index(drop=True)
        )
    kept = {int(path.name) for path in RunDir(workdir, trunk).checkpoints.iterdir()}
    assert kept == {1, 2} and not RunDir(workdir, branches[0]).checkpoints.exists()

    finished = RunDir(workdir, branches[1]).path / "result.json"
    finished.write_text(json.dumps({"state": "failed", "reason": "may be tried again"}))
    sweep.sweep(runs, workdir, progress=False)
    assert RunDir(workdir, trunk).checkpoints.exists()
    finished.write_text(json.dumps({"state": "finished", "spent": {}, "losses": []}))
    sweep.sweep(runs, workdir, progress=False)
    assert not RunDir(workdir, trunk).checkpoints.exists(), "all its branches are done"


def test_an_infinite_schedule_branches_from_its_level(make_config):
    _, trunk, short, _ = planned(make_config, cpt__schedule="infinite", cpt__stable_lr=2e-3)
    assert trunk.schedule().learning_rates().tolist() == [PEAK, 2e-3]
    assert short.schedule().learning_rates().tolist() == [PEAK, 0.0]


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"cpt__schedule": "cosine"}, "constant or infinite schedule without a cool-down, not from cosine"),
        ({"cpt__branch_cooldown": 1.5}, r"config\.cpt\.branch_cooldown: a share"),
        ({"base__branch_cooldown": 0.5}, r"config\.base\.branch_cooldown: belongs to config\.cpt"),
        ({"eval_tokens": (64, 256)}, r"config\.eval_tokens: 64 tokens are one step"),
        ({"cpt__warmup_tokens": 128}, "warm-up 2.* do not fit into 2 steps"),
    ],
)
def test_branches_that_cannot_be_say_why(make_config, changes, says):
    with pytest.raises(UserError, match=says):
        planned(make_config, **changes)


def test_a_branch_retried_after_its_trunks_checkpoints_went_says_which_trunk_to_train_again(make_config, workdir):
    base, trunk, branch, _ = planned(make_config)
    for run in (base, trunk, branch):
        assert worker.train_run(run, workdir)
    RunDir(workdir, trunk).drop_checkpoints()
    for name in ("result.json", "rows.jsonl"):
        (RunDir(workdir, branch).path / name).unlink()
    RunDir(workdir, branch).drop_checkpoints()
    assert worker.train_run(branch, workdir)
    reason = RunDir(workdir, branch).result()["reason"]
    assert f"its trunk {trunk.id} has no checkpoints any more" in reason and f"{trunk.id}/result.json" in reason
    (RunDir(workdir, trunk).path / "result.json").unlink()
    RunDir(workdir, branch).retry()
    summary = sweep.sweep([base, trunk, branch], workdir, workers=1, progress=False)
    assert branch.id in summary.finished and not summary.failed, "doing what it says is enough"
