"""Subsets have the moments that were asked for, or an error says which can be had."""

import numpy as np
import pytest
from tiny_scores import CHUNK, rows

from cptlaw.selection import choose
from cptlaw.selection.pool import Pool, SubsetError


@pytest.mark.parametrize("method", choose.AIMED)
@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_the_subset_has_the_moments_and_size_asked_for(pool, target, method, fraction):
    chosen = choose.select(pool, method, fraction=fraction, target=target)
    std = pool.moments()[1]
    np.testing.assert_allclose(pool.moments(chosen), target, atol=2e-3 * std)
    assert pool.count[chosen].sum() == pytest.approx(fraction * pool.count.sum(), rel=0.005, abs=pool.count.max())
    assert (np.diff(chosen) > 0).all()


def test_tilting_bends_the_pool_and_greedy_takes_shells():
    """What tilt keeps is spread all over between its extremes; the greedy leaves the middle out."""
    pool = Pool.of(rows(), CHUNK, by="chunk")
    mean, std = pool.moments()
    edges = np.quantile(pool.first, np.linspace(0, 1, 21))
    kept = {}
    for method in ("tilt", "swaps", "dos_greedy"):
        chosen = choose.select(pool, method, fraction=0.2, target=(mean, 1.2 * std))
        kept[method] = np.histogram(pool.first[chosen], edges)[0] / np.histogram(pool.first, edges)[0]
    assert kept["tilt"].min() > 0.02 and kept["swaps"].min() > 0.02
    assert (kept["dos_greedy"] < 0.01).sum() >= 5


def test_equal_seeds_equal_subsets(pool, target):
    for method in ("tilt", "swaps"):
        one, same, other = (choose.select(pool, method, fraction=0.2, target=target, seed=s) for s in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert np.intersect1d(one, other).size < 0.9 * one.size


def test_a_target_out_of_reach_shows_the_nearest_point_which_can_be_had(pool):
    mean, std = pool.moments()
    with pytest.raises(SubsetError, match=r"the nearest that has: mean ([\d.]+), std ([\d.]+)\. Aim") as error:
        choose.select(pool, fraction=0.3, target=(mean + 2 * std, std))
    words = str(error.value).split("nearest that has: mean ")[1].split(". Aim")[0]
    near = tuple(float(part) for part in words.split(", std "))
    chosen = choose.select(pool, fraction=0.3, target=near)
    np.testing.assert_allclose(pool.moments(chosen), near, atol=5e-3 * std)
