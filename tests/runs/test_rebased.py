"""Losses as if every run had started from one base model."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import cli, fitting, runs
from cptlaw.fitting import Fit
from cptlaw.planning import DecisionError, trade_off
from cptlaw.runs import TableError

SIZES, TOKENS = {"s": 1e6, "m": 4e6, "l": 16e6}, (1e6, 2e6, 4e6)


@pytest.fixture(scope="module")
def table():
    """Base models whose losses no law of their size tells; the general loss rises by the same share in all of them."""
    base = {"s": 4.4, "m": 3.5, "l": 3.6}
    rows = []
    for model, params in SIZES.items():
        for share in (0.0, 0.2, 0.5, 0.9):
            facts = {"run": f"{model}{share}", "params": params, "model": model, "base": f"base-{model}"}
            facts |= {"w_prose": 1 - share, "w_code": share, "loss_se": 0.01}
            for tokens in (0.0, *TOKENS):
                rise = 1 + 0.08 * share**1.5 * (tokens / 4e6) ** 0.2 if tokens else 1.0
                code = 1.5 + 0.6 * (1e6 / params) ** 0.2 + 0.5 / (0.1 + share) * (1e6 / max(tokens, 5e5)) ** 0.1
                rows += [facts | {"tokens": tokens, "eval": "prose", "loss": base[model] * rise}]
                rows += [facts | {"tokens": tokens, "eval": "code", "loss": code}]
    return pd.DataFrame(rows)


def test_the_losses_of_one_corpus_are_carried_to_one_base(table):
    out = runs.rebased(table, "prose", 16e6)
    prose, at_zero = out["eval"] == "prose", out["tokens"] == 0
    np.testing.assert_allclose(out.loc[prose & at_zero, "loss"], 3.6)
    ratio = out.loc[prose, "loss"] / table.loc[prose, "loss"]
    np.testing.assert_allclose(out.loc[prose, "loss_se"] / table.loc[prose, "loss_se"], ratio)
    # The rises are the same, so the sizes' losses are now the same.
    assert out[prose].groupby(["w_code", "tokens"])["loss"].std().max() < 1e-12
    pd.testing.assert_frame_equal(out.loc[~prose, table.columns], table[~prose])
    assert out.loc[prose, "rebased_to"].eq(3.6).all() and out.loc[~prose, "rebased_to"].isna().all()


def test_several_bases_of_the_size_are_their_mean_and_without_their_names_a_size_has_one(table):
    other = table[table["model"] == "l"].assign(base="base-l-b1", run=lambda rows: rows["run"] + "-b1")
    other["loss"] *= 1.1
    both = runs.rebased(pd.concat([table, other], ignore_index=True), "prose", 16e6)
    np.testing.assert_allclose(both.loc[both["eval"] == "prose", "rebased_to"], 3.6 * 1.05)
    unnamed = runs.rebased(table.drop(columns="base"), "prose", 16e6)
    np.testing.assert_allclose(unnamed["loss"], runs.rebased(table, "prose", 16e6)["loss"])


def test_what_has_no_base_is_named(table):
    with pytest.raises(TableError, match=r"no base loss of prose at 5000000 parameters.*1000000, 4000000, 16000000"):
        runs.rebased(table, "prose", 5e6)
    with pytest.raises(TableError, match=r"such rows for none \(does --where leave them out"):
        runs.rebased(table[table["tokens"] > 0], "prose", 16e6)
    without = table[~((table["run"] == "s0.2") & (table["tokens"] == 0))].assign(
        base=lambda rows: np.where(rows["run"] == "s0.2", "lost", rows["base"])
    )
    with pytest.raises(TableError, match=r"run s0\.2: its base model has no prose loss at zero tokens"):
        runs.rebased(without, "prose", 16e6)


def test_a_trade_off_at_a_new_size_is_asked_of_losses_relative_to_its_base(table, tmp_path, capsys):
    table.to_csv(tmp_path / "runs.csv", index=False)
    words = ["fit", str(tmp_path / "runs.csv"), "--law", "dcpt:constrained=false", "--bootstrap", "20", "--hold-out",
             "params > 1e7", "--no-remedies"]  # fmt: skip
    assert cli.main([*words, "--eval", "prose", "--rebase", "prose=16e6", "--out", str(tmp_path / "prose.json")]) == 0
    assert "as if every run had started from a base model whose loss is 3.6000" in capsys.readouterr().out
    assert cli.main([*words, "--eval", "code", "--out", str(tmp_path / "code.json")]) == 0
    general, domain = (Fit.load(tmp_path / f"{name}.json") for name in ("prose", "code"))
    assert general.settings["rebased_to"] == {"prose": 3.6}
    asked = {"params": 16e6, "tokens": 4e6, "tolerance": 0.03}
    found = trade_off(general, domain, **asked, base_loss=3.6, base_loss_se=0.1)
    assert found.point["share"] == pytest.approx((0.03 / 0.08) ** (1 / 1.5), abs=0.03)
    with pytest.raises(DecisionError, match=r"rebased to a base model whose loss is 3\.6000, and the question"):
        trade_off(general, domain, **asked, base_loss=3.7)
    assert cli.main([*words, "--eval", "prose", "--rebase", "music=16e6"]) == 2
    assert "--rebase music: no such corpus" in capsys.readouterr().err


def test_a_fit_is_of_one_base(table):
    mixed = runs.rebased(table, "prose", 16e6)
    mixed.loc[(mixed["eval"] == "prose") & (mixed["model"] == "s"), "rebased_to"] = 4.4
    with pytest.raises(fitting.FitError, match="rebased to several base models"):
        fitting.fit(mixed, "dcpt", "prose", bootstrap=0)
