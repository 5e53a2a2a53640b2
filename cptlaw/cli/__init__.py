"""The `cptlaw` command: parsers here, work in the rooms.

Each sibling module offers `add_parsers(subparsers)`. Nothing heavy is imported until a command runs.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

import cptlaw
from cptlaw import atomic
from cptlaw.errors import exit_code
from cptlaw.paths import local

_MODULES = ("demo", "selection", "runs", "fit", "domains", "plan", "report")
# What commands write, and whether it is a folder; looked at before a command begins, since many pay for the work first.
_WRITTEN = {"out": False, "text_out": False, "plot": True, "store_out": True}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code (2 for anything the user can mend)."""
    parser = argparse.ArgumentParser(prog="cptlaw", description=cptlaw.__doc__)
    parser.add_argument("--version", action="version", version=f"cptlaw {cptlaw.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _MODULES:
        importlib.import_module(f"cptlaw.cli.{module}").add_parsers(subparsers)
    args = parser.parse_args(argv)
    return exit_code("cptlaw", lambda: _run(args))


def _run(args: argparse.Namespace) -> Any:
    for name, value in vars(args).items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and name != "workdir":  # which may be in a bucket
                local(path, name.replace("_", "-"))
    for name, folder in _WRITTEN.items():
        if isinstance(path := getattr(args, name, None), Path):
            atomic.check_place(path, f"--{name.replace('_', '-')}", folder=folder)
    return args.run(args)
