"""The `cptlaw` command: parsers here, work in the rooms.

Each sibling module offers `add_parsers(subparsers)`. Nothing heavy is imported until a command runs.
"""

import argparse
import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

import cptlaw
from cptlaw import atomic
from cptlaw.errors import UserError, exit_code
from cptlaw.paths import local

_MODULES = (
    "demo", "runs", "fit", "plan", "watch", "report", "domains", "launchers", "selection", "restoration", "completion",
)  # fmt: skip
# What commands write, and whether it is a folder; looked at before a command begins, since many pay for the work first.
_WRITTEN = {"out": False, "text_out": False, "plot": True, "store_out": True}


class _Parser(argparse.ArgumentParser):
    """A parser with the flags that every command has, which shows the flags that it cannot do without by themselves."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._needed: Any = None
        self.add_argument(
            "-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="show no notes and no progress bars"
        )
        self.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="show where an error comes from"
        )

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Adds an argument, as argparse does."""
        if not options.get("required") or not str(names[0]).startswith("-"):
            return super().add_argument(*names, **options)
        self._needed = self._needed or self.add_argument_group("required flags")
        return self._needed.add_argument(*names, **options)


def parser() -> argparse.ArgumentParser:
    """The parser of every command."""
    made = _Parser(prog="cptlaw", description=cptlaw.__doc__)
    made.set_defaults(quiet=False, verbose=False)
    made.add_argument("--version", action="version", version=f"cptlaw {cptlaw.__version__}")
    subparsers = made.add_subparsers(required=True, metavar="COMMAND")
    for module in _MODULES:
        importlib.import_module(f"cptlaw.cli.{module}").add_parsers(subparsers)
    return made


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit code (2 for anything the user can mend)."""
    made = parser()
    args, rest = made.parse_known_args(argv)
    if rest and not (hasattr(args, "overrides") and rest[0].startswith("--config.")):
        made.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = rest
    return exit_code("cptlaw", lambda: _run(args))


def _run(args: argparse.Namespace) -> Any:
    if args.quiet:
        from cptlaw import progress

        progress.hide()
    for name, value in vars(args).items():
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, Path) and name != "workdir":  # which may be in a bucket
                local(path, name.replace("_", "-"))
    for name, folder in _WRITTEN.items():
        if isinstance(path := getattr(args, name, None), Path):
            atomic.check_place(path, f"--{name.replace('_', '-')}", folder=folder)
    try:
        return args.run(args)
    except UserError:
        if args.verbose:
            traceback.print_exc(file=sys.stderr)
        raise
