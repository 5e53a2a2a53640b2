"""What a tracker's table lacks comes from a second file, from flags, or from numbers as people write them."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import runs
from cptlaw.units import number


def notes(df):
    return "\n".join(df.attrs["notes"])


def refused(*args, **kwargs):
    with pytest.raises(runs.TableError) as error:
        runs.read(*args, **kwargs)
    return str(error.value)


@pytest.fixture
def pair(tmp_path):
    """Losses and mixtures in two files that an index joins, as data sets of mixing experiments are published."""
    rng = np.random.default_rng(0)
    corpora = [f"c{i}" for i in range(14)]
    shares = rng.dirichlet(np.ones(14), 20).round(3)
    mixture = pd.DataFrame(shares, columns=[f"train_pile_{c}" for c in corpora]).rename_axis("index").reset_index()
    losses = pd.DataFrame({f"metric/pile_{c}_val_loss": rng.uniform(2, 4, 20) for c in corpora[:13]})
    losses = losses.rename_axis("index").reset_index()
    mixture.sample(frac=1, random_state=1).to_csv(tmp_path / "mixture.csv", index=False)
    losses.to_csv(tmp_path / "losses.csv", index=False)
    return tmp_path / "losses.csv", tmp_path / "mixture.csv", losses, mixture


def test_two_files_are_joined_by_what_both_have(pair):
    path, other, losses, mixture = pair
    said = refused(path, join=other)
    assert "--loss '*=metric/pile_*_val_loss'" in said and "--columns 'w_*=train_pile_*'" in said
    found = runs.read(path, {"w_*": "train_pile_*"}, losses={"*": "metric/pile_*_val_loss"}, join=other)
    assert len(found) == 20 * 13 and runs.corpora(found) == [f"c{i}" for i in range(14)]
    one = found[(found["run"] == "7") & (found["eval"] == "c3")].iloc[0]
    assert one["loss"] == losses["metric/pile_c3_val_loss"][7]
    total = mixture.iloc[7, 1:].sum()
    assert one["w_c5"] == pytest.approx(mixture["train_pile_c5"][7] / (total if abs(total - 1) > 1e-3 else 1))
    assert "by index" in notes(found)


def test_rows_without_a_partner_are_left_out_with_a_word_and_tables_without_a_key_are_refused(pair, tmp_path):
    path, _, _, mixture = pair
    mapping = {"columns": {"w_*": "train_pile_*"}, "losses": {"c0": "metric/pile_c0_val_loss"}}
    mixture[:15].rename(columns={"index": "run_id"}).to_csv(tmp_path / "fewer.csv", index=False)
    found = runs.read(path, **mapping, join=tmp_path / "fewer.csv")
    assert len(found) == 15 and "5 rows without a partner" in notes(found) and "index and its run_id" in notes(found)
    pd.concat([mixture, mixture]).to_csv(tmp_path / "twice.csv", index=False)
    assert "more than once" in refused(path, **mapping, join=tmp_path / "twice.csv")
    mixture.drop(columns="index").to_csv(tmp_path / "none.csv", index=False)
    assert "no column says which rows belong together" in refused(path, **mapping, join=tmp_path / "none.csv")
    assert "no such file" in refused(path, **mapping, join=tmp_path / "no.csv")


def test_a_chart_is_joined_with_the_table_of_its_runs(table, saved, tmp_path):
    chart = {"Step": sorted(table["tokens"].unique())}
    for run, rows in table.groupby("run", sort=False):
        chart[f"{run} - val/loss"] = rows.sort_values("tokens")["loss"].to_numpy()
        chart[f"{run} - val/loss (smoothed)"] = 9.0
    about = table.drop_duplicates("run")[["run", "params", "w_code", "w_web"]]
    about = about.rename(columns={"run": "Name", "params": "n_params"}).assign(State="finished", params="")
    about.drop(columns="params").to_csv(tmp_path / "about.csv", index=False)
    found = runs.read(
        saved(pd.DataFrame(chart)), {"tokens": "Step", "params": "n_params"}, eval="code", join=tmp_path / "about.csv"
    )
    merged = found.merge(table, on=["run", "tokens"], suffixes=("", "_true"))
    assert len(merged) == len(table) == len(found)
    for name in ("loss", "params", "w_code"):
        np.testing.assert_array_equal(merged[name], merged[f"{name}_true"])
    assert "smoothed columns are left out" in notes(found) and set(found["status"]) == {"finished"}


@pytest.mark.parametrize("header", ["Step", "_step", "global_step", "trainer/global_step", "Iteration"])
def test_steps_become_tokens(table, saved, header):
    steps = table.drop(columns="tokens").assign(**{header: table["tokens"] / 1e6})
    found = runs.read(saved(steps), tokens_per_step=1e6)
    np.testing.assert_allclose(found["tokens"], table["tokens"])
    assert "--tokens-per-step N" in runs.missing(runs.read(saved(steps.assign(k=range(len(steps))))), "tokens")
    assert "leave --tokens-per-step out" in refused(saved(table), tokens_per_step=8)
    assert "give a positive number" in refused(saved(steps), tokens_per_step=0)
    assert "no column step" in refused(saved(table.drop(columns="tokens").drop_duplicates("run")), tokens_per_step=8)


def test_the_best_of_several_step_columns_counts(table, saved):
    both = table.drop(columns="tokens").assign(
        _step=range(len(table)), **{"trainer/global_step": table["tokens"] / 1e6}
    )
    np.testing.assert_allclose(runs.read(saved(both), tokens_per_step=1e6)["tokens"], table["tokens"])


def test_a_column_that_is_the_same_in_all_rows_can_be_given(table, saved):
    one = table[table["params"] == table["params"].iloc[0]]
    found = runs.read(saved(one.drop(columns="params")), constants={"params": "30M"})
    assert set(found["params"]) == {3e7}
    assert "leave --set out" in refused(saved(one), constants={"params": "30M"})
    assert "write a number" in refused(saved(one.drop(columns="params")), constants={"params": "big"})


def test_counts_and_shares_as_people_write_them(table, saved):
    words = table.assign(
        params=[f"{v / 1e6:g}M" for v in table["params"]],
        tokens=[f"{v / 1e9:g}B" for v in table["tokens"]],
        w_code=[f"{100 * v:.12g}%" for v in table["w_code"]],
        w_web=[f"{100 * v:.12g} %" for v in table["w_web"]],
    )
    found = runs.read(saved(words))
    for name in ("params", "tokens", "w_code", "w_web"):
        np.testing.assert_allclose(found[name], table[name], rtol=1e-12)
    assert "are read as" in notes(found)
    percent = table.assign(w_code=100 * table["w_code"], w_web=100 * table["w_web"])
    found = runs.read(saved(percent))
    np.testing.assert_allclose(found["w_code"], table["w_code"])
    assert "read as percentages" in notes(found)
    odd = words.assign(tokens=[*words["tokens"][:-1], "much"])
    assert "tokens much is not a number" in refused(saved(odd))


def test_runs_are_told_by_the_name_that_trackers_give_them(table, saved):
    named = table.rename(columns={"run": "Name"})
    found = runs.read(saved(named))
    assert list(found["run"]) == list(table["run"]) and "told by 'Name'" in notes(found)


def test_a_pattern_has_one_star_on_each_side(table, saved):
    wide = table.drop(columns=["eval", "loss"]).assign(**{"val/loss_a": 2.0, "val/loss_b": 3.0, "val/loss_b__MAX": 9.0})
    assert set(runs.read(saved(wide), losses={"*": "val/loss_*"})["eval"]) == {"a", "b"}
    assert "one * on each side" in refused(saved(wide), losses={"a": "val/loss_*"})
    assert "no header is like that" in refused(saved(wide), losses={"*": "test/loss_*"})


def test_what_a_table_was_read_by_is_kept(table, saved):
    path = saved(table.rename(columns={"params": "N"}))
    assert runs.read(path, {"params": "N"}, "params > 0").attrs["reading"] == {
        "table": str(path), "columns": {"params": "N"}, "where": "params > 0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [("7B", 7e9), ("2.1b", 2.1e9), ("160M", 1.6e8), ("512k", 512e3), ("1T", 1e12), ("30%", 0.3), ("7e9", 7e9),
     ("2.3B", 2.3e9), (" 1_000k", 1e6), ("1e3M", 1e9), ("-2", -2.0), ("inf", np.inf)],
)  # fmt: skip
def test_numbers_as_they_are_written(text, value):
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "B", "7x", "7BB", "1,000", "seven"])
def test_what_is_no_number(text):
    with pytest.raises(ValueError):
        number(text)
