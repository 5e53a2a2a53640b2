"""A table rejects a wrong law and not a right one, whatever its runs and checkpoints have in common."""

import itertools

import numpy as np
import pandas as pd
import pytest
from known_laws import CHINCHILLA, pose
from scipy import stats

from cptlaw import laws
from cptlaw.fitting import estimate, lack_of_fit
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.rivals import log_linear
from cptlaw.fitting.rows import collect
from cptlaw.fitting.verdicts import LEVEL

SIZES, TOKENS = np.geomspace(0.1e9, 3e9, 8), np.geomspace(1e9, 30e9, 6)


def table(seed=0, repeats=3, run=0.01, checkpoint=5e-4, wrong=lambda n, d: 0.0, tokens=TOKENS, base=None, sizes=SIZES):
    """Chinchilla with effects of runs and checkpoints, and of bases where `base` is their scale: two bases a size."""
    law, rng, rows = laws.get("chinchilla"), np.random.default_rng(seed), []
    for n in sizes:
        effects = (base or 0.0) * rng.standard_normal(2)
        for seed in range(repeats):
            off = run * rng.standard_normal() + effects[seed % 2] + checkpoint * rng.standard_normal(len(tokens))
            loss = law.predict(CHINCHILLA, {"params": n, "tokens": tokens}) * np.exp(off + wrong(n, tokens))
            for d, y in zip(tokens, loss):
                rows.append((f"{n:.3g}-{seed}", n, d, "web", y, seed, f"b{seed % 2}"))
    out = pd.DataFrame(rows, columns=["run", "params", "tokens", "eval", "loss", "seed", "base"])
    return out if base is not None else out.drop(columns="base")


def examined(rows, law="chinchilla", truth=CHINCHILLA):
    """The tests at the law's true parameters: a fit comes near them, and costs a compilation."""
    problem, collected = pose(rows, law, Objective())
    theta = np.array([truth[name] for name in problem.free])
    return lack_of_fit.examine(problem, collected, theta)["web"]


def of(found, what):
    return next((test for test in found.tests if test.what == what), None)


def test_a_right_law_is_rejected_no_more_often_than_nominal_whatever_runs_have_in_common():
    count = 24
    found = [examined(table(seed)) for seed in range(count)]
    assert sum(one.rejected for one in found) <= stats.binom.ppf(0.99, count, LEVEL)
    for what in ("settings", "curves", "along tokens"):
        p = np.array([of(one, what).p for one in found])
        assert np.mean(p < 0.1) < 0.2, what
    assert 0.2 < np.mean([of(one, "settings").p for one in found]) < 0.8  # it is a test: not always 1


def test_drift_within_runs_is_no_lack_of_fit():
    def drifting(seed):
        rng, rows = np.random.default_rng(1000 + seed), table(seed)
        drift = rng.normal(scale=0.003, size=(rows["run"].nunique(), len(TOKENS))).cumsum(axis=1)
        return rows.assign(loss=rows["loss"] * np.exp(drift.ravel()))

    assert sum(examined(drifting(seed)).rejected for seed in range(20)) <= stats.binom.ppf(0.99, 20, LEVEL)


def test_a_wrong_law_is_rejected_with_its_numbers():
    found = examined(table(run=0.004, wrong=lambda n, d: 0.03 * np.cos(3 * np.log(n)) + 0 * d))
    settings = of(found, "settings")
    assert found.rejected and settings.p < 1e-3 and (found.settings, found.runs) == (8, 24)
    assert 0.002 < settings.noise < 0.007 and 0.005 < settings.miss < 0.04
    assert "the law misses settings by" in found.words() and "8 settings repeated by 24 runs" in found.words()
    bent = examined(table(wrong=lambda n, d: 0.01 * np.cos(3 * np.log(d))))
    assert of(bent, "curves").p < 1e-3 and of(bent, "along tokens").p < 1e-3 and bent.rejected
    assert of(bent, "settings").p > 0.01 and "bend away from the law together" in bent.words()


def test_without_repeats_there_is_no_f_test_but_runs_that_bend_together_still_tell():
    sizes = np.geomspace(0.1e9, 3e9, 12)
    found = examined(table(repeats=1, wrong=lambda n, d: 0.01 * np.cos(3 * np.log(d)), sizes=sizes))
    assert [test.what for test in found.tests] == ["along tokens"] and found.rejected
    assert "no F test can be had" in found.words() and found.settings == found.runs == 0
    assert not examined(table(repeats=1, sizes=sizes)).rejected


