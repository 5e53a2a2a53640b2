"""Intervals by hand, the lack-of-fit term, and coverage."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from cptlaw.fitting import intervals

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("units", "parameters", "df"), [(21, 9, 12), (9, 9, 3), (1000, 5, 995)])
def test_few_runs_expand_the_interval_as_students_t_does(units, parameters, df):
    from scipy.stats import norm, t

    for level in (0.5, 0.8, 0.9):
        reach = norm.ppf((1 + intervals.expanded(level, units, parameters)) / 2)
        assert reach == pytest.approx(t.ppf((1 + level) / 2, df) * np.sqrt(units / (units - 1)), rel=0.01)


@pytest.mark.slow
def test_intervals_cover_the_truth():
    spec = importlib.util.spec_from_file_location("coverage_study", ROOT / "benchmarks" / "coverage.py")
    coverage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(coverage)
    lines = coverage.study(tables=60, run_noise=0.003, row_noise=0.001, kind="law", bootstrap=100)
    covered = lines["truth"].between(lines["low"], lines["high"])[lines["way"] == "percentile"]
    assert 0.82 <= covered.mean() <= 0.97  # 0.9, give or take two standard errors of 60 tables


def test_percentiles_leave_failed_resamples_out():
    samples = np.append(np.linspace(0, 1, 101), [np.nan] * 5)
    low, high = intervals.bounds(np.array(0.5), samples, 0.8)
    assert (low, high) == pytest.approx((0.1, 0.9))


def test_bca_moves_the_interval_where_the_samples_are_biased():
    samples = np.linspace(0, 1, 1001)
    plain = intervals.bounds(np.array(0.5), samples, 0.8)
    np.testing.assert_allclose(intervals.bounds(np.array(0.5), samples, 0.8, "bca", 0.0), plain, atol=2e-3)
    low, high = intervals.bounds(np.array(0.6), samples, 0.8, "bca", 0.0)
    assert low > plain[0] and high > plain[1]


def test_acceleration_is_the_skewness_of_influence():
    runs = {"a": {"E": 1.0}, "b": {"E": 1.0}, "c": {"E": -2.0}}
    found = intervals.acceleration({"E": 1.0}, runs, lambda theta: theta["E"])
    assert found == pytest.approx((1 + 1 - 8) / (6 * 6**1.5))
    assert intervals.acceleration({"E": 1.0}, {}, lambda theta: theta["E"]) == 0
