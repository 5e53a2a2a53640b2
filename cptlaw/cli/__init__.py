"""The `cptlaw` command: parsers here, work in the rooms.

Each sibling module offers `add_parsers(subparsers)`. Nothing heavy is imported until a command runs.
"""

import argparse
import importlib
import sys

import cptlaw
from cptlaw.errors import UserError

_MODULES = ("demo", "selection", "fit", "plan", "report")


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code (2 for anything the user can mend)."""
    parser = argparse.ArgumentParser(prog="cptlaw", description=cptlaw.__doc__)
    parser.add_argument("--version", action="version", version=f"cptlaw {cptlaw.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in _MODULES:
        importlib.import_module(f"cptlaw.cli.{module}").add_parsers(subparsers)
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"cptlaw: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cptlaw: interrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `cptlaw laws | head` is not an error.
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a path that may not be read or written
        print(f"cptlaw: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 2
