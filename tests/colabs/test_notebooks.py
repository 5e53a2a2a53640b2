"""The notebooks run from top to bottom, one after the other as a reader would take them."""

import ast
import importlib.util
import re
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
    for cell in notebook.cells:
        cell.pop("outputs", None)  # those that are committed
        if cell.cell_type == "code":
            cell.outputs = []
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
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    said = execute("your_own_losses", tmp_path, "BOOTSTRAP =", "BOOTSTRAP = 20")
    assert re.search(r"measured 2\.\d+, predicted 2\.\d+, 90% interval", said) and "nearest_size" in said
    share = float(re.search(r"\n +(\d+)% code text, \d+% wiki text: the ceiling", said)[1])
    assert 35 < share < 70 and said.count("90% interval") >= 5
    losses = [float(word) for word in re.findall(r"\d+\.\d{4}", said)]
    assert max(losses) < 50, "no loss is nonsense"
    assert {path.name for path in (tmp_path / "fits").iterdir()} == {"wiki.json", "code.json"}
    assert (tmp_path / "report.html").stat().st_size > 100_000


@pytest.mark.slow
def test_your_own_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    said = execute("your_own_parts", tmp_path, "BOOTSTRAP =", "BOOTSTRAP = 10")
    assert "own.py:own_tokens" in said and "nothing of it is run" not in said
    runs = {path.name for path in (tmp_path / "runs/own/runs").iterdir()}
    assert {name.rpartition("-")[0] for name in runs} == {"base-small", "small-comments0.1-s0", "small-comments0.5-s0"}


NOTEBOOKS = sorted(COLABS.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_committed_as_it_ran_in_one_go(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for output in outputs), "there is a picture to see"
    assert path.stat().st_size < 3e6
    text = path.read_text()
    assert "Traceback" not in text and str(Path.home()) + "/" not in text and "/tmp/" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_opens_in_colab_and_installs_itself(path, monkeypatch, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert "colab-badge.svg)](https://colab.research.google.com/" in notebook.cells[0].source
    install = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    asked = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: asked.append(command))
    monkeypatch.chdir(tmp_path)
    exec(install, {})
    assert asked == [], "where it is installed there is nothing to do"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="Set REPOSITORY, or upload"):
        exec(install, {})
    extra = "" if path.stem == "your_own_losses" else "[train]"
    (tmp_path / "cptlaw-0.1.0-py3-none-any.whl").touch()
    exec(install, {})
    assert asked.pop()[-1] == f"{tmp_path / 'cptlaw-0.1.0-py3-none-any.whl'}{extra}"
    exec(install.replace('REPOSITORY, EXTRA = ""', 'REPOSITORY, EXTRA = "https://github.com/OWNER/cptlaw"'), {})
    assert asked.pop()[-1] == f"cptlaw{extra} @ git+https://github.com/OWNER/cptlaw"


def test_where_the_project_lies_is_written_into_badge_and_install_cell():
    spec = importlib.util.spec_from_file_location("execute", COLABS / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    assert {path.stem for path in NOTEBOOKS} == set(execute.ORDER)
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    for url in ("https://github.com/me/laws.git", "https://github.com/them/laws"):
        execute.place(notebook, "x", url)
    text = "".join(cell.source for cell in notebook.cells)
    assert "colab.research.google.com/github/them/laws/blob/main/colabs/x.ipynb)" in text
    assert 'REPOSITORY, EXTRA = "https://github.com/them/laws", ' in text and "me/laws" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_a_notebook_imports_is_there(path):
    """The cheap part of running it: its code parses, and every name that it takes from cptlaw exists."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    cells = [cell for cell in cells if not cell.startswith("%%")]
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
    code += "from cptlaw import tables; from cptlaw.planning import limited_data, tradeoff;"
    code += "assert not {'tensorflow', 'seqio', 'flax', 'orbax'} & set(sys.modules)"
    assert "cptlaw.data" not in source and "cptlaw.studies" not in source
    subprocess.run([sys.executable, "-c", code], check=True)
