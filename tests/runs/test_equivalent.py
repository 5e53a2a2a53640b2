"""Sizes as base models' losses tell them."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import cli, fitting, runs
from cptlaw.fitting import Fit, FitError
from cptlaw.planning import DecisionError, budget, next_runs
from cptlaw.runs import TableError

WORTH = {1e6: 1e6, 2e6: 2e6, 4e6: 4e6, 8e6: 8e6, 32e6: 3e6}  # parameters -> what its base model was trained to be worth


@pytest.fixture(scope="module")
def table():
    """Losses that are of what a base model can do; the largest was trained on little."""
    rows = []
    for params, worth in WORTH.items():
        for share in (0.1, 0.5, 0.9):
            facts = {"run": f"{params:g}-{share}", "params": params, "w_prose": 1 - share, "w_code": share}
            rows += [facts | {"tokens": 0.0, "eval": "prose", "loss": 4 * (1e6 / worth) ** 0.1}]
            for tokens in (1e6, 2e6, 4e6):
                code = 1.5 + 0.9 * (1e6 / worth) ** 0.4 + 0.1 / (0.1 + share) + 0.5 * (1e6 / tokens) ** 0.5
                rows += [facts | {"tokens": tokens, "eval": "code", "loss": code}]
    return pd.DataFrame(rows)


def test_a_base_is_worth_the_size_at_which_the_ladder_has_its_loss(table):
    found = runs.equivalent_sizes(table, "prose").set_index("params")
    np.testing.assert_allclose(found["equivalent"], list(WORTH.values()), rtol=1e-9)
    assert found["bases"].eq(1).all() and found.loc[32e6, "loss"] == pytest.approx(4 * 3**-0.1)
    sized = runs.sized_by_base(table, "prose")
    np.testing.assert_allclose(sized["params"], table["params"].map(WORTH), rtol=1e-9)
    pd.testing.assert_series_equal(sized[runs.ACTUAL], table["params"], check_names=False)
    runs.check(sized)


def test_what_cannot_be_told_is_named(table):
    with pytest.raises(TableError, match="for two sizes or more, and there are such rows for 0"):
        runs.equivalent_sizes(table, "code")
    with pytest.raises(TableError, match="lower loss of prose than the smallest size's"):
        runs.equivalent_sizes(table.assign(loss=table["loss"].where(table["tokens"] > 0, table["params"])), "prose")
    lost = table[~((table["params"] == 4e6) & (table["tokens"] == 0))]
    with pytest.raises(TableError, match="no base loss of prose at 4M parameters"):
        runs.sized_by_base(lost, "prose")
    with pytest.raises(TableError, match="actual_params is there already"):
        runs.sized_by_base(runs.sized_by_base(table, "prose"), "prose")


def test_a_base_off_its_ladder_is_doubted(table):
    (said,) = runs.undertrained(table)
    assert said.startswith(
        "the base model of 32M parameters is no better at prose (3.584 nats) than that of 8M (3.249)"
    )
    assert not runs.undertrained(table[table["params"] < 1e7])
    assert not runs.undertrained(runs.sized_by_base(table, "prose"))
    assert not runs.undertrained(table.drop(columns="params"))


def test_a_model_whose_base_was_trained_too_little_is_predicted(table, tmp_path, capsys):
    table.to_csv(tmp_path / "runs.csv", index=False)
    words = ["fit", str(tmp_path / "runs.csv"), "--eval", "code", "--law", "dcpt:constrained=false", "--bootstrap", "0",
             "--no-remedies", "--hold-out"]  # fmt: skip
    made = {}
    for name, flags in {"params": ["params > 1e7"], "base": ["actual_params > 1e7", "--size-by-base", "prose"]}.items():
        assert cli.main([*words, *flags, "--out", str(tmp_path / f"{name}.json")]) == 0
        assert ("32M as 3M" if name == "base" else "no better at prose") in capsys.readouterr().out
        made[name] = Fit.load(tmp_path / f"{name}.json")
    errors = {name: fit.scores["held_out"]["law"]["mean_log"] for name, fit in made.items()}
    assert errors["base"] < 0.003 < 0.03 < errors["params"]
    fit = made["base"]
    assert fit.size(32e6) == pytest.approx(3e6) and made["params"].size(32e6) == 32e6
    with pytest.raises(FitError, match=r"none of 16M parameters \(but of 1M, 2M, 4M, 8M, 32M\)"):
        fit.size(16e6)

    question = ["plan", "share", "--fit", str(tmp_path / "base.json"), "--params", "32M", "--tokens", "4M", "--json"]
    loss = float(fit.predict(params=3e6, tokens=4e6, ratio=0.5).point)
    assert cli.main([*question, "--loss", f"{loss:.6f}"]) == 0
    said = capsys.readouterr()
    assert '"share": 0.5' in said.out and "32M parameters are asked of as 3M" in said.err
    asked = ["predict", str(tmp_path / "base.json"), "--params", "32M", "--tokens", "4M", "--ratio", "0.5"]
    assert cli.main(asked) == 0
    assert f"loss {loss:.4f}" in capsys.readouterr().out


def test_what_is_paid_in_parameters_is_not_asked_of_equivalent_sizes(table):
    fit = fitting.fit(runs.sized_by_base(table, "prose"), "dcpt:constrained=false", "code", bootstrap=5)
    with pytest.raises(DecisionError, match="a cost in FLOPs is of parameters"):
        budget(fit, flops=1e15, share=0.5)
    with pytest.raises(DecisionError, match="a cost in FLOPs is of parameters"):
        next_runs({"params": 4e6, "tokens": 4e6, "w_code": 0.5}, fit)


def test_losses_are_carried_to_the_base_of_a_model_that_is_named_by_its_parameters(table):
    both = runs.rebased(runs.sized_by_base(table, "prose"), "prose", 32e6)
    assert both["rebased_to"].dropna().unique() == pytest.approx([4 * 3**-0.1])
