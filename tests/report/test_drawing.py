"""What every figure is made with: windows of axes, legends that fit, files for a paper."""

import dataclasses
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from cptlaw.errors import UserError
from cptlaw.report import figures
from cptlaw.report.figures import by_share
from cptlaw.report.figures.drawing import key, legend, window


def test_a_window_leaves_out_a_few_points_that_would_squash_the_others():
    data = np.linspace(1.7, 2.6, 30)
    low, high = window(data)
    assert 1.6 < low < 1.7 and 2.6 < high < 2.7
    assert window(np.r_[data, 6.8, 7.0]) == pytest.approx((low, high), rel=0.04)
    assert window(np.r_[data, 0.1])[0] > 1.5
    # A fifth of the points or more is no few, and what is asked about lies within.
    assert window(np.r_[data, np.full(12, 7.0)])[1] > 7
    assert window(data, np.array([1.2, 3.0])) == pytest.approx((1.2 - 0.108, 3.0 + 0.108))
    assert window(np.array([2.0, 2.0])) == pytest.approx((1.98, 2.02))


@pytest.mark.parametrize("width", [2.0, 4.3, 9.6])
def test_a_legend_lies_within_its_figure(width):
    figure = Figure((width, 3.0), layout="constrained")
    figure.subplots()
    names = ["98.3k tokens", "a corpus with a long name, and then some", "fitted", "measured afterwards", "x"]
    legend(figure, [key("o", "#000000", name) for name in names], width, loc="outside upper left")
    figure.canvas.draw()
    (found,) = figure.legends
    box = found.get_window_extent()
    assert box.x0 >= -1 and box.x1 <= 100 * width + 1
    assert " ".join(found.get_texts()[1].get_text().split()) == names[1]


def test_bands_beyond_the_data_do_not_squash_them(study, monkeypatch):
    fit = study[1]["code"]
    along = by_share.along
    monkeypatch.setattr(by_share, "along", lambda *x: dataclasses.replace(found := along(*x), high=found.high + 5))
    drawing = figures.loss_by_share({"code": fit}, "code", None, 0.9)
    seen = fit.residuals["observed"]
    low, high = drawing.draw(False).axes[0].get_ylim()
    assert high < seen.max() + 0.2 * np.ptp(seen) and drawing.data["high"].max() > high + 3
    assert ("Triangles stand for" in drawing.caption) == bool((~seen.between(low, high)).any())


def test_the_front_is_drawn_where_the_answer_lies(study):
    _, fits, decision, _ = study
    drawing = figures.front(fits["general"], fits["code"], decision, None, 0.9)
    axes = drawing.draw(False).axes[0]
    shown = [axes.get_xlim(), axes.get_ylim()]
    here = [decision.losses[name]["point"] for name in ("general", "code")]
    assert all(low < value < high for (low, high), value in zip(shown, here))
    assert axes.get_xlim()[1] >= decision.inputs["ceiling"]
    ends = drawing.data.iloc[[0, -1]]
    hidden = sum(
        not (shown[0][0] <= row["general loss"] <= shown[0][1] and shown[1][0] <= row["code loss"] <= shown[1][1])
        for _, row in ends.iterrows()
    )
    assert drawing.caption.count("% (") == hidden and "intervals of the expected losses" in drawing.caption


def test_a_figure_for_a_paper_has_the_width_and_the_font_that_are_asked_for(study, tmp_path):
    drawing = study[2].plot()
    drawing.save(tmp_path / "a.svg", width=3.3, font="serif", size=8)
    text = (tmp_path / "a.svg").read_text()
    assert float(re.search(r'width="([\d.]+)pt"', text)[1]) == pytest.approx(3.3 * 72)
    assert "<text" not in text, "letters are outlines, and look the same everywhere"
    drawing.save(tmp_path / "a.pdf", width=3.3)
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    for changes, words in (({"font": "No Such"}, "no font 'No Such'"), ({"width": 0}, "between 1 and 60 inches"),
                           ({"size": 100}, "between 3 and 40 points")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            drawing.save(tmp_path / "b.svg", **changes)
    assert not (tmp_path / "b.svg").exists()
