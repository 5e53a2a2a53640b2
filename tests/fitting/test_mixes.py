"""Mixes beyond those that the fitted runs span."""

import numpy as np
import pandas as pd
import pytest

from cptlaw.fitting import mixes


def table(**shares):
    return pd.DataFrame({f"w_{name}": values for name, values in shares.items()})


@pytest.fixture
def tied():
    a = np.linspace(0.02, 0.3, 12)
    return table(c=1 - 3 * a, a=a, b=2 * a, dead=0 * a).round(3)


def test_shares_in_step_are_found_and_only_they(tied):
    assert mixes.in_step(tied) == [("a", "b", "c")]
    free = table(**dict(zip("abcd", np.random.default_rng(0).dirichlet(np.ones(4), 9).T)))
    assert mixes.in_step(free) == []
    two = np.linspace(0.1, 0.9, 5)
    assert mixes.in_step(table(a=two, b=1 - two)) == []
    assert mixes.in_step(pd.DataFrame({"run": ["x"]})) == []


def test_fewer_mixes_than_corpora_leave_directions_open():
    assert mixes.in_step(table(a=[0.2, 0.5], b=[0.3, 0.4], c=[0.5, 0.1])) != []


def test_a_mix_that_moves_them_apart_is_outside(tied):
    assert mixes.outside(tied, {"w_a": 0.1, "w_b": 0.2, "w_c": 0.7, "w_dead": 0.0}) == ()
    assert mixes.outside(tied, {"w_a": 0.4, "w_b": 0.8, "w_c": -0.2, "w_dead": 0.0}) == ()  # along it, however far
    assert mixes.outside(tied, {"w_a": np.array([0.1, 0.3]), "w_b": 0.1, "w_c": 0.6, "w_dead": 0.0}) == ("a", "b", "c")
    assert mixes.outside(tied, {"ratio": 0.4}) == ()
