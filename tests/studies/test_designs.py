"""Mixes of any number of corpora: within their limits, different, the same every time, and better than chance."""

import numpy as np
import pytest

from cptlaw.studies.designs import KINDS, Simplex, rounded

LIMITS = {"floors": {"c0": 0.1, "c2": 0.05}, "caps": {"c1": 0.4, "c2": 0.4}}


def matrix(mixes):
    return np.array([list(mix.values()) for mix in mixes])


def names(count):
    return [f"c{i}" for i in range(count)]


def information(mixes):
    """Log determinant of the information on a quadratic polynomial of the shares."""
    first, second = np.triu_indices(mixes.shape[1], 1)
    terms = np.concatenate([mixes, mixes[:, first] * mixes[:, second]], axis=1)
    return np.linalg.slogdet(terms.T @ terms + 1e-9 * np.eye(terms.shape[1]))[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corpora, count", [(2, 5), (3, 8), (5, 20), (20, 22)])
def test_mixes_keep_the_limits_sum_to_one_and_differ(kind, corpora, count):
    limits = LIMITS if corpora > 2 else {"floors": {"c0": 0.1}, "caps": {"c1": 0.4}}
    mixes = Simplex(count, kind, **limits).mixes(names(corpora))
    found = matrix(mixes)
    assert found.shape == (count, corpora) and len(np.unique(found, axis=0)) == count
    assert found.sum(axis=1) == pytest.approx(1)
    for i, name in enumerate(names(corpora)):
        assert found[:, i].min() >= limits["floors"].get(name, 0) - 1e-12
        assert found[:, i].max() <= limits["caps"].get(name, 1) + 1e-12
    assert mixes == Simplex(count, kind, **limits).mixes(names(corpora))


def test_a_design_is_the_same_on_every_machine():
    """Golden: if it moves, every workdir with such a grid trains again."""
    assert matrix(Simplex(6, **LIMITS).mixes(names(3))).tolist() == [
        [0.58, 0.2, 0.22], [0.2, 0.4, 0.4], [0.95, 0.0, 0.05], [0.6, 0.0, 0.4], [0.4, 0.4, 0.2], [0.39, 0.21, 0.4],
    ]  # fmt: skip


def test_a_smaller_space_filling_design_begins_a_larger_one_and_a_seed_makes_another():
    few, many = (Simplex(count, **LIMITS).mixes(names(4)) for count in (5, 12))
    assert many[:5] == few
    assert Simplex(12, seed=1, **LIMITS).mixes(names(4)) != many


def test_every_corner_is_in_a_design_that_has_room_for_them():
    for kind in KINDS:
        found = matrix(Simplex(8, kind).mixes(names(3)))
        assert {(0, 0, 1), (0, 1, 0), (1, 0, 0)} <= {tuple(mix) for mix in found.tolist()}


def test_a_d_optimal_design_tells_more_than_a_space_filling_one_and_than_chance():
    best, filling = (information(matrix(Simplex(16, kind).mixes(names(4)))) for kind in ("d_optimal", "space_filling"))
    rng = np.random.default_rng(0)
    assert best > filling and best > max(information(rng.dirichlet(np.ones(4), 16)) for _ in range(200))


def test_a_space_filling_design_leaves_smaller_holes_than_chance():
    def hole(mixes):
        asked = np.random.default_rng(1).dirichlet(np.ones(4), 500)
        return np.linalg.norm(asked[:, None] - mixes, axis=-1).min(axis=1).max()

    rng = np.random.default_rng(0)
    chance = np.median([hole(rng.dirichlet(np.ones(4), 16)) for _ in range(50)])
    assert hole(matrix(Simplex(16).mixes(names(4)))) < chance


def test_a_mix_is_typed_in_thousandths_that_sum_to_one():
    mix = rounded({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3 - 2e-4, "d": 2e-4})
    assert mix == {"a": 0.334, "b": 0.333, "c": 0.333, "d": 0.0}
