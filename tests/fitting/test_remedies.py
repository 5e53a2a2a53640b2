"""Rows that move a law and constraints that data break are named with their cure, and sound tables are left alone."""

import re

import numpy as np
import pandas as pd
import pytest
from known_laws import CHINCHILLA, TRUTH, pose

from cptlaw import fitting, laws, runs
from cptlaw.fitting import estimate, remedies
from cptlaw.fitting.objective import Objective

NUMBERS = r"mean error on the others falls from [\d.]+% to [\d.]+%.*changes from [\d.]+ to [\d.]+"


@pytest.fixture(scope="module")
def curves():
    """5 sizes x 10 checkpoints of Chinchilla, 0.1% noise."""
    law, rng = laws.get("chinchilla"), np.random.default_rng(3)
    sizes, tokens = np.geomspace(0.05e9, 3e9, 5), np.linspace(1e9, 30e9, 10)
    n, d = (a.ravel() for a in np.meshgrid(sizes, tokens, indexing="ij"))
    loss = law.predict(CHINCHILLA, {"params": n, "tokens": d}) * np.exp(1e-3 * rng.standard_normal(50))
    return pd.DataFrame({"run": [f"n{v:.3g}" for v in n], "params": n, "tokens": d, "eval": "web", "loss": loss})


def told(table, law="chinchilla"):
    problem, rows = pose(table, law, Objective())
    best = estimate.optimise(problem, rows.fitted, 16)
    return remedies.moved_by_rows(problem, rows, best.theta)


def test_warm_up_checkpoints_are_named_with_the_condition_that_leaves_them_out(curves):
    early = curves["tokens"] < 7e9
    warm = curves.assign(loss=curves["loss"] * np.exp(np.where(early, 0.4 * np.exp(-curves["tokens"] / 3e9), 0)))
    (warning,) = told(warm)
    assert "the first 2 checkpoints of each run" in warning or "the first checkpoint of each run" in warning
    where = warning.split("--where '")[1].split("'")[0]
    assert re.search(NUMBERS, warning)
    assert told(runs.select(warm, where)) == []
    assert any("rows move the law" in w for w in fitting.fit(warm, "chinchilla", bootstrap=0, starts=16).warnings)


def test_undecayed_checkpoints_are_told_apart_by_their_learning_rate(curves):
    last = curves["tokens"] == curves.groupby("run")["tokens"].transform("max")
    extra = curves.assign(tokens=curves["tokens"] * 0.45)  # decayed ends of shorter runs, so that tokens vary there
    extra["run"] += "-short"
    ends = pd.concat([curves, extra[last]], ignore_index=True)
    shape = laws.get("chinchilla").predict(CHINCHILLA, {k: ends[k].to_numpy() for k in ("params", "tokens")})
    decayed = ends["run"].str.endswith("short") | (ends["tokens"] == 30e9)
    ends["loss"] = shape * np.where(decayed, 1, 1.03)
    ends["lr"] = np.where(decayed, 0.0, 3e-4)
    (warning,) = told(ends)
    assert "before the learning rate decayed" in warning and "--where 'lr < 0.0003'" in warning
    assert told(ends.drop(columns="lr").assign(loss=shape)) == []


def test_sound_tables_are_left_alone(curves, dcpt_table, chinchilla_table):
    assert told(curves) == told(chinchilla_table) == []
    assert told(curves.assign(lr=np.where(curves["tokens"] == 30e9, 0.0, 3e-4))) == []  # it makes no difference here
    assert told(dcpt_table[dcpt_table["eval"] == "code"], "dcpt") == []


def test_a_condition_is_one_quantity_or_none(curves):
    _, rows = pose(curves, "chinchilla", Objective())
    early = rows.frame["tokens"].to_numpy() < 4e9
    assert remedies.condition(rows, early) == "tokens >= 4.3e9" or remedies.condition(rows, early).startswith(
        "tokens >="
    )
    by_size = (rows.frame["tokens"] / rows.frame["params"]).to_numpy() < 20
    assert remedies.condition(rows, by_size).startswith("tokens / params >= ")
    assert remedies.condition(rows, np.arange(50) % 2 == 0) == ""
    assert remedies._between(0.0, 3e-4) == "0.0003" and remedies._between(5.99e8, 7.42e8) == "7e8"


def test_a_constraint_that_the_data_break_is_named_with_its_cure(dcpt_table):
    table = dcpt_table[dcpt_table["eval"] == "code"].reset_index(drop=True)
    free = laws.get("dcpt", constrained=False)
    x = {"params": table["params"], "tokens": table["tokens"], "ratio": table["w_code"]}
    theta = TRUTH | {"eta": 0.3, "B": 0.6, "C": 0.05}  # the loss rises with the ratio here
    table["loss"] = free.predict(theta, {k: v.to_numpy() for k, v in x.items()})
    broken = fitting.fit(table, "dcpt", bootstrap=0, starts=16).warnings
    assert "--law dcpt:constrained=false" in broken[0] and "instead of" in broken[0]
    assert not any("on a bound" in w or "flat direction" in w for w in broken)
    sound = dcpt_table[dcpt_table["eval"] == "code"]
    problem, rows = pose(sound, "dcpt", Objective())
    best = estimate.optimise(problem, rows.fitted, 16)
    assert remedies.lifted_constraint(problem, rows, best.theta, laws.get("dcpt"), ()) == []
