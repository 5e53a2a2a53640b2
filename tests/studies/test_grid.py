"""Runs have ids that say what they are and change when what they compute does."""

import dataclasses
import json

import pytest

from cptlaw.execution.run import Run
from cptlaw.studies import grid
from cptlaw.studies.settings import SizeGrid

DATA = {"prose": "p", "code": "c", "law": "l"}


def test_the_grid_is_bases_then_mixes_and_its_ids_are_stable(study, runs):
    assert [run.id.rsplit("-", 1)[0] for run in runs] == [
        "base-large",
        "base-small",
        "large-code0.5-s0",
        "small-prose-s0",
        "small-code0.5-s0",
    ]
    assert runs == grid.plan(study, 32, {"prose": "p", "code": "c"})
    assert len({run.id for run in runs}) == len(runs)
    mixed = runs[2]
    assert mixed.init == runs[0].id
    assert mixed.shares == {"prose": 0.5, "code": 0.5}
    # Golden: if it moves, every existing workdir trains again. Move it only when a run's numbers have changed.
    assert runs[0].id == "base-large-eab982a7"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"batch_size": 16},
        {"eval_tokens": (64, 256)},
        {"model": {"layers": 2, "d_model": 8, "heads": 1, "kv_heads": 1, "d_ff": 16}},
        {"optimizer": {"weight_decay": 0.0}},
    ],
)
def test_what_changes_the_numbers_changes_the_id(study, runs, change):
    other = grid.plan(dataclasses.replace(study, **change), 32, {"prose": "p", "code": "c"})
    assert not {run.id for run in runs if run.init} & {run.id for run in other}


def test_new_data_is_a_new_run_and_more_workers_are_not(study, runs):
    assert not {r.id for r in runs} & {r.id for r in grid.plan(study, 32, {"prose": "p", "code": "x"})}
    assert runs == grid.plan(dataclasses.replace(study, workers=7), 32, {"prose": "p", "code": "c"})


def test_a_longer_grid_keeps_the_runs_it_had(study, runs):
    longer = {**study.grid, "small": dataclasses.replace(study.grid["small"], domain_shares=(0.0, 0.25, 0.5))}
    longer_runs = grid.plan(dataclasses.replace(study, grid=longer), 32, {"prose": "p", "code": "c"})
    assert {run.id for run in runs} < {run.id for run in longer_runs}


def test_a_share_of_zero_is_one_run_whatever_the_domain(study):
    both = dataclasses.replace(study, corpora={**study.corpora, "law": "law.jsonl"}, domains=("code", "law"))
    names = [run.id.rsplit("-", 1)[0] for run in grid.plan(both, 32, DATA)]
    assert names.count("small-prose-s0") == 1
    assert {"small-code0.5-s0", "small-law0.5-s0"} <= set(names)


def test_base_seeds_make_base_models_that_runs_start_from(study, runs):
    more = SizeGrid(domain_shares=(0.5,), repeat_shares=(0.5,), repeat_seeds=(7,), size="small", base_seeds=(1, 2))
    wider = dataclasses.replace(study, grid={**study.grid, "small-bases": more})
    planned = grid.plan(wider, 32, {"prose": "p", "code": "c"})
    assert {run.id for run in runs} < {run.id for run in planned}
    new = [run for run in planned if run.id not in {run.id for run in runs}]
    assert [run.id.rsplit("-", 1)[0] for run in new] == [
        "base-small-b1",
        "base-small-b2",
        *(f"small-b{base}-code0.5-s{seed}" for base in (1, 2) for seed in (0, 7)),
    ]
    bases = {run.id: run for run in new if run.init is None}
    assert [run.seed for run in bases.values()] == [1, 2]
    assert {bases[run.init].seed for run in new if run.init} == {1, 2}
    assert {run.size for run in new} == {"small"}


def test_the_studys_own_seed_is_the_first_base(study, runs):
    named = {part: dataclasses.replace(given, base_seeds=(0,)) for part, given in study.grid.items()}
    assert grid.plan(dataclasses.replace(study, grid=named), 32, {"prose": "p", "code": "c"}) == runs


def test_a_part_has_evaluations_cool_downs_and_domains_of_its_own(study, runs):
    both = dataclasses.replace(study, corpora={**study.corpora, "law": "law.jsonl"}, domains=("code", "law"))
    long = SizeGrid(domain_shares=(0.25,), size="small", domains=("law",), eval_tokens=(128, 512))
    cooled = dataclasses.replace(long, branch_cooldown=0.5, eval_tokens=())
    planned = grid.plan(dataclasses.replace(both, grid={"small": study.grid["small"], "long": long}), 32, DATA)
    assert [(run.tokens, run.eval_tokens) for run in planned if run.init][-2:] == [(256, (128, 256)), (512, (128, 512))]
    assert planned[-1].shares == {"prose": 0.75, "law": 0.25}
    planned = grid.plan(dataclasses.replace(both, grid={"cooled": cooled}), 32, DATA)
    assert [(run.eval_tokens, run.phase.cooldown_tokens) for run in planned[1:]] == [
        ((), 0),
        ((128,), 64),
        ((256,), 128),
    ]


def test_runs_may_be_evaluated_on_their_own_corpora_alone(study):
    corpora = {**study.corpora, "law": "law.jsonl"}
    both = dataclasses.replace(study, corpora=corpora, domains=("code", "law"), evaluate="own")
    evals = {run.id.rsplit("-", 1)[0]: run.evals for run in grid.plan(both, 32, DATA)}
    assert evals["base-small"] == evals["small-prose-s0"] == ("prose", "code", "law")
    assert evals["small-code0.5-s0"] == ("prose", "code")
    assert evals["small-law0.5-s0"] == ("prose", "law")


def test_the_first_parts_are_first_and_in_each_every_domain_has_a_share_before_the_next_share(study):
    both = dataclasses.replace(study, corpora={**study.corpora, "law": "law.jsonl"}, domains=("code", "law"))
    parts = {"large": SizeGrid(domain_shares=(1.0,)), "small": SizeGrid(domain_shares=(0.5, 0.25))}
    planned = grid.plan(dataclasses.replace(both, grid=parts, first=("small",)), 32, DATA)
    mixes = [run.id.split("-s0")[0] for run in planned if run.init]
    assert mixes[:4] == ["small-code0.5", "small-law0.5", "small-code0.25", "small-law0.25"]
    assert mixes[4:] == ["large-code1", "large-law1"]


def test_a_run_survives_json(runs):
    for run in runs:
        assert Run.of(json.loads(json.dumps(dataclasses.asdict(run)))) == run


def test_a_schedule_counts_steps(runs):
    schedule = runs[0].schedule()
    assert (schedule.steps, schedule.warmup) == (4, 1)
