"""Somebody in Colab with a table of theirs: the file lies beside the notebook, and the cells are run in order."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from cptlaw import tables

NOTEBOOK = Path(__file__).parents[2] / "colabs" / "your_own_losses.ipynb"
CHANGES = {'"wiki", "code"': '"wiki", "chemistry"', "BOOTSTRAP = 200": "BOOTSTRAP = 20"}


@pytest.mark.slow
def test_a_table_of_theirs_reaches_a_decision_and_a_page(tmp_path):
    shipped = tables.load("cpt8")
    two = (shipped["w_wiki"] + shipped["w_chemistry"] > 0.99) & shipped["eval"].isin(["wiki", "chemistry"])
    rows = shipped[two & ((shipped["lr"] > 0) | (shipped["tokens"] == 0)) & (shipped["params"] < 2e6)]
    kept = rows[["run", "params", "tokens", "w_wiki", "w_chemistry", "eval", "loss", "seed"]]
    columns = {"run": "name", "params": "N", "tokens": "D", "loss": "val_loss"}
    kept.rename(columns=columns).to_csv(tmp_path / "losses.csv", index=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:  # what the notebook says to change
        cell.source = cell.source.replace('index="w_code"', 'index="w_chemistry"')
        for old, new in CHANGES.items():
            cell.source = cell.source.replace(old, new) if cell.source.startswith("held_out") else cell.source
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    said = "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)
    assert re.search(r"share of chemistry text.*wiki loss stays", said) and "chemistry text" in said
    assert {path.name for path in (tmp_path / "fits").iterdir()} == {"wiki.json", "chemistry.json"}
    assert "<svg" in (tmp_path / "report.html").read_text()
