"""What is asked about tables of the right form: status words, labels, two runs under one id, units, perplexities."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import runs


def refused(path, **kwargs):
    with pytest.raises(runs.TableError) as error:
        runs.read(path, **kwargs)
    return str(error.value)


# Status.


@pytest.mark.parametrize(
    "word",
    ["ok", "OK", "finished", "FINISHED", "Finished ", "completed", "COMPLETED", "complete", "success", "Succeeded",
     "done", ""],
)  # fmt: skip
def test_every_word_for_a_finished_run_is_one(table, saved, word):
    found = runs.read(saved(table.assign(status=["ok" if i % 3 else word for i in range(len(table))])))
    assert runs.finished(found).all() and runs.check(found) == []


@pytest.mark.parametrize(
    "word",
    ["failed", "FAILED", "crashed", "killed", "running", "TIMEOUT", "OUT_OF_MEMORY", "out of memory", "NODE_FAIL",
     "Preempted", "CANCELLED", "diverged"],
)  # fmt: skip
def test_every_word_for_an_unfinished_run_is_left_out_with_a_count(table, saved, word):
    status = [word if i < 4 else "ok" for i in range(len(table))]
    found = runs.read(saved(table.assign(status=status, loss=[np.nan if s != "ok" else 2.0 for s in status])))
    assert runs.finished(found).sum() == len(table) - 4
    assert f"4 rows of failed runs (status not ok; {word.strip()}: 4)" in "\n".join(runs.check(found))


@pytest.mark.parametrize("word", ["fine", "okay!", "terminated", "True", "0", "good"])
def test_an_unknown_status_is_named_with_its_count(table, saved, word):
    said = refused(saved(table.assign(status=[word if i in (5, 6, 9) else "ok" for i in range(len(table))])))
    assert "line 7: status" in said and f"3 rows {word!r}" in said and f"--where \"status != '{word}'\"" in said
    path = saved(table.assign(status=[word if i in (5, 6, 9) else "ok" for i in range(len(table))]))
    assert len(runs.read(path, where=f"status != '{word}'")) == len(table) - 3


# Labels.


@pytest.mark.parametrize("twin", ["Code", "CODE", "ｃｏｄｅ"])
def test_corpora_that_differ_by_case_are_named(table, saved, twin):
    said = refused(saved(table.assign(eval=[twin if i % 4 == 1 else "code" for i in range(len(table))])))
    assert "line 3" in said and f"12 rows say {twin!r}" in said and "36 say 'code'" in said


def test_inner_blanks_and_shares_of_another_spelling_are_named(table, saved):
    spaced = table.assign(eval=["my  code" if i % 2 else "my code" for i in range(len(table))])
    assert "differs only by case or blanks" in refused(saved(spaced))
    assert "is trained on as w_code" in refused(saved(table.assign(eval="Code")))
    split = table.assign(w_Code=table["w_code"] / 2, w_code=table["w_code"] / 2)
    assert "columns w_code, w_Code differ only by case" in refused(saved(split))


def test_runs_that_differ_by_case_are_two_with_a_word(table):
    upper = table.assign(run=[r.upper() if i % 4 == 0 else r for i, r in enumerate(table["run"])])
    assert any("'N3E+07-R0.1', 'n3e+07-r0.1'" in word and "runs of their own" in word for word in runs.check(upper))


# One run, one size, one mix.


def test_a_run_of_two_sizes_is_refused(table, saved):
    table.loc[5, "params"] = 3e8
    said = refused(saved(table))
    assert "line 7: params 300000000.0 differs from 3e+07 in line 6 of the same run 'n3e+07-r0.3'" in said
    table.loc[5, "params"] = 3.0001e7  # a rounded count is the same size
    assert len(runs.read(saved(table))) == len(table)


def test_a_run_of_two_mixes_is_refused(table, saved):
    table.loc[[6, 7], ["w_code", "w_web"]] = [0.4, 0.6]
    said = refused(saved(table))
    assert (
        "line 8: w_code 0.4 differs from 0.3 in line 6" in said and "one run has one mix" in said and "1 more" in said
    )


def test_the_base_rows_and_failed_rows_of_a_run_may_differ(table, saved):
    table.loc[0, ["tokens", "w_code", "w_web"]] = [0, 0.0, 1.0]
    table["status"] = ["failed" if i == 5 else "ok" for i in range(len(table))]
    table.loc[5, "params"] = 3e8
    assert len(runs.read(saved(table))) == len(table)


# Units.


@pytest.mark.parametrize(
    ("column", "power", "words"),
    [
        ("params", 6, "is it in millions? Write params as a count (30e6)"),
        ("params", 9, "is it in billions? Write params as a count (0.03e9)"),
        ("tokens", 9, "is it in billions? Write tokens as a count (1e9)"),
        ("tokens", 6, "is the column tokens in millions? Write it as a count (1000e6, or 1e+09)"),
    ],
)
def test_a_whole_column_in_another_unit_is_questioned(table, saved, column, power, words):
    assert words in refused(saved(table.assign(**{column: table[column] / 10**power})))


def test_large_sizes_in_millions_are_questioned(table, saved):
    large = table[table["params"] > 5e8]
    large = large.assign(params=7000.0, run=large["run"] + "x")
    assert "is the column params in millions? Write it as a count (7000e6, or 7e+09)" in refused(saved(large))


def test_doubtful_units_can_be_trusted_and_are_then_a_warning(table, saved):
    table["tokens"] /= 1e6
    path = saved(table)
    assert "say so with --trust-units" in refused(path)
    found = runs.read(path, trust_units=True)
    assert any("is the column tokens in millions?" in word for word in runs.check(found))


@pytest.mark.parametrize("power", [3, 6])
def test_one_run_in_another_unit_is_questioned(table, saved, power):
    table.loc[table["run"] == "n3e+08-r0.3", "tokens"] /= 10**power
    said = refused(saved(table))
    assert "run 'n3e+08-r0.3': tokens" in said and "another unit?" in said and "may be 8e+09" in said


@pytest.mark.parametrize("power", [3, 6])
@pytest.mark.parametrize("rows", [[2, 3], [1, 2, 3], [0], [0, 1], [0, 1, 2], [1], [2], [3]], ids=str)
def test_a_run_whose_checkpoints_change_unit_is_questioned(table, saved, rows, power):
    table.loc[rows, "tokens"] /= 10**power
    said = refused(saved(table))
    assert "run 'n3e+07-r0.1' goes from" in said and "in two units" in said


def test_one_size_in_another_unit_is_questioned(table, saved):
    table.loc[table["run"] == "n3e+07-r0.3", "params"] = 3e4
    said = refused(saved(table))
    assert "run 'n3e+07-r0.3'" in said and "another unit?" in said


def test_wide_but_honest_tables_are_not_questioned(saved):
    rng = np.random.default_rng(0)
    honest = pd.DataFrame(
        [
            {"run": f"{n:g}-{k}", "params": n, "tokens": n * k * f, "eval": "web", "loss": 2 + rng.random()}
            for n in (1e6, 1e7, 1e8, 1e9, 1e10) for k in (5, 20, 160, 640) for f in (1 / 64, 1 / 8, 1)
        ]
    )  # fmt: skip
    assert len(runs.read(saved(honest))) == len(honest) and runs.check(honest) == []
    early = pd.DataFrame({"run": "pythia", "params": 1e9, "tokens": 2.0 ** np.arange(21, 38), "eval": "web"})
    assert runs.check(early.assign(loss=np.linspace(9, 2.5, len(early)))) == []
    tiny = honest.assign(params=honest["params"] / 1e3, tokens=honest["tokens"])
    assert runs.check(tiny) == []


# Losses.


def test_perplexities_given_as_losses_are_questioned(table, saved):
    assert "is the column loss a perplexity" in refused(saved(table.assign(loss=np.exp(table["loss"]))))
    assert "is the column loss a perplexity" in refused(saved(table.assign(loss=np.exp(table["loss"] + 2))))
    shares_only = table.drop(columns=["params", "tokens"]).drop_duplicates("run")
    assert "a perplexity, or a sum over tokens" in refused(saved(shares_only.assign(loss=2500.0)))
    poor = table.assign(params=table["params"] / 1e3, loss=table["loss"] + 3)
    assert runs.check(poor) == []


def test_diverged_rows_are_named_with_their_run(table, saved):
    table.loc[[5, 6], "loss"] = 18.4
    found = runs.read(saved(table))
    (said,) = runs.check(found)
    assert "2 rows have a loss above 13.8" in said and "n3e+07-r0.3" in said and "--where 'loss < 13.8'" in said
    assert runs.check(runs.read(saved(table), where="loss < 13.8")) == []


def test_numbers_as_people_write_them_are_read_and_words_refused(table, saved):
    found = runs.read(saved(table.assign(params=[f"{v / 1e6:g}M" for v in table["params"]])))
    assert found["params"].tolist() == table["params"].tolist()
    assert "params: 30M and the like are read as 30000000.0" in found.attrs["notes"]
    said = refused(saved(table.assign(params=[f"{v / 1e6:g} million" for v in table["params"]])))
    assert "params 30 million is not a number" in said
