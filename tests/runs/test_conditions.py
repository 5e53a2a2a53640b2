"""Conditions on rows: what they may say, that they agree with pandas, and that nothing in them is run."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlaw import runs

TABLE = pd.DataFrame(
    {
        "run": ["a", "a", "b", "b-2", "007", "C"],
        "params": [1e6, 1e6, 2e9, 2e9, 3e9, np.nan],
        "tokens": [0, 2000, 3000, 4000, 5000, 6000],
        "loss": [3.0, 2.5, np.nan, 2.25, 2.0, 1.5],
        "flag": [True, False, True, True, False, False],
        "note": [None, "x", "y's", 'say "x"', "", "代码"],
        "eval/loss, code": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "w_a-b": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "代码": [1, 2, 3, 4, 5, 6],
        "class": [1, 2, 3, 4, 5, 6],
        "day": pd.to_datetime(["2026-01-01", None, "2026-02-01", "2026-03-01", "2026-04-01", "2026-05-01"]),
    }
)


def chosen(query):
    return list(runs.select(TABLE, query).index)


@pytest.mark.parametrize(
    "query",
    [
        "params < 1e9",
        "params<1e9 and tokens>0",
        "params < 1e9 or run == 'b' and not flag",
        "(params < 1e9 or run == 'b') and not flag",
        "params > 1e6 & tokens < 5000",
        "params > 1e6 | tokens < 1000 & flag",
        "~(params > 1e6) & ~flag",
        "not params > 1e6",
        "1e6 <= params <= 2e9",
        "1000 < tokens < 4000 < params",
        "run in ['a', 'C']",
        "run not in ('a', 'C')",
        "run == ['a', '007']",
        "run != ['a', '007']",
        "tokens in [0, 3000, 6000]",
        "tokens not in [0, 3000]",
        "loss == loss",
        "loss != loss",
        "not loss < 2.5",
        "note == 'x'",
        "note != 'x'",
        "run < 'b'",
        'note == "代码"',
        "flag",
        "not flag",
        "flag == True",
        "tokens / params * 1e6 > 2",
        "tokens // 1000 % 2 == 0",
        "(tokens + 500) ** 2 > 4e6",
        "-tokens < -3000",
        "tokens * 2 - 1 >= 2 ** 3 * 1000",
        "2 ** -1 < loss",
        "`eval/loss, code` > 3",
        "`w_a-b` <= .3",
        "`class` == 3",
        "代码 >= 3",
        "day >= '2026-02-01'",
        "tokens < 1_000 or tokens > 5e+3",
        "params * 0 == 0",
    ],
)
def test_a_condition_chooses_the_rows_that_pandas_chooses(query):
    assert chosen(query) == list(TABLE.query(query, engine="python").index)


numbers = st.sampled_from(["params", "tokens", "loss", "`w_a-b`", "1e9", "2.5", "3000", "0", "1_0"])
signs = st.sampled_from(["+", "-", "*", "/"])
compares = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
columns = st.sampled_from(["params", "tokens", "loss"])
sums = st.one_of(numbers, st.builds("({} {} {})".format, numbers, signs, columns))
leaves = st.one_of(
    st.builds("{} {} {}".format, columns, compares, sums),
    st.builds("{} {} {} {} {}".format, sums, compares, columns, compares, sums),
    st.builds("run {} [{}]".format, st.sampled_from(["in", "not in", "=="]), st.sampled_from(["'a'", "'a', 'C'"])),
    st.sampled_from(["flag", "note == 'x'", "run != 'b'"]),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["and", "or", "&", "|"]), inner),
        st.builds("not ({})".format, inner),
        st.builds("~({})".format, inner),
        st.builds("{} {} {}".format, inner, st.sampled_from(["and", "or", "&", "|"]), inner),
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(conditions)
def test_any_condition_agrees_with_pandas(query):
    with np.errstate(all="ignore"):
        expected = TABLE.eval(query, engine="python")
    if not isinstance(expected, pd.Series):
        return
    assert chosen(query) == list(TABLE.index[expected])


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("@pd.io.common.os.system('touch pwned')", "unexpected '@'"),
        ("@__import__('os').system('touch pwned')", "unexpected '@'"),
        ("__import__('os') == 0", "no column '__import__'"),
        ("__import__('os').system('touch pwned') == 0", "nothing is looked up with a dot"),
        ("run.str.len() > 1", "nothing is looked up with a dot"),
        ("params.__class__ == 1", "nothing is looked up with a dot"),
        ("params.map(print) == 1", "nothing is looked up with a dot"),
        ("sin(params) > 1", "no column 'sin'"),
        ("params(1) > 1", "a condition calls no functions"),
        ("run[0] == 'a'", "no parts to look up"),
        ("`run`.map(print)", "nothing is looked up with a dot"),
        ("(lambda: 1)() == 1", "unexpected ':'"),
        ("lambda == 1", "functions cannot be written here"),
        ("[run for run in loss] == 1", "unexpected 'for'"),
        ("f'{params}' == 'x'", "no column 'f'"),
        ("{'a': 1} == 1", "unexpected '{'"),
        ("params := 3", "unexpected ':'"),
        ("params = 3", "equality is written =="),
        ("params is None", "write == or !="),
        ("params == None", "an empty cell is not equal to itself"),
        ("params == nan", "an empty cell is not equal to itself"),
        ("a; b", "unexpected ';'"),
        ("params < 1e9 # and more", "comments are not part"),
        ("params if flag else loss", "unexpected 'if'"),
        ("params, loss", "unexpected ','"),
        ("params <", "something is missing after 'params <'"),
        ("", "the condition is empty"),
        ("   ", "the condition is empty"),
        ("(params < 1", "something is missing"),
        ("params < 1)", "unexpected ')'"),
        ("params", "params is a number, not a condition"),
        ("run", "run is a text, not a condition"),
        ("1 < 2", "names no column"),
        ("True", "names no column"),
        ("param < 1e9", "did you mean 'params'"),
        ("Params < 1e9", "did you mean 'params'"),
        ("run < 5", "run is text, 5 is number"),
        ("run == 7", "run is text, 7 is number"),
        ("params == '1e9'", "params is number, '1e9' is text"),
        ("run in [1, 2]", "cannot be compared"),
        ("run in [1, 'a']", "a list holds numbers alone, or text alone"),
        ("run in 'abc'", "needs a list"),
        ("run in [loss]", "a list holds"),
        ("params < [1, 2]", "with one value, not with a list"),
        ("[1, 2] == params", "a list stands on the right"),
        ("run + 'x' == 'ax'", "'+' is for numbers, and run is a text"),
        ("~params > 1", "'~' negates a condition"),
        ("params and flag", "'and' joins conditions"),
        ("eval/loss, code > 1", "between backticks"),
        ("w_a-b > 0.3", "between backticks: `w_a-b`"),
        ("`w_a-b > 0.3", "a backtick is not closed"),
        ("run == 'a", "a quote is not closed"),
        ("day > 'soon'", "is no time"),
        ("params < 1e9x", "unexpected"),
        ("(" * 100 + "params < 1" + ")" * 100, "more than 40"),
        ("not " * 100 + "flag", "more than 40"),
        ("- " * 4000 + "params < 1", "more than 40"),
        ("params < 1 or " * 2000 + "flag", "more than the 10000"),
    ],
)
def test_what_is_no_condition_is_refused_and_never_run(tmp_path, monkeypatch, query, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(runs.TableError) as error:
        runs.select(TABLE, query)
    assert words in str(error.value) and "columns are run, params" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_powers_are_bounded():
    assert chosen("9 ** 9 ** 9 ** 9 > tokens") == list(range(6))
    assert chosen("tokens > 1" + "0" * 400) == []


def test_columns_of_mixed_kinds_name_the_row():
    odd = pd.DataFrame({"run": ["a", "b"], "x": [1, "two"], "empty": [None, None]})
    with pytest.raises(runs.TableError, match=r"column 'x' holds number and text \(row 1: 'two'\)"):
        runs.select(odd, "x > 1")
    assert len(runs.select(odd, "empty == 'a'")) == 0 and len(runs.select(odd, "empty != 3")) == 2


def test_hold_out_and_learnability_take_the_same_conditions(table, tmp_path):
    from cptlaw.fitting.rows import collect
    from cptlaw.laws import get

    held = collect(table, get("chinchilla"), ["code"], "params > 5e8").held_out
    assert held.sum() == 12
    for bad in ("@print(1)", "params.sum() > 1"):
        with pytest.raises(runs.TableError, match="hold-out"):
            collect(table, get("chinchilla"), ["code"], bad)
        with pytest.raises(runs.TableError, match="learnability"):
            runs.learnability(table, (1e9, 2e9), where=bad)
        with pytest.raises(runs.TableError, match="--where"):
            table.to_csv(tmp_path / "t.csv", index=False)
            runs.read(tmp_path / "t.csv", where=bad)
