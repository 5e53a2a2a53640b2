"""Folds hold out what they name."""

import numpy as np
import pytest

from cptlaw import laws
from cptlaw.errors import UserError
from cptlaw.fitting import folds
from cptlaw.fitting.rows import collect


@pytest.fixture(scope="module")
def rows(dcpt_table):
    return collect(dcpt_table, laws.joint(laws.get("dcpt"), ("code", "web"), ()), ("code", "web"))


@pytest.mark.parametrize(
    ("name", "count"),
    [("forward", 1), ("size", 4), ("ratio", 5), ("ratio_pairs", 10), ("tokens", 3), ("run", 20), ("domain", 2)],
)
def test_folds_hold_out_what_they_name(rows, name, count):
    made = folds.make(name, rows)
    masks = np.array([mask for _, mask in made])
    assert len(made) == count and len({what for what, _ in made}) == count
    if name not in ("forward", "ratio_pairs"):
        assert (masks.sum(axis=0) == 1).all()  # each row is left out once
    if name == "size":
        assert all(rows.frame["params"][mask].nunique() == 1 for mask in masks)
    if name == "forward":
        assert set(rows.frame["params"][masks[0]]) == {3e9}


def test_impossible_folds_are_refused(rows, chinchilla_table):
    with pytest.raises(UserError, match="forward, size, ratio"):
        folds.make("leave_none_out", rows)
    plain = collect(chinchilla_table, laws.get("chinchilla"), ("web",))
    with pytest.raises(UserError, match="w_<corpus>"):
        folds.make("ratio", plain)
    with pytest.raises(UserError, match="two different values"):
        folds.make("domain", plain)
