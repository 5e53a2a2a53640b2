"""What docs/architecture.md and the import walls say of the rooms is what is on disk."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def modules(*, packages):
    """The names in cptlaw/ that can be imported: packages, or single files."""
    inside = (ROOT / "cptlaw").iterdir()
    if packages:
        return {path.name for path in inside if (path / "__init__.py").exists()}
    return {path.stem for path in inside if path.suffix == ".py" and not path.stem.startswith("__")}


def drawn_layers():
    """The rows of the drawing, from the top: a set of names each."""
    drawing = PAGE.split("```")[1]
    layers = [set()]
    for line in drawing.strip().splitlines():
        if line.startswith("│"):
            layers[-1] |= set(line.replace("│", " ").split())
        elif layers[-1]:
            layers.append(set())
    return [layer for layer in layers if layer]


def test_the_drawing_is_the_layers_that_the_linter_holds():
    (layers,) = (contract["layers"] for contract in CONTRACTS if contract["type"] == "layers")
    assert drawn_layers() == [set(re.split(r"[ |:()]+", layer.strip())) for layer in layers]


def test_every_room_on_disk_is_drawn_and_described():
    *rooms, ground = drawn_layers()
    assert set().union(*rooms) == modules(packages=True)
    assert ground == modules(packages=False)
    described = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert len(described) == len(set(described)) and set(described) == modules(packages=True)


def test_the_walls_are_those_that_the_linter_holds():
    walls = re.findall(r"^- (.*)$", PAGE.split("## Walls")[1], re.MULTILINE)
    assert walls == [contract["name"] for contract in CONTRACTS]


def test_every_file_on_the_two_ways_exists():
    named = re.findall(r"`(\w+/(?:\w+\.py)?)`", PAGE)
    assert len(named) > 12
    for name in named:
        assert (ROOT / "cptlaw" / name).exists(), name


def test_the_drawing_reads_on_a_phone():
    assert max(len(line) for line in PAGE.split("```")[1].splitlines()) <= 42


def test_every_test_room_mirrors_one_of_the_package():
    beside = {"configs", "launch", "colabs", "docs", "journeys"}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders - beside <= modules(packages=True)
