import json
import multiprocessing

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlaw import runs


def table(**changes):
    rows = {
        "run": ["a", "a", "b", "b"],
        "params": [1e6, 1e6, 2e6, 2e6],
        "tokens": [1e6, 2e6, 1e6, 2e6],
        "w_general": [0.5, 0.5, 0.25, 0.25],
        "w_code": [0.5, 0.5, 0.75, 0.75],
        "eval": ["code"] * 4,
        "loss": [3.0, 2.9, 2.8, 2.7],
    }
    return pd.DataFrame(rows | changes)


@pytest.mark.parametrize("suffix", runs.FORMATS)
def test_round_trip_keeps_the_content_in_every_format(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    runs.write(table(), path)
    back = runs.read(path)
    pd.testing.assert_frame_equal(back[list(table())], table(), check_dtype=False)
    assert runs.digest(back) == runs.digest(table())


def test_the_weights_and_their_average_have_rows_of_their_own():
    both = table(tokens=[1e6, 1e6, 2e6, 2e6], run=["a"] * 4, params=1e6, w_code=0.5, w_general=0.5)
    assert runs.check(both.assign(ema=[0, 0.9, 0, 0.9])) == []
    with pytest.raises(runs.TableError, match="repeats an earlier row's run, eval, tokens, ema"):
        runs.check(both.assign(ema=[0, 0.9, 0.9, 0.9]))


def test_numeric_run_ids_stay_text_in_csv(tmp_path):
    runs.write(table(run=["007", "007", "8", "8"]), tmp_path / "t.csv")
    assert list(runs.read(tmp_path / "t.csv")["run"]) == ["007", "007", "8", "8"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss": [3.0, np.nan, 2.8, 2.7]}, ["line 3", "loss", "not finite"]),
        ({"loss": [3.0, 2.9, -2.8, 2.7]}, ["line 4", "loss", "not positive"]),
        ({"loss": ["3.0", "2.9", "x", "2.7"]}, ["line 4", "loss x", "not a number"]),
        ({"params": [1e6, 1e6, 0.5, 0.5]}, ["line 4", "params 0.5", "billions", "1 more"]),
        ({"tokens": [1e6, 20.0, 1e6, 2e6]}, ["line 3", "tokens", "billions"]),
        ({"tokens": [1e6, 1e6, 1e6, 2e6]}, ["line 3", "repeats", "run, eval, tokens"]),
        ({"w_code": [0.5, 0.5, 0.5, 0.75]}, ["line 4", "sum to 0.75", "w_general, w_code"]),
        ({"w_code": [0.5, 0.5, 1.75, 0.75]}, ["line 4", "w_code 1.75", "share in [0, 1]"]),
        ({"w_code": [50, 0.5, 50, 50], "w_general": [50, 0.5, 50, 50]}, ["line 2", "percentages"]),
        ({"run": ["a", "a", None, "b"]}, ["line 4", "run", "empty"]),
        ({"ema": [0, 0.999, 0, 1]}, ["line 5", "ema 1", "no decay"]),
    ],
)
def test_a_bad_row_is_named_with_its_remedy(tmp_path, changes, words):
    table(**changes).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(runs.TableError) as error:
        runs.read(tmp_path / "bad.csv")
    for word in ["bad.csv", *words]:
        assert word in str(error.value)


def test_line_numbers_survive_where(tmp_path):
    table(loss=[3.0, 2.9, 2.8, -1.0]).to_csv(tmp_path / "t.csv", index=False)
    assert len(runs.read(tmp_path / "t.csv", where="params < 1.5e6")) == 2
    with pytest.raises(runs.TableError, match="line 5"):
        runs.read(tmp_path / "t.csv", where="params > 1.5e6")
    with pytest.raises(runs.TableError, match="no row satisfies"):
        runs.read(tmp_path / "t.csv", where="params > 1e9")
    for query in ("param > 1", "params >", "params"):
        with pytest.raises(runs.TableError, match="columns are run"):
            runs.read(tmp_path / "t.csv", where=query)


def test_foreign_headers_are_mapped_and_missing_ones_named(tmp_path):
    table().rename(columns={"params": "N", "loss": "val_loss"}).drop(columns=["run", "eval"]).to_csv(
        tmp_path / "t.csv", index=False
    )
    df = runs.read(tmp_path / "t.csv", {"params": "N", "loss": "val_loss"})
    assert df["run"].nunique() == 4 and set(df["eval"]) == {"loss"}
    with pytest.raises(runs.TableError, match="did you mean 'val_loss'"):
        runs.read(tmp_path / "t.csv", {"loss": "valloss"})
    with pytest.raises(runs.TableError, match=r"no column 'loss'.*--columns loss=HEADER"):
        runs.read(tmp_path / "t.csv")


