"""From a table to the arrays of a fit."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import laws
from cptlaw.errors import UserError
from cptlaw.fitting.rows import collect, evaluated


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "run": ["b", "b", "a", "a", "c", "c"],
            "params": 1e8,
            "tokens": [0, 1e9, 1e9, 1e9, 2e9, 2e9],
            "w_code": [0.2, 0.2, 0.5, 0.5, 0.7, 0.7],
            "w_web": [0.8, 0.8, 0.5, 0.5, 0.3, 0.3],
            "eval": ["code", "code", "code", "web", "code", "code"],
            "loss": [3.0, 2.5, 2.4, 3.1, 2.3, np.nan],
            "status": [None, "ok", "", "ok", "ok", "failed"],
        }
    )


def test_rows_of_failed_runs_and_of_the_base_are_left_out(table):
    rows = collect(table, laws.get("dcpt"), ["code"])
    assert rows.y.tolist() == [2.5, 2.4, 2.3] and rows.x["ratio"].tolist() == [0.2, 0.5, 0.7]
    # Runs are those of the whole table, in order, so that fits of two corpora resample the same ones.
    assert rows.runs == ("a", "b", "c") and rows.run.tolist() == [1, 0, 2] and rows.fitted.all()


def test_a_joint_law_reads_the_corpus_and_its_own_share(table):
    rows = collect(table, laws.joint(laws.get("dcpt"), ("code", "web"), ("beta",)), ("code", "web"))
    assert rows.x["corpus"].tolist() == [0, 0, 1, 0] and rows.x["ratio"].tolist() == [0.2, 0.5, 0.5, 0.7]


def test_unique_tokens_are_those_of_the_evaluated_corpus(table):
    table["unique_tokens_code"] = 5e8
    assert set(collect(table, laws.get("repetition"), ["code"]).x["unique_tokens"]) == {5e8}
    table["unique_tokens"] = 6e8
    assert set(collect(table, laws.get("repetition"), ["code"]).x["unique_tokens"]) == {6e8}


def test_the_hold_out_is_a_query_or_a_mask(table):
    law = laws.get("dcpt")
    assert collect(table, law, ["code"], "tokens > 1e9").held_out.tolist() == [False, False, True]
    mask = (table["tokens"] > 1e9).to_numpy()
    assert collect(table, law, ["code"], mask).held_out.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("law", "corpora", "change", "words"),
    [
        ("dcpt", ["code"], {"status": "failed"}, "all failed or at zero tokens"),
        ("dcpt", ["code"], {"tokens": 0}, "all failed or at zero tokens"),
        ("perplexity", ["code"], {}, "reads 'ppl_mean', which the table lacks"),
        ("perplexity", ["code"], {"ppl_mean": [1, 2, np.nan, 2, 2, 2], "ppl_std": 1}, "empty in row 2"),
    ],
)
def test_what_a_law_cannot_read_is_named(table, law, corpora, change, words):
    with pytest.raises(UserError, match=words):
        collect(table.assign(**change), laws.get(law), corpora)


def test_the_evaluated_corpus_must_be_there_and_chosen(table):
    assert evaluated(table, "web") == ("web",) and evaluated(table, ["web", "code"]) == ("web", "code")
    assert evaluated(table[table["eval"] == "code"], None) == ("code",)
    with pytest.raises(UserError, match="choose one"):
        evaluated(table, None)
    with pytest.raises(UserError, match="no rows with eval law; the table evaluates code, web"):
        evaluated(table, ["law"])
