"""MkDocs hook: pages that lie beside what they are about, notebooks too, and what `DIR/*` in the nav stands for."""

import base64
import json
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
# Page -> the file that it is, or the files.
ELSEWHERE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "tables_of_losses/": "cptlaw/tables/*.md",
    "benchmarks/": "benchmarks/*.md",
}
NOTEBOOKS = "colabs/*.ipynb"


def on_config(config: Any) -> Any:
    """Writes `DIR/*` in the nav out, in the order of the names."""
    config.nav = _expanded(config.nav, Path(config.docs_dir))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for page, source in elsewhere().items():
        files.append(File.generated(config, page, content=source.read_text()))
    for path in notebooks():
        page = f"notebooks/{path.stem}.md"
        text, pictures = markdown(json.loads(path.read_text()), path.stem)
        files.append(File.generated(config, page, content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def elsewhere() -> dict[str, Path]:
    """Page -> its file, of those that lie outside docs/."""
    found = {}
    for page, source in ELSEWHERE.items():
        for path in sorted(ROOT.glob(source)):
            found[page + path.name if page.endswith("/") else page] = path
    return found


def notebooks() -> list[Path]:
    return sorted(ROOT.glob(NOTEBOOKS))


def _expanded(nav: list[Any], docs: Path) -> list[Any]:
    pages = {*elsewhere(), *(f"notebooks/{path.stem}.md" for path in notebooks())}
    pages |= {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            found.append({name: _expanded(to, docs) if isinstance(to, list) else to for name, to in entry.items()})
        elif entry.endswith("/*"):
            here = sorted(page for page in pages if page.rpartition("/")[0] == entry[:-2] and page not in found)
            if not here:
                raise PluginError(f"nav: {entry} stands for no page")
            found += here
        else:
            found.append(entry)
    return found


def markdown(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """A notebook's page, with the outputs that were saved in it, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            parts.append(_fenced(source, "python"))
            for output in cell["outputs"]:
                parts.append(_output(output, name, pictures))
    return "\n\n".join(filter(None, parts)) + "\n", pictures


def _output(output: dict[str, Any], name: str, pictures: dict[str, bytes]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        file = f"{name}-{len(pictures) + 1}.png"
        pictures[file] = base64.b64decode("".join(data["image/png"]))
        return f"![output {len(pictures)}]({file})"
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    text = "".join(data.get("text/plain", output.get("text", ())))
    return _fenced(text.rstrip(), "text") if text.strip() else ""


def _fenced(text: str, language: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
