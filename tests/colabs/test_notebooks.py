"""The notebooks run from top to bottom, one after the other as a reader would take them."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

COLABS = Path(__file__).parents[2] / "colabs"

# The quickstart's loop without a network, and a hundred times smaller.
SHRINK = """
config.corpora.prose.source = "recipe:docstring_prose"
for corpus in (config.corpora.prose, config.corpora.code):
    corpus.max_bytes, corpus.validation_bytes = 100_000, 10_000
config.vocabulary.size = 512
config.eval_max_tokens = 1_000
config.model = {"d_model": 16, "layers": 1, "heads": 1, "kv_heads": 1, "d_ff": 32}
config.sizes = {"small": {}, "medium": {"d_model": 24, "d_ff": 48}, "large": {"d_model": 32, "d_ff": 64}}
config.base.tokens, config.base.warmup_tokens, config.base.cooldown_tokens = 8 * 512, 512, 2 * 512
config.cpt.tokens, config.cpt.warmup_tokens = 8 * 512, 512
config.eval_tokens = (2 * 512, 4 * 512, 8 * 512)
config.held_out.tokens = 4 * 512
config.fit.bootstrap = 20
config.fit.law = "dcpt:constrained=false"  # auto fits five laws to each question of the table
config.workers = 1  # which compiles each size once
config.question.tolerance = 0.5
"""


def execute(name, folder, after="", shrink=""):
    """What a notebook's cells print and show as text; `shrink` is run after the cell that holds `after`."""
    notebook = nbformat.read(COLABS / f"{name}.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "notebooks are committed without outputs"
    if shrink:
        (at,) = (i for i, cell in enumerate(notebook.cells) if after in cell.source)
        notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(shrink))
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


def check_study(folder, shrink):
    said = execute("quickstart", folder, "get_config(", shrink)
    assert "share of code" in said and "90% interval" in said
    assert (folder / "runs/quickstart/report.html").stat().st_size > 50_000
    said = execute("study_tour", folder)
    assert "prose train" in " ".join(said.split()), "the table of the token stores"
    assert said.count("finished") >= 10 and "figures" not in said.split()[-1]
    assert "code: dcpt, " in said and "alpha" in said


@pytest.mark.slow
def test_quickstart_and_tour_small(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    check_study(tmp_path, SHRINK)


@pytest.mark.slow
def test_quickstart_and_tour_as_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    check_study(tmp_path, "")


@pytest.mark.slow
def test_your_own_losses(tmp_path, monkeypatch):
    shrink = "BOOTSTRAP, CANDIDATES = 20, ['chinchilla']"
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    said = execute("your_own_losses", tmp_path, "BOOTSTRAP =", shrink)
    assert "law loss at 7B parameters, 20B tokens, 30% of it: " in said and "behind" in said
    assert "share of law" in said and said.count("90% interval") >= 2
    assert {path.name for path in (tmp_path / "fits").iterdir()} == {"web.json", "law.json"}


@pytest.mark.parametrize("path", sorted(COLABS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_what_a_notebook_imports_is_there(path):
    """The cheap part of running it: its code parses, and every name that it takes from cptlaw exists."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    code = "\n".join(line for cell in cells for line in cell.splitlines() if not line.lstrip().startswith(("!", "%")))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cptlaw":
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


def test_your_own_losses_needs_no_tensorflow():
    source = (COLABS / "your_own_losses.ipynb").read_text()
    code = "import sys; from cptlaw import fitting, report, runs; from cptlaw.fitting import estimate, ranking;"
    code += "from cptlaw.planning import limited_data, tradeoff;"
    code += "assert not {'tensorflow', 'seqio', 'flax', 'orbax'} & set(sys.modules)"
    assert "cptlaw.data" not in source and "cptlaw.studies" not in source
    subprocess.run([sys.executable, "-c", code], check=True)
