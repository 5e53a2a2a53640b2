"""The notebook runs from top to bottom."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "colabs" / "quickstart.ipynb"

# The same loop without a network, and a hundred times smaller.
SHRINK = """
config.corpora.prose.source = "recipe:docstring_prose"
for corpus in (config.corpora.prose, config.corpora.code):
    corpus.max_bytes, corpus.validation_bytes = 150_000, 20_000
config.vocabulary.size = 512
config.eval_max_tokens = 2_000
config.base.tokens, config.base.warmup_tokens, config.base.cooldown_tokens = 32 * 512, 4 * 512, 8 * 512
config.cpt.tokens, config.cpt.warmup_tokens = 16 * 512, 512
config.eval_tokens = (4 * 512, 8 * 512, 16 * 512)
config.held_out.tokens = 8 * 512
config.fit.bootstrap = 50
config.question.tolerance = 0.5
"""


def execute(tmp_path, shrink):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if shrink:
        (at,) = (i for i, cell in enumerate(notebook.cells) if "get_config(" in cell.source)
        notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(SHRINK))
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    return [
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.get("outputs", [])
    ]


def check(tmp_path, shrink):
    text = "".join(execute(tmp_path, shrink))
    assert "share of code" in text and "90% interval" in text
    assert (tmp_path / "runs/quickstart/report.html").stat().st_size > 50_000


def test_quickstart_small(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    check(tmp_path, shrink=True)


@pytest.mark.slow
def test_quickstart_as_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    check(tmp_path, shrink=False)
