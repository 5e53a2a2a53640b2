"""Forward questions: only what came before is fitted, only what is within reach is asked."""

import numpy as np
import pandas as pd
import pytest

from cptlaw.fitting import forward


@pytest.fixture(scope="module")
def table():
    """5 sizes x 6 token counts, 7 mixes, in no order."""
    n, d, s = (
        v.ravel() for v in np.meshgrid(1e8 * 2.0 ** np.arange(5), 1e9 * 2.0 ** np.arange(6), np.linspace(0.1, 0.9, 7))
    )
    rows = pd.DataFrame({"params": n, "tokens": d, "w_code": s, "w_web": 1 - s, "loss": 2.0})
    return rows.sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.mark.parametrize(
    ("kind", "axes"), [("size", ["params"]), ("tokens", ["tokens"]), ("both", ["params", "tokens"])]
)
def test_rows_asked_lie_beyond_the_rows_fitted_and_within_reach(table, kind, axes):
    made = forward.questions(table, (kind,), most=3)
    assert len(made) == 3 and len({q.what for q in made}) == 3
    for question in made:
        assert question.kind == kind and not (question.train & question.test).any()
        for axis in axes:
            origin = table[axis][question.train].max()
            asked = table[axis][question.test]
            assert asked.min() >= forward.NEAR * origin and asked.max() <= forward.FAR * origin
        for axis in {"params", "tokens"} - set(axes):
            assert table[axis][question.test].max() <= forward.NEAR * table[axis][question.train].max()
        reach = np.max([table[a] / table[a][question.train].max() for a in axes], axis=0)
        np.testing.assert_allclose(question.step[question.test], reach[question.test])


def test_origins_roll_and_the_last_is_kept(table):
    origins = [table["params"][q.train].max() for q in forward.size(table, most=2)]
    assert origins == sorted(origins) and origins[-1] == 8e8 and origins[0] == 2e8


def test_new_mixes_are_asked_whole_and_once(table):
    made = forward.mix(table, most=3)
    mixes = [set(table["w_code"][q.test].round(6)) for q in made]
    assert len(made) == 3 and set.union(*mixes) == set(table["w_code"].round(6)) and sum(map(len, mixes)) == 7
    assert all(not mix & set(table["w_code"][q.train].round(6)) for mix, q in zip(mixes, made))
    assert [set(table["w_code"][q.test].round(6)) for q in forward.mix(table, most=3, seed=1)] != mixes


def test_a_table_that_can_be_asked_nothing_is_asked_nothing():
    assert forward.questions(pd.DataFrame({"loss": [2.0, 1.9]})) == []
    one = pd.DataFrame({"params": 1e8, "tokens": [1e9] * 20, "w_code": 0.5, "w_web": 0.5, "loss": 2.0})
    assert forward.questions(one) == []
    gap = pd.DataFrame({"params": np.repeat([1e8, 1.1e8, 1e10], 6), "tokens": 1e9, "loss": 2.0})
    assert forward.size(gap) == []  # 90 times out nothing is checked
