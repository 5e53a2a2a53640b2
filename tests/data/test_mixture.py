import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from cptlaw.data.mixture import Mixture, MixtureError, check_weights, permute

STREAM = 2**20


def shares(n):
    def normalise(values):
        return {name: value / sum(values) for name, value in zip("abcdef", values)}

    return st.lists(st.integers(0, 1000), min_size=n, max_size=n).filter(any).map(normalise)


@given(weight=st.floats(0, 1), seed=st.integers(0, 2**31), start=st.integers(0, STREAM))
def test_any_window_of_two_corpora_is_within_one_sequence(weight, seed, start):
    corpus, _ = Mixture({"code": weight, "web": 1 - weight}, seed).locate(np.arange(start, start + 1000))
    # 2^-32 of a share is the resolution of the weights.
    assert abs((corpus == 0).sum() - 1000 * weight) <= 1 + 1000 * 2**-32


@given(weights=st.integers(3, 6).flatmap(shares), seed=st.integers(0, 9), length=st.integers(1, 3000))
def test_prefixes_of_more_corpora(weights, seed, length):
    mixture = Mixture(weights, seed)
    corpus, _ = mixture.locate(np.arange(length))
    counts = np.bincount(corpus, minlength=len(weights))
    assert mixture.counts(length) == dict(zip(mixture.names, counts))
    for name, count in zip(mixture.names, counts):
        # Each level of the nesting adds less than one sequence.
        assert abs(count - length * weights[name]) < len(weights)


@given(weights=st.integers(1, 5).flatmap(shares), seed=st.integers(0, 9))
def test_k_counts_the_corpus_own_sequences(weights, seed):
    corpus, k = Mixture(weights, seed).locate(np.arange(500))
    for c in range(len(weights)):
        np.testing.assert_array_equal(k[corpus == c], np.arange((corpus == c).sum()))


@given(weights=shares(3), seed=st.integers(0, 9), index=st.lists(st.integers(0, 2**31), min_size=1, max_size=50))
def test_random_access(weights, seed, index):
    mixture = Mixture(weights, seed)
    together = np.stack(mixture.locate(np.array(index)))
    one_by_one = np.concatenate([mixture.locate(np.array([i])) for i in index], axis=1)
    np.testing.assert_array_equal(together, one_by_one)


def test_the_end_of_the_stream():
    mixture = Mixture({"a": 1.0})
    for index in (-1, 2**32 - 1):
        with pytest.raises(ValueError, match="the stream has"):
            mixture.locate(np.array([0, index]))


def test_zero_and_one_are_exact():
    index = np.concatenate([np.arange(10_000), [2**32 - 2]])
    for names in (("a", "b", "c"), ("b", "a", "c"), ("c", "a", "b")):
        mixture = Mixture({names[0]: 1.0, names[1]: 0.0, names[2]: 0.0}, seed=3)
        corpus, k = mixture.locate(index)
        assert {mixture.names[c] for c in corpus} == {names[0]}
        np.testing.assert_array_equal(k, index)


def test_names_do_not_depend_on_the_order_given():
    a, b = Mixture({"x": 0.3, "y": 0.7}, 5), Mixture({"y": 0.7, "x": 0.3}, 5)
    assert a.names == b.names
    np.testing.assert_array_equal(a.locate(np.arange(999)), b.locate(np.arange(999)))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "no corpus has a weight"),
        ({"code": 0.5, "web": 0.4}, r"code=0.5, web=0.4.*sum to 0.9"),
        ({"code": -0.5, "web": 1.5}, "'code' is -0.5"),
        ({"code": float("nan"), "web": 1}, "'code' is nan"),
        ({"code": 0.5, "wbe": 0.5}, "no corpus named 'wbe'; there are code, web"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(MixtureError, match=message):
        check_weights(weights, known=["code", "web"])


@given(n=st.integers(1, 5000), seed=st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(n, seed):
    keys = np.full(n, seed, np.uint64)
    np.testing.assert_array_equal(np.sort(permute(np.arange(n), n, keys)), np.arange(n))


def test_permute_shuffles():
    n = 10_000
    a, b = (permute(np.arange(n), n, np.full(n, seed, np.uint64)) for seed in (1, 2))
    for order in (a, b):
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.05
        assert (np.abs(np.diff(order)) == 1).mean() < 0.01
    assert (a == b).mean() < 0.01


def test_the_order_is_the_same_on_every_machine():
    """If this moves, every recorded run's data order has moved: bump the version and say so in the changelog."""
    corpus, k = Mixture({"code": 0.25, "web": 0.75}, seed=7).locate(np.arange(12))
    assert corpus.tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0]
    assert k.tolist() == [0, 1, 2, 0, 3, 4, 5, 1, 6, 7, 8, 2]
    assert permute(np.arange(8), 8, np.full(8, 7, np.uint64)).tolist() == [7, 6, 4, 1, 3, 2, 5, 0]
