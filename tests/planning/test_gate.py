"""A gate between two ladders whose truth is known: which wins, by how much, how surely."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import laws
from cptlaw.fitting import Fit, ladders
from cptlaw.planning import DecisionError, gate

PARAMS = {"E": 1.5, "A": 0.02, "alpha": 0.4, "B": 0.5, "beta": 0.3}
LADDER = [(n, d) for n in (1e6, 4e6, 16e6) for d in (20 * n, 40 * n, 80 * n)]


def ladder(factor=1.0, trend=0.0, noise=0.001, seed=0, rungs=LADDER, spread=0.01, eval="web"):
    """A fit of a ladder whose losses are the law's times `factor`, which moves by `trend` an e-fold of size."""
    rng, law = np.random.default_rng(seed), laws.get("chinchilla")
    rows = pd.DataFrame(rungs, columns=["params", "tokens"])
    params = {**PARAMS, "E": PARAMS["E"] * factor}
    predicted = law.predict(params, {name: rows[name].to_numpy() for name in law.columns})
    change = trend * np.log(rows["params"] / 1e6) + np.log(factor) + noise * rng.normal(size=len(rows))
    truth = law.predict(PARAMS, {name: rows[name].to_numpy() for name in law.columns})
    rows = rows.assign(run=[f"n{n:g}" for n, _ in rungs], predicted=predicted, observed=truth * np.exp(change))
    rows = rows.assign(held_out=False, eval=eval, loss=rows["observed"])
    samples = {name: value * np.exp(spread * rng.normal(size=200)) for name, value in params.items()}
    return Fit(
        law=law, eval=eval, params=params, samples=samples, codes={}, influence={}, scores={}, residuals=rows,
        n_rows=len(rows), ranges={"params": (1e6, 16e6), "tokens": (2e7, 1.28e9)}, digest="table",
        settings={"seed": 0, "resample": "runs", "fixed": {}, "shared": [], "objective": "huber", "delta": 1e-3},
    )  # fmt: skip


TARGET = {"params": 64e6, "tokens": 64e6 * 40}


def test_a_better_recipe_is_told_with_what_it_saves():
    found = gate(ladder(), ladder(0.96, seed=1), **TARGET)
    assert found.agreement > 0.9 and found.answer.startswith("The candidate wins with a probability of ")
    low, high = found.interval["loss ratio"]
    assert low < 0.96 < high < 1.02
    # What the law itself says: the tokens at which the candidate's loss is the baseline's at the target.
    law = laws.get("chinchilla")
    d = np.geomspace(1e7, 1e11, 20001)
    loss = law.predict(PARAMS, {"params": TARGET["params"], "tokens": d}) * found.point["loss ratio"]
    here = law.predict(PARAMS, {"params": TARGET["params"], "tokens": TARGET["tokens"]})
    needed = d[np.argmax(loss <= here)]
    assert found.point["compute saved"] == pytest.approx(1 - needed / TARGET["tokens"], abs=0.02)
    assert len(found.rows) == 9 and found.inputs["rungs"] == 9


def test_the_roles_exchanged_the_saving_is_a_cost():
    found = gate(ladder(0.96, seed=1), ladder(), **TARGET)
    assert found.point["compute saved"] < 0 and "more compute" in found.answer
    assert (found.samples["loss ratio"] < 1).mean() < 0.1


def test_an_advantage_that_dies_out_with_size_is_not_let_through_as_sure():
    """4% better at the smallest size, worse by none at the largest: the rival, a constant ratio, would be sure."""
    vanishing = ladder(0.96, trend=0.0145, seed=2)
    found = gate(ladder(), vanishing, **TARGET)
    assert 0.05 < (found.samples["loss ratio"] < 1).mean() < 0.95
    rungs = pd.DataFrame({"params": [1e6, 4e6, 16e6], "tokens": [1e8] * 3, "baseline": 2.0, "candidate": 1.9})
    near, far = ladders.ratio(rungs, 16e6, 1e8), ladders.ratio(rungs, 1024e6, 1e8)
    assert far[1] > 1.5 * near[1] and near[0] == pytest.approx(np.log(0.95), abs=0.01)


def test_ladders_that_share_no_rungs_are_compared_with_a_warning():
    other = ladder(0.9, rungs=[(n * 1.3, d) for n, d in LADDER])
    found = gate(ladder(), other, **TARGET)
    assert found.inputs["rungs"] == 0 and not found.options and not found.rows
    assert any("share 0 rungs" in note for note in found.warnings)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DecisionError, match="web and the candidate's of code"):
        gate(ladder(), ladder(eval="code"), **TARGET)
    with pytest.raises(DecisionError, match="is it in billions"):
        gate(ladder(), ladder(), params=7, tokens=1e9)
