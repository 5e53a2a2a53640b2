"""A saved fit: what it predicts, loads and refuses."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from known_laws import ASKED

from cptlaw import fitting, laws
from cptlaw.errors import UserError
from cptlaw.fitting.saved import VERSION


def test_a_saved_fit_loads_without_jax_and_predicts_the_same(code, tmp_path):
    code.save(tmp_path / "fit.json")
    program = (
        "import sys, json; from cptlaw.fitting import Fit; "
        f"fit = Fit.load({str(tmp_path / 'fit.json')!r}); "
        "p = fit.predict(params=6e9, tokens=20e9, ratio=[.2, .9], method='bca'); "
        "assert not {'jax', 'tensorflow', 'flax', 'scipy'} & set(sys.modules); "
        "print(json.dumps([*p.point, *p.low, *p.high]))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    here = code.predict(**ASKED, ratio=[0.2, 0.9], method="bca")
    np.testing.assert_allclose(json.loads(out), [*here.point, *here.low, *here.high], rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "truncated"),
        (lambda text: "[]", "not a saved fit"),
        (lambda text: text.replace(f'"version": {VERSION}', '"version": 99'), "version 99"),
        (lambda text: text.replace('"params"', '"parms"'), "incomplete"),
    ],
)
def test_a_bad_fit_file_is_refused(code, tmp_path, change, words):
    code.save(tmp_path / "fit.json")
    (tmp_path / "fit.json").write_text(change((tmp_path / "fit.json").read_text()))
    with pytest.raises(UserError, match=words):
        fitting.Fit.load(tmp_path / "fit.json")


def test_a_users_law_does_everything_a_built_in_does(chinchilla_table, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cptlaw.laws import Param, law\n"
        "@law([Param('E', low=0, linear=True), Param('A', low=0, linear=True), Param('a', 0, 3, (0.1, 1)),"
        " Param('B', low=0, linear=True)], ['params', 'tokens'])\n"
        "def tied(p, x, xp):\n"
        "    return p.E + p.A * (x.params / 1e9) ** -p.a + p.B * (x.tokens / 1e9) ** -p.a\n"
    )
    fit = fitting.fit(chinchilla_table, f"{path}:tied", bootstrap=20, starts=8)
    assert fit.params["a"] == pytest.approx(0.36, abs=0.02) and fit.interval("a")[0] < fit.interval("a")[1]
    fit.save(tmp_path / "fit.json")
    loaded = fitting.Fit.load(tmp_path / "fit.json", f"{path}:tied")
    assert loaded.predict(**ASKED).point == fit.predict(**ASKED).point
    path.write_text(path.read_text().replace("1e9", "1e6"))
    with pytest.raises(UserError, match="has changed"):
        fitting.Fit.load(tmp_path / "fit.json", f"{path}:tied")


def test_any_function_has_an_interval(web):
    found = web.of(lambda p: p["alpha"] / (p["alpha"] + p["beta"]), method="bca")
    assert found.low < found.point < found.high and found.samples.shape == (60,)
    assert web.interval("E", level=0.5)[0] > web.interval("E", level=0.9)[0]
    moves = web.moves()
    assert len(moves) == 30 and abs(moves[0][1]) >= abs(moves[-1][1]) > 0


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"params": 1e9, "tokens": 1e9}, "needs ratio"),
        ({"params": 1e9, "tokens": 1e9, "ratio": 1.2}, "share in"),
        ({"params": 0, "tokens": 1e9, "ratio": 0.2}, "positive count"),
        ({"params": 1e9, "tokens": 1e9, "ratio": 0.2, "size": 3}, "does not read size"),
        ({"params": 1e9, "tokens": 1e9, "ratio": 0.2, "level": 1.5}, "level"),
        ({"params": 1e9, "tokens": 1e9, "ratio": 0.2, "method": "magic"}, "percentile, bca"),
    ],
)
def test_bad_questions_are_refused_in_words(code, question, words):
    with pytest.raises(UserError, match=words):
        code.predict(**question)


def never_varied(fit, column, value):
    return dataclasses.replace(fit, ranges=fit.ranges | {column: (value, value)})


@pytest.mark.parametrize(("column", "value", "near"), [("ratio", 0.5, 0.5005), ("tokens", 8e9, 8.01e9)])
def test_what_never_varied_is_answered_at_its_value_only(code, column, value, near):
    fit = never_varied(code, column, value)
    assert fit.unmoved == (column,) and code.unmoved == ()
    asked = {**ASKED, "ratio": 0.5, column: value}
    assert fit.predict(**asked).point == code.predict(**asked).point
    fit.predict(**{**asked, column: near})
    with pytest.raises(UserError, match=f"every fitted row has {column} = .*; add runs at other values of {column}"):
        fit.predict(**{**asked, column: 1.2 * value})
    with pytest.raises(UserError, match="every fitted row"):
        fit.predict(**{**asked, column: [value, 0.8 * value]})


def test_shares_must_sum_to_one_and_keep_to_what_was_measured(mixes_table):
    fit = fitting.fit(mixes_table, "mixing", bootstrap=0, starts=4)
    assert np.isfinite(fit.predict(shares={"web": 0.2, "code": 0.3, "math": 0.5}).point)
    with pytest.raises(UserError, match=r"w_code, w_math, w_web sum to 1\.1, not 1"):
        fit.predict(shares={"web": 0.3, "code": 0.3, "math": 0.5})
    tied = fit.residuals.assign(w_code=2 * fit.residuals["w_math"], w_web=1 - 3 * fit.residuals["w_math"])
    with pytest.raises(UserError, match="shares of code, math, web moved in step"):
        dataclasses.replace(fit, residuals=tied).predict(shares={"web": 0.2, "code": 0.3, "math": 0.5})


def test_one_corpus_of_a_joint_fit_has_its_own_ranges(dcpt_table):
    some = dcpt_table[(dcpt_table["eval"] == "web") | (dcpt_table["w_code"] == 0.5)]
    fit = fitting.fit(some, "chinchilla", ["code", "web"], shared=["alpha"], bootstrap=0, starts=2)
    fit = dataclasses.replace(fit, law=laws.joint(laws.get("dcpt"), ("code", "web"), ("alpha",)))
    assert fit.single("code").unmoved == ("ratio",) and fit.single("web").unmoved == ()
