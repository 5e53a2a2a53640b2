"""Rivals by hand, and where their rules are exact."""

import numpy as np
import pandas as pd

from cptlaw.fitting import rivals


def test_rivals_by_hand():
    train = pd.DataFrame(
        {
            "params": [1e9] * 4 + [2e9] * 4,
            "tokens": [1e9, 2e9] * 4,
            "w_code": [0.2, 0.2, 0.6, 0.6] * 2,
            "w_web": [0.8, 0.8, 0.4, 0.4] * 2,
            "eval": "code",
            "loss": [3.0, 2.9, 2.6, 2.5, 2.8, 2.7, 2.4, 2.3],
        }
    )
    asked = pd.DataFrame(
        {"params": [4e9, 1e9], "tokens": [2e9, 8e9], "w_code": [0.3, 0.6], "w_web": [0.7, 0.4], "eval": "code"}
    )
    found = rivals.predict(train, asked)
    np.testing.assert_allclose(found["interpolate_ratio"], [2.6, 2.5])  # a quarter of the way from 2.7 to 2.3
    np.testing.assert_allclose(found["nearest_size"], [2.7, 2.5])
    np.testing.assert_allclose(found["carry_tokens"], [2.7, 2.5])
    np.testing.assert_allclose(found["mean"], [2.65, 2.65])
    assert "nearest_size" not in rivals.predict(train[train["params"] == 1e9], asked)


def test_a_rival_that_cannot_answer_for_every_row_is_left_out():
    train = pd.DataFrame({"params": [1e9, 2e9], "tokens": 1e9, "eval": ["code", "web"], "loss": [2.0, 3.0]})
    asked = pd.DataFrame({"params": [4e9, 4e9], "tokens": 1e9, "eval": ["code", "law"]})
    assert rivals.predict(train, asked[:1])["mean"].tolist() == [2.0]
    assert rivals.predict(train, asked) == {}


def grid(loss):
    """Three sizes, two mixes, four checkpoints a run of `loss(size, tokens, share)`."""
    rows = [
        (f"{n:g}-{s}", n, d, s, 1 - s, "code", loss(n, d, s))
        for n in (1e8, 2e8, 4e8)
        for s in (0.2, 0.6)
        for d in (1e9, 2e9, 4e9, 8e9)
    ]
    return pd.DataFrame(rows, columns=["run", "params", "tokens", "w_code", "w_web", "eval", "loss"])


def test_rivals_that_go_by_other_runs_are_exact_where_their_rule_is():
    table = grid(lambda n, d, s: np.exp(1.2 - 0.05 * np.log(n / 1e8) - 0.08 * np.log(d / 1e9) - 0.3 * s))
    longer = table["tokens"] > 2e9
    largest = table["params"] == 4e8
    asked = table[largest & longer]
    found = rivals.predict(table[~(largest & longer)], asked)
    for name in ("extend_run", "shift_from_smaller", "two_largest", "gaussian_process"):
        np.testing.assert_allclose(found[name], asked["loss"], rtol=2e-3, err_msg=name)
    new = table[largest & (table["w_code"] == 0.6)]
    shifted = rivals.predict(table.drop(new.index), new)
    np.testing.assert_allclose(shifted["parallel_shares"], new["loss"], rtol=1e-9)
    assert "extend_run" not in shifted and "shift_from_smaller" not in shifted  # nothing of that run was fitted
    assert np.isfinite(found["ridge"]).all()


def test_rivals_that_are_one_are_shown_once():
    found = rivals.distinct({"a": np.array([1.0, 2.0]), "b": np.array([1.0, 2.5]), "c": np.array([1.0, 2.0 + 1e-12])})
    assert set(found[0]) == {"a", "b"} and found[1] == ["a = c"]
    assert rivals.shown("a", found[1]) == "a = c" and rivals.shown("b", found[1]) == "b"
