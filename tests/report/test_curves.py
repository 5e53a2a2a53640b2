"""The figures of one fit."""

import dataclasses

import numpy as np
import pytest

from cptlaw import fitting, laws, report
from cptlaw.report.figures import one_fit


def test_a_curve_a_group_spread_over_the_others_levels(study):
    drawing = one_fit.curves(study[1]["code"])
    assert set(drawing.data["along"]) == {"params", "tokens", "ratio"}
    along = drawing.data[drawing.data["along"] == "ratio"]
    assert along["at"].nunique() == one_fit.LINES and (along["low"] <= along["loss"]).all()
    # Whole groups first: each curve spans the shares that were measured.
    assert along.groupby("at")["ratio"].agg(np.ptp).min() == 1.0
    for narrow in (False, True):
        axes = drawing.draw(narrow).axes
        assert [a.get_xlabel() for a in axes] == ["parameters", "tokens", "own share of the mix"]
        assert all(len(a.get_legend().get_texts()) == along["at"].nunique() for a in axes)


def test_residuals_have_one_sign(study):
    """Observed over predicted, in every figure: a row that lies above the law is above zero."""
    fit = study[1]["code"]
    above = fit.residuals.assign(observed=1.1 * fit.residuals["predicted"])
    drawing = report.figures.residuals({"code": dataclasses.replace(fit, residuals=above)})
    assert drawing.data["residual_percent"].to_numpy() == pytest.approx(10)
    assert "Observed over predicted" in drawing.caption


def test_a_joint_fit_is_drawn_corpus_by_corpus(study, tmp_path):
    table = study[0][study[0]["tokens"] > 0]
    joint = fitting.fit(
        table, laws.get("chinchilla"), eval=["code", "general"], shared=["alpha"], bootstrap=0, starts=4
    )
    written = report.write_figures(joint, tmp_path)
    assert [path.name for path in written] == ["curves.png", "residuals.png", "observed.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
