"""Laws and baselines ranked on rows that they were not fitted to."""

import numpy as np
import pytest

from cptlaw import fitting
from cptlaw.errors import UserError
from cptlaw.fitting.ranking import _behind


@pytest.fixture(scope="module")
def ranked(chinchilla_table):
    return fitting.compare(chinchilla_table, ["cmr_tokens", "chinchilla", "dcpt"], fold="size", starts=8, bootstrap=200)


def test_the_right_law_comes_first_and_every_row_is_scored_once(ranked, chinchilla_table):
    names = ranked.table["name"].tolist()
    assert names[0] == "chinchilla" and {"cmr_tokens", "nearest_size", "mean"} <= set(names)
    assert len(ranked.folds) == 5 and all(len(error) == 30 for error in ranked.errors.values())
    assert ranked.table["mean_log"].is_monotonic_increasing
    assert "w_web" in ranked.refused["dcpt"]


def test_the_gap_to_the_best_is_paired_over_runs(ranked):
    first, second = ranked.table.iloc[0], ranked.table.iloc[1]
    assert first["behind"] == 0 == first["behind_low"]
    assert second["behind"] == pytest.approx(second["mean_log"] - first["mean_log"])
    assert 0 < second["behind_low"] < second["behind"] < second["behind_high"]


def test_gaps_by_hand():
    counts = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    gaps = _behind({"worse": np.array([0.2, 0.4]), "best": np.array([0.1, 0.1])}, counts, level=1 - 1e-12)
    assert list(gaps) == ["best", "worse"]
    assert gaps["worse"] == pytest.approx({"behind": 0.2, "behind_low": 0.1, "behind_high": 0.3})


def test_no_law_that_can_be_fitted_is_an_error(chinchilla_table):
    with pytest.raises(UserError, match="no law could be fitted: dcpt: "):
        fitting.compare(chinchilla_table, ["dcpt"], starts=4)
