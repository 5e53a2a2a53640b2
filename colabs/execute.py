"""Runs the notebooks and keeps what they print and draw, as they are committed: python colabs/execute.py [NAME ...]

They run one after the other in one empty folder, since the tour reads what the quickstart leaves. `--repository
https://github.com/OWNER/NAME` first writes where the project lies into their badges and install cells.
"""

import argparse
import os
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
ORDER = ("your_own_parts", "quickstart", "study_tour", "your_own_losses")
COLAB = "https://colab.research.google.com/"


def place(notebook: nbformat.NotebookNode, name: str, repository: str) -> None:
    """Writes the repository into the badge and the install cell."""
    owner = repository.removeprefix("https://github.com/").removesuffix(".git").strip("/")
    link = f"{COLAB}github/{owner}/blob/main/colabs/{name}.ipynb"
    for cell in notebook.cells:
        cell.source = re.sub(rf"badge\.svg\)\]\({re.escape(COLAB)}[^)]*\)", f"badge.svg)]({link})", cell.source)
        cell.source = re.sub(r'(REPOSITORY, EXTRA = )"[^"]*"', rf'\1"https://github.com/{owner}"', cell.source)


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Runs all cells, and leaves of their outputs what says something to a reader."""
    NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:  # where it ran is nobody's business
                for texts in (output, output.get("data", {})):
                    for kind, text in texts.items():
                        if isinstance(text, str) and not kind.startswith("image/"):
                            texts[kind] = text.replace(f"{folder}/", "")
    notebook.metadata["language_info"] = {"name": "python"}  # of whatever version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=ORDER, metavar="NAME", help="notebooks (default: all)")
    parser.add_argument("--repository", help="where the project lies, for badges and install cells")
    parser.add_argument("--only-place", action="store_true", help="write --repository and run nothing")
    args = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names:
            path = FOLDER / f"{name}.ipynb"
            notebook = nbformat.read(path, as_version=4)
            if args.repository:
                place(notebook, name, args.repository)
            if not args.only_place:
                execute(notebook, Path(folder))
            nbformat.write(notebook, path)
            print(f"{path.relative_to(FOLDER.parent)}: {path.stat().st_size / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
