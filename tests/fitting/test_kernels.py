"""Correlations of how a law misses: their known values, whom they are shared by, and that they are covariances."""

import math

import numpy as np
import pytest

from cptlaw.fitting import kernels

LENGTHS = {"size": 1.0, "tokens": 2.0, "mix": 3.0, "drift": 1.5}


def places(count=12, seed=0):
    rng = np.random.default_rng(seed)
    x = {
        "params": np.exp(rng.normal(20, 1, count)),
        "tokens": np.exp(rng.normal(22, 1, count)),
        "ratio": rng.uniform(0, 1, count),
    }
    return kernels.points(x, np.arange(count) // 3, np.arange(count) // 6, offset=0.01)


@pytest.mark.parametrize(("matern", "nu"), [(kernels.matern32, 1.5), (kernels.matern52, 2.5)])
def test_matern_is_the_bessel_form(matern, nu):
    from scipy.special import kv

    distance = np.array([0.05, 0.5, 1.0, 3.0])
    scaled = math.sqrt(2 * nu) * distance
    np.testing.assert_allclose(
        matern(distance), 2 ** (1 - nu) / math.gamma(nu) * scaled**nu * kv(nu, scaled), rtol=1e-12
    )
    assert matern(np.zeros(1)) == 1


@pytest.mark.parametrize("term", [*kernels.SMOOTH, *kernels.GROUPED])
def test_every_term_is_a_correlation(term):
    at = places()
    matrix = kernels.correlation(term, at, at, LENGTHS)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1)
    assert np.linalg.eigvalsh(matrix).min() > -1e-9


def test_a_run_and_a_base_are_shared_by_their_own_rows_alone():
    at = places()
    same_run = at.run[:, None] == at.run[None]
    np.testing.assert_array_equal(kernels.correlation("run", at, at, LENGTHS), same_run)
    np.testing.assert_array_equal(kernels.correlation("base", at, at, LENGTHS), at.base[:, None] == at.base[None])
    drift = kernels.correlation("drift", at, at, LENGTHS)
    assert (drift[~same_run] == 0).all() and (drift[same_run] > 0).all()
    new = kernels.Points(at.axes, np.full(12, -1), np.full(12, -1), at.domain)  # runs of their own
    assert not kernels.correlation("run", new, new, LENGTHS).any()


def test_a_product_term_is_the_product():
    at = places()
    size, mix = (kernels.correlation(term, at, at, LENGTHS) for term in ("size", "mix"))
    np.testing.assert_allclose(kernels.correlation("mix x size", at, at, LENGTHS), size * mix)


def test_axes_are_logarithms_and_those_that_vary_are_found():
    x = {"params": np.full(3, 1e9), "tokens": np.array([1e9, 2e9, 4e9]), "ratio": np.array([0.0, 0.5, 1.0])}
    at = kernels.points(x, np.arange(3), np.zeros(3, int), offset=0.01)
    np.testing.assert_allclose(at.axes["mix"], np.log([[0.01, 1.01], [0.51, 0.51], [1.01, 0.01]]))
    assert kernels.varying(at) == ("tokens", "mix")
    assert set(kernels.points(x, np.arange(3), np.zeros(3, int), 0.01, axes=("size",)).axes) == {"size"}
