"""What the data cannot tell is said, and nothing is said of sound data."""

import numpy as np
import pytest
from known_laws import CHINCHILLA, TRUTH, pose

from cptlaw import fitting, laws
from cptlaw.fitting import diagnose, estimate
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.rows import collect, with_factor


def test_bounds_and_flat_directions_are_named(chinchilla_table):
    tied = chinchilla_table.assign(tokens=20 * chinchilla_table["params"])
    truth = {"params": tied["params"].to_numpy(), "tokens": tied["tokens"].to_numpy()}
    tied["loss"] = laws.get("chinchilla").predict(CHINCHILLA | {"beta": 0.35}, truth)
    tied["tokens"] *= np.linspace(1, 1.0001, 30)  # no duplicate rows
    words = "\n".join(fitting.fit(tied, "chinchilla", bootstrap=0, starts=8).warnings)
    assert "ties alpha to beta" in words and "flat direction" in words
    three = chinchilla_table[chinchilla_table["params"] < 0.5e9]
    assert "3 sizes give 3 equations" in "\n".join(fitting.fit(three, "chinchilla", bootstrap=0, starts=8).warnings)
    flat = chinchilla_table.assign(loss=2.0 * np.exp(1e-4 * np.arange(30) % 7 * 1e-3))
    assert "on a bound" in "\n".join(fitting.fit(flat, "chinchilla", bootstrap=0, starts=8).warnings)


def test_dcpt_warns_below_the_inflection_ratio(dcpt_table):
    rising = dcpt_table[dcpt_table["eval"] == "code"].copy()
    low = rising["w_code"] == 0.1
    rising.loc[low, "loss"] = 3 + 0.05 * np.log(rising.loc[low, "tokens"] / 1e9)
    rising.loc[low, ["w_code", "w_web"]] = (0.0, 1.0)
    words = "\n".join(fitting.fit(rising, "dcpt", bootstrap=0, starts=8).warnings)
    assert "loss rises with tokens in 4 runs" in words and "24 rows at ratio 0" in words and "free_sign" in words


def test_a_sound_table_gets_no_warning(code, web):
    assert code.warnings == []
    assert [warning.partition(":")[0] for warning in web.warnings] == ["every run has one row"]


@pytest.mark.parametrize(
    ("law", "column", "resting"),
    [
        ("dcpt", "ratio", {"B", "eta", "C", "gamma", "eps"}),
        ("dcpt:constrained=false", "tokens", {"B", "beta"}),
        ("dcpt:constrained=false", "params", {"A", "alpha"}),
        ("chinchilla", "tokens", {"B", "beta"}),
        ("repetition", "unique_tokens", set()),
    ],
)
def test_parameters_that_rest_on_a_column_that_never_varied_are_named(dcpt_table, law, column, resting):
    table = dcpt_table[dcpt_table["eval"] == "code"].assign(unique_tokens=3e8)
    if column == "ratio":
        table = table[table["w_code"] == 0.5]
    elif column != "unique_tokens":
        table = table[table[column] == table[column].unique()[1]]
    problem, rows = pose(table, law, Objective())
    found = diagnose.rests(problem, rows)
    assert list(found) == [column] and resting <= set(found[column])
    words = "\n".join(diagnose.warnings(problem, rows, np.array([p.start[1] for p in problem.law.params]), found))
    assert f"{column} never varied" in words and "refused" in words
    assert not resting or f"{', '.join(found[column])} cannot be determined" in words


def test_everything_that_varied_rests_on_nothing(dcpt_table):
    assert diagnose.rests(*pose(dcpt_table[dcpt_table["eval"] == "code"], "dcpt", Objective())) == {}


def test_a_dead_share_and_shares_in_step_are_said(mixes_table):
    problem, rows = pose(mixes_table.assign(w_dead=0.0), "mixing", Objective())
    assert diagnose.rests(problem, rows) == {"w_dead": ("t[dead]",)}
    tied = mixes_table.assign(w_code=2 * mixes_table["w_math"], w_web=1 - 3 * mixes_table["w_math"])
    problem, rows = pose(tied[tied["w_web"] >= 0], "mixing", Objective())
    words = "\n".join(diagnose.warnings(problem, rows, np.ones(len(problem.free)), {}))
    assert "the shares of code, math, web moved in step" in words


def test_a_parameter_at_the_constraint_is_told_with_the_value_that_the_table_shows(dcpt_table):
    table = dcpt_table[dcpt_table["eval"] == "code"]
    problem, _ = pose(table, "dcpt", Objective())
    theta = np.array([{**TRUTH, "C": 0.0}[name] for name in problem.free])
    (warning,) = diagnose._bounds(problem, theta)
    assert f"C = {float(problem.reported(theta)['C']):g}" in warning and "C = 0;" not in warning


def words_of(table, law="chinchilla"):
    problem, rows = pose(table, law, Objective())
    return "\n".join(diagnose.warnings(problem, rows, np.array([p.start[1] for p in problem.law.params]), {}))


def test_decayed_and_undecayed_rows_are_not_mixed_in_silence(dcpt_table):
    table = dcpt_table[dcpt_table["eval"] == "code"]
    ends = table["tokens"] == table["tokens"].max()
    assert "--factor" not in words_of(table.assign(lr=3e-4)) + words_of(table.assign(lr_anneal=0.0))
    for mixed in (table.assign(lr=np.where(ends, 1e-5, 3e-4)), table.assign(lr_anneal=ends * 0.2)):
        assert f"{ends.sum()} of {len(table)} rows are after the learning rate decayed" in words_of(mixed)


def test_averaged_weights_and_those_of_a_step_are_not_mixed_in_silence(dcpt_table):
    table = dcpt_table[dcpt_table["eval"] == "code"]
    averaged = np.arange(len(table)) % 3 == 0
    mixed = table.assign(ema=np.where(averaged, 0.999, 0.0))
    assert f"{averaged.sum()} of {len(table)} rows are losses of averaged weights" in words_of(mixed)
    for told in (table.assign(ema=0.999), table.assign(ema=0.0)):
        assert "averaged" not in words_of(told)
    law = with_factor(laws.get("chinchilla"), mixed, "ema", ("code",))
    rows = collect(mixed, law, ("code",))
    problem = estimate.pose(rows, law, Objective(), {})
    assert law.factor.levels == ("0", "0.999") and diagnose._averages(problem, rows) == []


def test_sizes_that_move_with_tokens_are_told_of_the_law_in_flops(dcpt_table, chinchilla_table):
    tied = chinchilla_table.assign(tokens=20 * chinchilla_table["params"])
    assert "--law compute:base=false" in words_of(tied) and "compute" not in words_of(chinchilla_table)
    table = dcpt_table[dcpt_table["eval"] == "code"]
    assert "--law compute reads both" in words_of(table.assign(pretrain_tokens=20 * table["params"]))
    assert "compute" not in words_of(table.assign(pretrain_tokens=1e12))
