"""The documentation says what is there: every flag, field and law, links that lead somewhere, commands that exist."""

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest

from cptlaw import cli, laws

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = {"reference/cli.md", "reference/config.md", "contributing.md", "changelog.md"}  # by hooks, with whole folders:
FOLDERS = ("benchmarks/", "tables_of_losses/", "notebooks/")


def hook(name):
    spec = importlib.util.spec_from_file_location(f"hook_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_flag_is_described():
    reference = hook("cli_reference")
    assert reference.undescribed() == []
    page = reference.page()
    assert "## cptlaw plan trade-off" in page and "| `--params PARAMS` | **required.** " in page
    assert "huber\\_scale" in page, "what Markdown would take for emphasis is escaped"


def test_every_field_of_a_config_is_described():
    reference = hook("config_reference")
    assert reference.undescribed() == []
    page = reference.page()
    assert re.search(r"^\| `eval_tokens` \| several int \| required \| tokens of `cpt` at which", page, re.MULTILINE)
    assert re.search(r"^\| `schedule` \| str; one of `constant`.*\| `'constant'` \|", page, re.MULTILINE)
    assert "## A perplexity study" in page and "`mean_levels`" in page
    headings = set(re.findall(r"\{ #([\w-]+) \}", page))
    assert set(re.findall(r"\(#([\w-]+)\)", page)) <= headings


def test_a_field_without_a_line_is_named():
    reference = hook("config_reference")

    class Bare(reference.fields.Range):
        """Has lines for what it inherits, and none here."""

    fields = {field.name: reference.described(Bare, field) for field in reference.shown(reference.fields.Range)}
    assert fields["low"] == fields["high"] == "the bounds; infinite ones bound nothing."
    assert reference.described(Bare, type("Field", (), {"name": "new"})) == ""


def test_every_law_has_its_section():
    page = (ROOT / "docs" / "laws.md").read_text()
    filler = hook("laws")
    assert sorted(filler.MARK.findall(page)) == sorted(laws.names())
    assert page.count("**Fails.**") == len(laws.names())
    assert "L = E + A/N^alpha + B/D^beta\n" in filler.facts("chinchilla")


def test_an_entry_of_several_names_is_split():
    text = "About.\n\nAttributes:\n  low, high: the bounds;\n    none bounds nothing.\n  what: words."
    one_each = "  low: the bounds;\n    none bounds nothing.\n  high: the bounds;\n    none bounds nothing.\n"
    assert hook("docstrings").split(text) == f"About.\n\nAttributes:\n{one_each}  what: words."


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path = target.partition("#")[0]
            if not path or re.match(r"\w+:", path):
                continue
            found = (page.parent / path).resolve()
            made = found.is_relative_to(ROOT / "docs") and found.relative_to(ROOT / "docs").as_posix()
            assert found.exists() or (made and (made in MADE or made.startswith(FOLDERS))), f"{page}: {target}"


def commands(text):
    """The commands in indented or fenced code that a reader may type as they are."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.strip().split("&&"):
            part = re.sub(r"\s{2,}\(.*", "", part)  # a remark after it
            words = part.split()
            if words[:1] == ["cptlaw"] and line.startswith("    ") and "..." not in line and len(words) > 1:
                yield part.strip()


def test_commands_are_those_of_the_parsers():
    made, found = cli.parser(), [(page, command) for page in PAGES for command in commands(page.read_text())]
    assert len(found) > 30
    for page, command in found:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                _, rest = made.parse_known_args(shlex.split(command, comments=True)[1:])
        except SystemExit:
            pytest.fail(f"{page}: {command}: {said.getvalue().splitlines()[-1]}")
        assert all(word.startswith("--config.") for word in rest), f"{page}: {command}"


def test_the_readme_has_the_first_minute():
    readme = (ROOT / "README.md").read_text()
    kinds = [command.split()[1] for command in commands(readme)]
    assert kinds == ["fit", "fit", "plan", "report"]
    assert "make demo" in readme and "make test" in readme and len(readme.split()) < 1000


def test_a_notebook_is_a_page_with_its_pictures():
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": ["1 + 1"],
            "outputs": [
                {"output_type": "execute_result", "data": {"text/plain": ["2"]}},
                {"output_type": "display_data", "data": {"image/png": "aGVsbG8=", "text/plain": ["<Figure>"]}},
            ],
        },
    ]
    text, pictures = hook("pages").markdown({"cells": cells}, "tour")
    assert text == "# Title\ntext\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n\n![output 1](tour-1.png)\n"
    assert pictures == {"tour-1.png": b"hello"}
