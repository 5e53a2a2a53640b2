"""Remedies are tried on the same later rows with and without them, in bounded time."""

import numpy as np
import pandas as pd
import pytest
from known_laws import CHINCHILLA

from cptlaw import laws
from cptlaw.errors import UserError
from cptlaw.fitting import answers, trials
from cptlaw.fitting.answers import Answer
from cptlaw.fitting.process import Predictive


@pytest.fixture(scope="module")
def warm():
    """5 sizes x 9 checkpoints of Chinchilla, the first third of each run's above it, and noise."""
    law, rng = laws.get("chinchilla"), np.random.default_rng(3)
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(0.1e9, 3e9, 5), np.geomspace(1e9, 30e9, 9), indexing="ij"))
    off = 1e-3 * rng.standard_normal(45) + 0.08 * (d < 3e9)
    loss = law.predict(CHINCHILLA, {"params": n, "tokens": d}) * np.exp(off)
    return pd.DataFrame({"run": [f"n{v:.3g}" for v in n], "params": n, "tokens": d, "eval": "web", "loss": loss})


def test_late_checkpoints_only_help_where_the_first_are_off(warm):
    (found,) = trials.tried(warm, laws.get("chinchilla"), ["web"])
    assert found.remedy.startswith("late checkpoints only") and found.flag.startswith("--where 'tokens >= ")
    assert found.helps and found.law[1] < 0.5 * found.law[0] and found.rows > 0 and found.runs > 0


def test_no_remedy_is_tried_when_there_is_no_time(warm):
    (found,) = trials.tried(warm, laws.get("chinchilla"), ["web"], seconds=-1.0)
    assert found.why == "there was no time left" and not found.law and not found.helps


@pytest.fixture
def answering(monkeypatch):
    """Laws answer what their name says is off, by a tenth less where rows at share 0 are left out; no fit is made."""
    off = {"dcpt": 0.1, "additive": 0.02}

    def answer(law, rows, question, seed=0, fixed=None):
        if law.name not in off:
            raise UserError("too few rows")
        shift = off[law.name] * (0.5 if rows.frame["w_code"][question.train].min() > 0 else 1.0)
        log_y = np.log(rows.y[question.test]) + shift
        return Answer(log_y, Predictive(log_y, np.ones_like(log_y), {}, 8.0))

    monkeypatch.setattr(answers, "of_law", answer)


def test_laws_and_fewer_shares_are_tried_and_the_same_remedy_counts_once(answering, dcpt_table):
    table = dcpt_table[dcpt_table["eval"] == "code"]
    table = table.assign(w_code=table["w_code"].where(table["w_code"] > 0.1, 0.0))
    table["w_web"] = 1 - table["w_code"]
    found = trials.tried(table, laws.get("dcpt"), ["code"])
    by_flag = {one.flag: one for one in found}
    zero = by_flag["--where 'w_code > 0'"]
    assert zero.helps and zero.law == pytest.approx((0.1, 0.05)) and zero.corrected == pytest.approx((0.1, 0.05))
    assert by_flag["--law additive"].law == pytest.approx((0.1, 0.02))
    assert not by_flag["--where 'w_code < 0.9'"].changes
    assert not by_flag["--law dcpt:free_sign=true; the same with --law dcpt:constrained=false"].changes
    late = next(one for one in found if one.remedy.startswith("late"))
    assert not late.changes
    assert by_flag["--law dcpt_l1"].why == "too few rows"


def test_a_table_too_short_for_a_forward_question_is_asked_what_a_fit_holds_out(answering, dcpt_table):
    table = dcpt_table[(dcpt_table["eval"] == "code") & (dcpt_table["tokens"] > 19e9)]
    table = table[table["params"] == 1e9]
    found = trials.tried(table, laws.get("dcpt"), ["code"])
    assert found and all(one.rows <= len(table) for one in found)
