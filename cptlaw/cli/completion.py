"""`cptlaw completion SHELL`: the script by which a shell completes commands, flags and files."""

import argparse
from pathlib import Path
from typing import Any

from cptlaw.errors import UserError


def add_parsers(subparsers: Any) -> None:
    """Registers `completion`."""
    parser = subparsers.add_parser(
        "completion",
        help="print the script by which a shell completes commands and flags",
        description='Prints a script for the shell. In bash: eval "$(cptlaw completion bash)"; in zsh, write it to a '
        "file _cptlaw in a folder of $fpath.",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="whose script it is")
    parser.set_defaults(run=_completion)


def _completion(args: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError:
        raise UserError("completion: shtab is not installed; pip install shtab") from None
    from cptlaw.cli import parser

    whole = parser()
    _files(whole, shtab)
    print(shtab.complete(whole, args.shell))


def _files(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Says of every argument that is a path that it is completed by files, as shtab wants it said."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                _files(one, shtab)
        elif action.type is Path or action.dest in ("config", "workdir", "source"):
            folder = action.dest in ("workdir", "plot", "store", "store_out", "scores")
            action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]
