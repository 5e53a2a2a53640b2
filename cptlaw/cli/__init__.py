"""The `cptlaw` command: parsers here, work in the rooms.

Each sibling module offers `add_parsers(subparsers)`. Nothing heavy is imported until a command runs.
"""

import argparse
import importlib

import cptlaw
from cptlaw.errors import exit_code

_MODULES = ("demo", "selection", "fit", "plan", "report")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code (2 for anything the user can mend)."""
    parser = argparse.ArgumentParser(prog="cptlaw", description=cptlaw.__doc__)
    parser.add_argument("--version", action="version", version=f"cptlaw {cptlaw.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _MODULES:
        importlib.import_module(f"cptlaw.cli.{module}").add_parsers(subparsers)
    args = parser.parse_args(argv)
    return exit_code("cptlaw", lambda: args.run(args))
