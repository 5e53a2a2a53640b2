"""Shipped tables are small, can be fitted, and are read by name."""

import argparse
import importlib
import re
from pathlib import Path

import pytest

pytest.importorskip("setuptools")  # which brings distutils
import distutils.core

from cptlaw import runs, tables
from cptlaw.cli import tables as cli_tables
from cptlaw.errors import UserError
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid

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


def test_the_shipped_runs_are_those_of_the_config(cpt8):
    """If this fails, run ids have moved: every workdir trains again, and the table belongs to no config any more."""
    study = config_lib.parse(importlib.import_module("configs.cpt8").get_config())
    hashes = re.findall(r"^\| (\w+) \| `(\w{64})` \| `(\w{64})` \|$", tables.sheet("cpt8"), re.MULTILINE)
    planned = grid.plan(study, study.vocabulary.size, {name: f"{train} {held}" for name, train, held in hashes})
    assert [name for name, _, _ in hashes] == list(study.names)
    assert set(cpt8["run"]) <= {run.id for run in planned}
    assert set(cpt8["base"]) <= {run.id for run in planned if run.init is None}


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(UserError, match=r"no shipped table 'cpt9'; there are .*cpt8"):
        tables.load("cpt9")


def test_the_command_line_reads_it_by_name_and_a_file_of_that_name_wins(cpt8, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    parser.add_argument("table", type=Path)
    cli_tables.add_arguments(parser)
    args = parser.parse_args(["cpt8", "--where", "eval == 'code'"])
    assert len(cli_tables.read(args, args.table)) == (cpt8["eval"] == "code").sum()
    Path("cpt8").write_text("this is no table\n")
    with pytest.raises(UserError, match=r"^cpt8: "):
        cli_tables.read(args, args.table)


def test_a_wheel_holds_the_tables(monkeypatch):
    """Package data that setup.py forgets are in the checkout, and in no installation."""
    monkeypatch.chdir(ROOT)
    patterns = distutils.core.run_setup("setup.py", stop_after="init").package_data["cptlaw.tables"]
    packed = {path.name for pattern in patterns for path in tables.path("cpt8").parent.glob(pattern)}
    assert packed >= {f"{name}.{suffix}" for name in tables.names() for suffix in ("parquet", "md")}