def test_misses_along_a_share_keep_their_sign(mixes_table):
    law, truth = "mixing", {"c": 1.5, "k": 0.4 * np.exp(-1.2), "t[code]": 1.7, "t[math]": 1.2}
    problem, rows = pose(mixes_table, law, Objective())
    assert set(problem.free) == set(truth)
    theta = np.array([truth[name] for name in problem.free])
    right = lack_of_fit.examine(problem, rows, theta)["web"]
    assert {t.what for t in right.tests} == {"along w_web", "along w_code", "along w_math"} and not right.rejected
    bent = mixes_table.assign(loss=lambda t: t["loss"] * np.exp(0.05 * np.cos(9 * t["w_math"])))
    problem, rows = pose(bent, law, Objective())
    assert of(lack_of_fit.examine(problem, rows, theta)["web"], "along w_math").p < 0.01


def test_a_base_models_own_effect_is_not_a_miss_where_the_table_names_bases():
    alone = [examined(table(seed, repeats=6, run=0.002, base=0.03)) for seed in range(10)]
    assert all(of(one, "settings") is None or of(one, "settings").p > 0.001 for one in alone)
    unnamed = [examined(table(seed, repeats=6, run=0.002, base=0.03).drop(columns="base")) for seed in range(10)]
    assert all(of(one, "settings") is not None for one in unnamed)


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        (table(repeats=1, sizes=SIZES[:1]), set()),  # one run
        (table(repeats=4, sizes=SIZES[:1]), {"curves", "along tokens"}),  # one size: it is its own mean
        (table(tokens=TOKENS[-1:]), {"settings"}),  # one checkpoint a run
        (table(run=0.0, checkpoint=0.0), set()),  # the law fits exactly
        (table().assign(loss=2.0), set()),  # all the same: repeats are copies
    ],
)
def test_tables_that_hold_little_give_few_tests_and_no_nan(rows, kinds):
    found = examined(rows)
    assert kinds <= {test.what for test in found.tests}
    assert all(np.isfinite([t.p, t.statistic, t.noise, t.miss, *t.df]).all() and 0 <= t.p <= 1 for t in found.tests)
    assert 0 <= found.p <= 1 and isinstance(found.words(), str)


def test_a_copy_of_a_run_is_no_repeat():
    rows = table(repeats=1)
    copied = pd.concat([rows, rows.assign(run=rows["run"] + "-again")], ignore_index=True)
    assert examined(copied) == examined(rows)
    assert examined(rows).settings == 0


def test_settings_are_an_analysis_of_variance():
    """Of a law that is a constant, F is that of a one-way analysis of variance (SciPy's)."""
    rng = np.random.default_rng(0)
    groups = [rng.normal(scale=0.01, size=k) + 0.01 * i for i, k in enumerate((3, 4, 5))]
    rows = [
        (f"{i}-{j}", size, 1e9, "web", np.exp(v))
        for i, (size, g) in enumerate(zip(SIZES, groups))
        for j, v in enumerate(g)
    ]
    frame = pd.DataFrame(rows, columns=["run", "params", "tokens", "eval", "loss"])
    law = log_linear(("tokens",), ())
    collected = collect(frame, law, ("web",))
    problem = estimate.pose(collected, law, Objective(), {"b[tokens]": 0.0})
    found = lack_of_fit.examine(problem, collected, np.array([0.01]))["web"]
    truth = stats.f_oneway(*groups)
    settings = of(found, "settings")
    assert (settings.statistic, settings.p) == pytest.approx((truth.statistic, truth.pvalue))
    assert settings.df == (2, 9)


def test_a_parameter_on_a_bound_moves_inwards_only():
    slopes, off = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.array([0.0, 1.0, 2.0])
    weight, free = np.ones(3), np.zeros((2, 2), bool)
    left, rank, move = lack_of_fit._least_squares(slopes, off, weight, free)
    assert rank == 2 and np.allclose(left, 0) and np.allclose(move, [0, 1])
    upper = np.array([[False, False], [False, True]])
    left, rank, move = lack_of_fit._least_squares(slopes, off, weight, upper)
    assert rank == 1 and np.allclose(move, [1, 0]) and np.allclose(left, [-1, 0, 1])
    left, rank, _ = lack_of_fit._least_squares(slopes, off, weight, upper[::-1])
    assert rank == 2 and np.allclose(left, 0)


def test_stretches_of_equal_sign_are_counted_exactly():
    plus, minus = 4, 3
    orders = set(itertools.permutations([1] * plus + [0] * minus))
    counts = np.array([1 + np.count_nonzero(np.diff(order)) for order in orders])
    for stretches in range(2, 8):
        assert lack_of_fit.few_stretches(stretches, plus, minus) == pytest.approx(np.mean(counts <= stretches))
    assert lack_of_fit.few_stretches(1, 5, 0) == 1.0
    exact, near = lack_of_fit.few_stretches(90, 100, 100), lack_of_fit.few_stretches(91, 101, 101)
    assert exact == pytest.approx(near, abs=0.02)