def test_unreadable_files_are_user_errors(tmp_path):
    with pytest.raises(runs.TableError, match="no such file"):
        runs.read(tmp_path / "absent.csv")
    for name, text in [
        ("a.csv", ""),
        ("b.parquet", "nonsense"),
        ("c.xls", "x"),
        ("d.jsonl", "[1]\n"),
        ("e.csv", "loss\n"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(runs.TableError, match=name):
            runs.read(tmp_path / name)


def test_warnings_name_base_rows_failed_rows_and_near_misses():
    df = table(tokens=[0, 2e6, 0, 2e6], loss=[3.0, 2.9, 2.8, np.nan], status=["ok", None, "", "killed"], flop=[1] * 4)
    text = "\n".join(runs.check(df))
    assert "2 rows at zero tokens" in text and "1 rows of failed runs" in text and "did you mean 'flops'" in text
    assert runs.check(table()) == []


def test_ratio_is_the_evaluated_corpus_share():
    assert list(runs.ratio(table(), "code")) == [0.5, 0.5, 0.75, 0.75]
    with pytest.raises(runs.TableError, match="general, code"):
        runs.ratio(table(), "law")


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(4)), st.permutations(list(table())))
def test_digest_ignores_order_but_not_content(rows, columns):
    shuffled = table().iloc[rows][columns]
    assert runs.digest(shuffled) == runs.digest(table())
    assert runs.digest(shuffled.assign(loss=shuffled["loss"] + 1e-12)) != runs.digest(table())


def test_append_repairs_a_torn_line(tmp_path):
    path = tmp_path / "runs.jsonl"
    records = table().to_dict("records")
    runs.append(path, records[:2])
    with path.open("a") as file:
        file.write('{"run": "b", "par')
    assert len(runs.read(path)) == 2
    runs.append(path, [records[2] | {"seed": np.int64(3), "loss_se": float("nan")}])
    back = runs.read(path)
    assert list(back["run"]) == ["a", "a", "b"] and back["seed"].iloc[-1] == 3
    with pytest.raises(runs.TableError, match=r"\.jsonl"):
        runs.append(tmp_path / "runs.csv", records)


def _append_many(path, who):
    for i in range(50):
        runs.append(path, [{"run": f"{who}-{i}", "eval": "code", "loss": 1.0}])


def test_appends_of_two_processes_do_not_mix(tmp_path):
    path = tmp_path / "runs.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(path, who)) for who in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["run"] for row in rows}) == len(rows) == 100


def checkpoints(count=200, runs_=("a", "b")):
    rows = [
        {"run": run, "params": 1e9 * (1 + i), "tokens": 1e6 * k, "w_code": 0.5, "w_web": 0.5, "eval": corpus, "loss": 2}
        for i, run in enumerate(runs_)
        for k in range(count)
        for corpus in ("code", "web")
    ]
    return pd.DataFrame(rows)


def test_thinning_keeps_the_early_checkpoints_and_both_corpora():
    kept = runs.thin(checkpoints(), 0.02)
    counts = kept.groupby(["run", "eval"])["tokens"].count()
    # sum of exp(-0.02 i) over 200 checkpoints is 49.6, with a standard deviation of 5
    assert counts.between(30, 70).all() and (counts.xs("code", level=1) == counts.xs("web", level=1)).all()
    early = kept["tokens"] < 50e6
    assert early.mean() > 0.5 and (kept.groupby("run")["tokens"].min() == 0).all()
    pd.testing.assert_frame_equal(kept, runs.thin(checkpoints().sample(frac=1, random_state=0), 0.02).sort_index())
    assert len(runs.thin(checkpoints(), 0)) == 800
    with pytest.raises(runs.TableError, match="rate"):
        runs.thin(checkpoints(), -1)


def test_learnability_is_measured_on_the_smallest_run_with_the_most_of_the_corpus():
    rows = [
        (run, params, tokens, share, 1 - share, corpus, loss)
        for run, params, share, first in (("a", 1e9, 0.2, 9.0), ("b", 1e9, 0.8, 4.0), ("c", 2e9, 0.8, 7.0))
        for corpus, offset in (("code", 0.0), ("web", -1.0))
        for tokens, loss in ((1e6, first + offset), (5e6, first + offset - 1.0), (10e6, first + offset - 1.5))
    ]
    df = pd.DataFrame(rows, columns=["run", "params", "tokens", "w_code", "w_web", "eval", "loss"])
    found = runs.learnability(df, (1e6, 5e6, 10e6)).drop_duplicates("eval").set_index("eval")
    assert found.loc["code", ["k1", "k2", "k3"]].tolist() == [4.0, 1.0, 0.5]  # run b
    assert found.loc["web", ["k1", "k2", "k3"]].tolist() == [8.0, 1.0, 0.5]  # run a has most of web
    asked = runs.learnability(df, (1e6, 5e6), where="run == 'c'")
    assert "k3" not in asked and set(asked["k1"]) == {7.0, 6.0}
    with pytest.raises(runs.TableError, match=r"code: no probing run was evaluated at 2e\+06 tokens"):
        runs.learnability(df, (1e6, 2e6))
    with pytest.raises(runs.TableError, match="two or three, rising"):
        runs.learnability(df, (5e6, 1e6))


def test_a_share_that_rounding_put_below_zero_is_zero(tmp_path):
    left = 1 - (0.7 + 0.2 + 0.1)
    path = tmp_path / "runs.csv"
    rows = [("a", 1e8, 1e9, 1.0, left - 2e-16), ("b", 1e8, 1e9, 0.4, 0.6)]
    frame = pd.DataFrame(rows, columns=["run", "params", "tokens", "w_web", "w_code"]).assign(eval="code", loss=2.0)
    frame.to_csv(path, index=False)
    assert runs.read(path)["w_code"].tolist() == [0.0, 0.6]
    frame.loc[0, "w_code"] = -1e-3
    frame.to_csv(path, index=False)
    with pytest.raises(runs.TableError, match="is not a share"):
        runs.read(path)
