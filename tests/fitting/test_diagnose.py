"""What the data cannot tell is said, and nothing is said of sound data."""

import numpy as np
from known_laws import CHINCHILLA

from cptlaw import fitting, laws


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
