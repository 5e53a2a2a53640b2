"""A factor from the table to a saved fit: its offset is found, kept, asked about and refused where unknown."""

import numpy as np
import pytest

from cptlaw import fitting
from cptlaw.fitting import Fit, FitError
from cptlaw.laws import LawError

OFFSET = 0.03


@pytest.fixture(scope="module")
def table(chinchilla_table):
    level = np.arange(len(chinchilla_table)) % 3 == 0
    return chinchilla_table.assign(
        schedule=np.where(level, "constant", "cosine"),
        loss=chinchilla_table["loss"] * np.exp(OFFSET * level),
    )


@pytest.fixture(scope="module")
def found(table):
    return fitting.fit(table, "chinchilla", factor="schedule", bootstrap=20, starts=8)


def test_the_offset_is_found(found):
    assert found.law.factor.levels == ("cosine", "constant")
    assert found.params["offset[constant]"] == pytest.approx(OFFSET, abs=2e-3)


def test_both_the_law_and_its_process_are_asked_at_a_level(found):
    asked = {"params": 2e9, "tokens": 30e9}
    for target in ("law", "run"):
        at = {level: found.at_level(level).predict(**asked, target=target) for level in ("cosine", "constant")}
        assert np.log(at["constant"].point / at["cosine"].point) == pytest.approx(OFFSET, abs=3e-3)
        assert at["constant"].low < at["constant"].point < at["constant"].high


def test_a_saved_fit_keeps_its_factor(found, tmp_path):
    found.save(tmp_path / "fit.json")
    again = Fit.load(tmp_path / "fit.json").at_level("constant")
    asked = {"params": 2e9, "tokens": 30e9}
    assert again.predict(**asked).point == found.at_level("constant").predict(**asked).point


def test_a_question_without_a_level_or_with_an_unknown_one_lists_the_levels(found):
    with pytest.raises(FitError, match="level of schedule, one of constant, cosine"):
        found.predict(params=2e9, tokens=30e9)
    with pytest.raises(LawError, match=r"no level 'linear'.*constant, cosine"):
        found.at_level("linear")


@pytest.mark.parametrize(
    ("change", "column", "said"),
    [
        (lambda t: t, "schedul", "did you mean 'schedule'"),
        (lambda t: t, "tokens", "reads it already"),
        (lambda t: t.assign(schedule="cosine"), "schedule", "1 levels in 30 rows"),
        (lambda t: t.assign(schedule=t["run"]), "schedule", "30 levels in 30 rows"),
        (lambda t: t.assign(schedule=t["schedule"].where(t.index != 4)), "schedule", "empty in row 4"),
    ],
)
def test_a_column_that_is_no_factor_is_refused(table, change, column, said):
    with pytest.raises(FitError, match=said):
        fitting.fit(change(table), "chinchilla", factor=column, bootstrap=0)
