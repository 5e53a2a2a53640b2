"""What is published: the wheel, what it says of itself, and its use in an empty folder with its dependencies alone."""

import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cptlaw

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == cptlaw.__version__
    assert re.search(r"^date-released: \d{4}-\d\d-\d\d$", citation, re.MULTILINE)
    assert re.search(rf"^## {re.escape(cptlaw.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from the tracked files alone, elsewhere, because building leaves files beside what is built."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/", "benchmarks/")):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "source" / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "built"]
    assert subprocess.run([*build, folder / "source"], cwd=folder).returncode == 0
    (built,) = (folder / "built").glob("cptlaw-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_says_what_it_is_and_holds_what_it_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = email.message_from_bytes(archive.read(next(n for n in names if n.endswith("METADATA"))))
    assert {f"Programming Language :: Python :: {version}" for version in VERSIONS} <= set(about.get_all("Classifier"))
    assert any("https://arxiv.org/" in url for url in about.get_all("Project-URL"))
    assert (
        "JAX" in about["Keywords"]
        and about["Author"]
        and "Apache-2.0" in (about["License-Expression"], about["License"])
    )
    assert {"cptlaw/py.typed", "cptlaw/tables/cpt8.parquet", "cptlaw/configs/demo.py", "launch/train.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]


def interpreter(version):
    """A CPython of a version, on the path or among those that pyenv has; None if there is none that runs."""
    ours = sys.executable if sys.version.startswith(f"{version}.") else None
    for path in (ours, shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")):
        said = subprocess.run([path, "--version"], capture_output=True, text=True).stdout if path else ""
        if said.startswith(f"Python {version}."):
            return path
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_the_wheel_is_used_in_an_empty_folder(wheel, tmp_path, version):
    """The first minute and the launchers, with the core's dependencies alone, as an index has them now."""
    if (found := interpreter(version)) is None:
        pytest.skip(f"there is no CPython {version} here")
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([found, "-m", "venv", tmp_path / "env"], check=True)
    installed = subprocess.run([python, "-m", "pip", "install", "-q", wheel], capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(*words, code=0):
        done = subprocess.run(
            [python, *words], capture_output=True, text=True, cwd=empty,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        return done

    where = run("-c", "import cptlaw, cptlaw.configs, launch; print(cptlaw.__file__, cptlaw.configs.__file__, launch)")
    assert where.stdout.count(str(tmp_path / "env")) == 3
    fit = ["-m", "cptlaw", "fit", "cpt8", "--law", "dcpt:constrained=false", "--bootstrap", "40", "--no-remedies"]
    for corpus in ("code", "wiki"):
        rows = "params < 2e6 and w_code + w_wiki > 0.99"
        told = run(*fit, "--eval", corpus, "--where", rows, "--out", f"{corpus}.json")
        assert "D-CPT" in told.stdout
    ask = ["--params", "755k", "--tokens", "3M", "--out", "decision.json"]
    plan = run("-m", "cptlaw", "plan", "trade-off", "--general", "wiki.json", "--domain", "code.json", *ask)
    assert "% code text" in plan.stdout
    run("-m", "cptlaw", "report", "cpt8", "--fits", "code.json", "wiki.json", "--decisions", "decision.json")
    assert "% code text" in (empty / "report.html").read_text()
    for words in (["-m", "launch.checks"], ["-m", "cptlaw", "checks"]):
        refused = run(*words, "--workdir=work", code=2)
        assert "pip install 'cptlaw[train]'" in refused.stderr
    told = run("-m", "launch.train", "--help", code=1).stdout  # absl's own exit code of --help
    assert all(f"--{name}" in told for name in ("config", "workdir", "share", "processes")) and "(required)" in told
