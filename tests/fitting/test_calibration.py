"""Intervals hold about as often as they say on tables of a known truth, law right and wrong (slow)."""

import pandas as pd
import pytest

from benchmarks.forward import simulated

TABLES = 24  # of which one in 100 sets holds under 75% where 90 is true


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [simulated.Setting(10, 0.005), simulated.Setting(20, 0.008, "rises"), simulated.Setting(10, 0.005, base=0.006)],
    ids=lambda s: s.name,
)
def test_intervals_hold_about_as_often_as_they_say(setting):
    found = simulated.summary(pd.concat(simulated.study(setting, TABLES))).set_index("what")
    assert found.loc["share", "cover"] >= 0.75
    assert found.loc["share", "width"] < 0.11
    assert found.loc["share, breach of the safe one", "cover"] <= 0.25
    assert found.loc["one new run at 2.5x", "cover"] >= 0.85
