"""Forward questions rank laws, corrected laws, auto and rivals, and say what each score rests on."""

import builtins
import sys

import numpy as np
import pandas as pd
import pytest

from cptlaw import fitting
from cptlaw.errors import UserError
from cptlaw.fitting import rivals
from cptlaw.fitting.contests import Contest


@pytest.fixture(scope="module")
def found(chinchilla_table):
    return fitting.contest(chinchilla_table, ["chinchilla", "dcpt"])


def test_each_method_is_ranked_on_the_same_questions_with_what_its_score_rests_on(found):
    table = found.table.set_index("name")
    assert {"chinchilla", "chinchilla, corrected", "auto", "ridge", "gaussian_process", "two_largest"} <= set(
        table.index
    )
    assert table.loc["auto", "error"] == table.loc["chinchilla, corrected", "error"] and set(found.chosen) == {
        "chinchilla"
    }
    whole = found.table[found.table["error"].notna()]
    assert whole["error"].is_monotonic_increasing and (whole["questions"] == 4).all()
    np.testing.assert_allclose(whole["error"], whole[["size", "tokens"]].mean(axis=1))
    assert set(found.asked) == {"size", "tokens"}
    assert found.asked["size"]["questions"] == 2 and found.asked["size"]["rows"] == found.asked["size"]["runs"] == 12
    assert "w_web" in found.refused["dcpt"]


def test_a_rule_that_cannot_answer_every_question_is_shown_but_not_ranked(found):
    last = found.table.iloc[-1]
    assert last["name"] == "extend_run" and np.isnan(last["error"]) and np.isnan(last["size"]) and last["tokens"] > 0
    assert last["questions"] == 2


def test_rules_that_answer_alike_are_one(found):
    assert found.alike == ["nearest_size = carry_tokens"] and "carry_tokens" not in set(found.table["name"])


def test_the_headline_names_the_win_and_every_loss(found):
    assert "beats the best rule without a law" in found.headline() and "It loses" not in found.headline()
    table = pd.DataFrame(
        {"name": ["a", "b", "c"], "what": ["corrected", "rival", "rival"], "law": "", "error": [0.02, 0.03, np.nan],
         "size": [0.03, 0.04, np.nan], "tokens": [0.01, 0.02, 0.005], "questions": 4, "rows": 9, "runs": 3}
    )  # fmt: skip
    lost = Contest(table, {"size": {}, "tokens": {}}, [], {}, [])
    assert lost.standing["wins"] and not lost.standing["kinds"]["tokens"]["wins"]
    assert lost.headline().startswith("a errs by 2.00% and beats the best rule without a law, b, which errs by 3.00%")
    assert lost.headline().endswith("It loses on tokens to c (1.00% against 0.50%).")
    auto = pd.concat([table, table.iloc[:1].assign(name="auto", what="auto", error=0.035)], ignore_index=True)
    told = Contest(auto, {"size": {}, "tokens": {}}, [], {}, ["a", "b"]).headline()
    assert told.endswith("auto, which knew only the rows before each question, errs by 3.50% and loses to that rule.")
    alone = Contest(table[table["what"] == "rival"], {"size": {}}, [], {}, [])
    assert alone.standing == {} and "Nothing can be compared" in alone.headline()


def test_what_cannot_be_asked_is_an_error(chinchilla_table):
    with pytest.raises(UserError, match="7 rows hold no forward question"):
        fitting.contest(chinchilla_table.iloc[:7], ["chinchilla"])
    with pytest.raises(UserError, match="no law could be fitted: dcpt: "):
        fitting.contest(chinchilla_table, ["dcpt"])


def test_boosted_trees_are_a_rival_where_they_are_installed(chinchilla_table, monkeypatch):
    train, asked = chinchilla_table.iloc[:24], chinchilla_table.iloc[24:]

    class Trained:
        def predict(self, wanted):
            return np.zeros(len(wanted))

    class Stand:
        Dataset = staticmethod(lambda x, y: (x, y))
        train = staticmethod(lambda settings, data, rounds: Trained())

    monkeypatch.setitem(sys.modules, "lightgbm", Stand)
    np.testing.assert_allclose(rivals.predict(train, asked, trees=True)["lightgbm"], 1.0)
    assert "lightgbm" not in rivals.predict(train, asked)
    plain = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "lightgbm":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "lightgbm")
    monkeypatch.setattr(builtins, "__import__", absent)
    assert "lightgbm" not in rivals.predict(train, asked, trees=True)
