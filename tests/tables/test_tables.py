"""Shipped tables are small, can be fitted, and are read by name."""

from pathlib import Path

import pytest

pytest.importorskip("setuptools")  # which brings distutils
import distutils.core

from cptlaw import runs, tables
from cptlaw.cli import main
from cptlaw.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cpt8():
    return tables.load("cpt8")


def test_a_table_by_its_name(cpt8):
    assert "cpt8" in tables.names()
    assert cpt8["eval"].isin(runs.corpora(cpt8)).all() and len(runs.corpora(cpt8)) == 9
    assert {"run", "params", "tokens", "loss", "loss_se", "seed", "base", "lr_sum", "lr_anneal"} <= set(cpt8)
    assert not cpt8.duplicated(["run", "tokens", "eval"]).any()
    assert cpt8["loss"].between(0, 12).all()


def test_a_run_trains_on_the_general_corpus_and_one_domain_and_is_evaluated_on_both(cpt8):
    domains = [f"w_{name}" for name in runs.corpora(cpt8) if name != "wiki"]
    assert (cpt8[domains] > 0).sum(axis=1).max() == 1
    mixed = cpt8[cpt8[domains].sum(axis=1) > 0]
    assert mixed.groupby("run")["eval"].nunique().eq(2).all()
    assert cpt8[cpt8["w_wiki"] == 1].groupby("run")["eval"].nunique().eq(9).all()


def test_every_shipped_table_is_small_and_has_a_data_sheet():
    for name in tables.names():
        assert tables.path(name).stat().st_size <= 2_000_000
        sheet = tables.sheet(name)
        assert f"# {name}" in sheet
        for heading in ("Columns", "Corpora", "Noise", "What it is not good for", "How much is done"):
            assert f"\n## {heading}\n" in sheet, heading


def test_the_sheet_counts_the_table(cpt8):
    assert f"{len(cpt8):,} rows of {cpt8['run'].nunique()} runs" in tables.sheet("cpt8")
    assert runs.digest(cpt8)[:16] in tables.sheet("cpt8")


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(UserError, match=r"no shipped table 'cpt9'; there are .*cpt8"):
        tables.load("cpt9")


def test_the_command_line_reads_it_by_name_and_a_file_of_that_name_wins(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["fit", "cpt8", "--eval", "code", "--law", "dcpt", "--bootstrap", "0", "--where", "params < 5e4"]
    assert main([*command, "--out", "fit.json"]) == 0
    assert "code" in capsys.readouterr().out
    Path("cpt8").write_text("this is no table\n")
    assert main(command) != 0


def test_a_wheel_holds_the_tables(monkeypatch):
    """Package data that setup.py forgets are in the checkout, and in no installation."""
    monkeypatch.chdir(ROOT)
    patterns = distutils.core.run_setup("setup.py", stop_after="init").package_data["cptlaw.tables"]
    packed = {path.name for pattern in patterns for path in tables.path("cpt8").parent.glob(pattern)}
    assert packed >= {f"{name}.{suffix}" for name in tables.names() for suffix in ("parquet", "md")}
