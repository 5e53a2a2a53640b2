"""Baselines by hand."""

import numpy as np
import pandas as pd

from cptlaw.fitting import baselines


def test_baselines_by_hand():
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
    found = baselines.predict(train, asked)
    np.testing.assert_allclose(found["interpolate_ratio"], [2.6, 2.5])  # a quarter of the way from 2.7 to 2.3
    np.testing.assert_allclose(found["nearest_size"], [2.7, 2.5])
    np.testing.assert_allclose(found["carry_tokens"], [2.7, 2.5])
    np.testing.assert_allclose(found["mean"], [2.65, 2.65])
    assert "nearest_size" not in baselines.predict(train[train["params"] == 1e9], asked)


def test_a_baseline_that_cannot_answer_for_every_row_is_left_out():
    train = pd.DataFrame({"params": [1e9, 2e9], "tokens": 1e9, "eval": ["code", "web"], "loss": [2.0, 3.0]})
    asked = pd.DataFrame({"params": [4e9, 4e9], "tokens": 1e9, "eval": ["code", "law"]})
    assert baselines.predict(train, asked[:1])["mean"].tolist() == [2.0]
    assert baselines.predict(train, asked) == {}
