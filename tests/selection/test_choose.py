"""What is asked of a pool is taken from it, the same for the same seed."""

import numpy as np
import pytest
from tiny_scores import CHUNK, rows

from cptlaw.selection import choose
from cptlaw.selection.pool import Pool, SubsetError


def test_the_choice_of_a_seed_is_pinned():
    """A subset is named by its seed: should this fail, old lists cannot be made again, so say it in the change log."""
    pool = Pool.of(rows(300), CHUNK)
    mean, std = pool.moments()
    assert choose.select(pool, "random", fraction=0.05, seed=7)[:6].tolist() == PINNED["random"]
    assert choose.select(pool, fraction=0.05, target=(mean, std), seed=7)[:6].tolist() == PINNED["tilt"]


PINNED = {"random": [16, 19, 58, 68, 100, 134], "tilt": [16, 57, 60, 92, 100, 134]}


def test_controls_take_what_they_are_named_for(pool):
    low, mid, high = (choose.select(pool, method, fraction=0.25) for method in ("low", "mid", "high"))
    assert pool.first[low].max() <= pool.first[mid].min() and pool.first[mid].max() <= pool.first[high].min()
    band = choose.select(pool, "band", fraction=0.2, band=(0.3, 0.7))
    order = np.argsort(np.argsort(pool.first)) / len(pool.first)
    assert 0.25 < order[band].min() < 0.35 and 0.65 < order[band].max() < 0.75


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("best", {}, "one of tilt, swaps"),
        ("tilt", {}, "give a target mean and std"),
        ("low", {"target": (1.0, 1.0)}, "for them alone"),
        ("band", {}, "give quantiles for band"),
        ("band", {"band": (0.4, 0.5)}, "quantiles at least 0.3 apart"),
        ("random", {"fraction": 30.0}, "above 0 and below 1"),
    ],
)
def test_questions_that_make_no_sense_are_refused(pool, method, options, message):
    with pytest.raises(SubsetError, match=message):
        choose.select(pool, method, **({"fraction": 0.3} | options))
