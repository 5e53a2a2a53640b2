"""What a notebook shows of a fit, a prediction and a decision: a line, a table, a picture."""

import dataclasses

import numpy as np
import pytest

from cptlaw import planning
from cptlaw.errors import UserError


def test_reprs_are_short_and_say_what_it_is(study):
    fit = study[1]["code"]
    assert repr(fit).startswith(f"<Fit of {fit.law.name} to code: ") and len(repr(fit)) < 300
    found = fit.predict(params=4e5, tokens=np.linspace(2e5, 1e6, 30), ratio=0.3)
    assert len(repr(found)) < 400 and "... 22 more" in repr(found) and f"{found.point[0]:.4f} [" in repr(found)
    page = dataclasses.replace(fit, warnings=["a < b"])._repr_html_()
    assert "a &lt; b" in page and all(f"<td>{name}</td>" in page for name in fit.params)


def test_a_decision_prints_as_its_text_and_is_drawn(study, tmp_path):
    decision = study[2]
    assert str(decision) == decision.text() and decision.answer in repr(decision) and len(repr(decision)) < 300
    assert decision._repr_html_().startswith("<pre>")
    decision.plot().save(tmp_path / "share.svg")
    assert "<svg" in (tmp_path / "share.svg").read_text()
    with pytest.raises(UserError, match=r"written as \.png, \.svg or \.pdf"):
        decision.plot().save(tmp_path / "share.doc")
    with pytest.raises(planning.DecisionError, match="no picture of its own"):
        dataclasses.replace(decision, kind="budget", interval={}).plot()


def test_a_fit_is_drawn(study):
    picture = study[1]["code"].plot()
    assert picture._repr_png_().startswith(b"\x89PNG") and len(repr(picture)) < 200 and len(picture.data)
