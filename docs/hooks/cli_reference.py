"""MkDocs hook: `reference/cli.md`, every command and flag, from the parsers."""

import argparse
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from cptlaw import cli

PAGE = "reference/cli.md"
HEAD = """# Every command and flag

This page is made from the command line's own parsers. [The command line](../commands.md) says what all commands have in
common, exit codes included. Every command takes `-h`, `-q` and `-v`.
"""
EVERYWHERE = {"help", "quiet", "verbose"}


def on_files(files: Files, config: Any) -> Files:
    """Adds the page."""
    if missing := undescribed():
        raise PluginError(f"{PAGE}: flags without help: {missing}")
    files.append(File.generated(config, PAGE, content=page()))
    return files


def commands(parser: argparse.ArgumentParser | None = None) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """Every command's parser that has no commands below it, and its one line."""
    parser = parser or cli.parser()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, below in action.choices.items():
                inner = list(commands(below))
                yield from inner or [(below, lines.get(name, ""))]


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments that are the command's own."""
    return [action for action in parser._actions if action.dest not in EVERYWHERE]


def undescribed() -> list[str]:
    """The commands without a line, and the arguments without help."""
    found = []
    for parser, line in commands():
        found += [] if line else [parser.prog]
        found += [f"{parser.prog} {spelled(action)}" for action in arguments(parser) if not action.help]
    return found


def page() -> str:
    """The page's Markdown."""
    return "\n".join([HEAD, *(section(parser, line) for parser, line in commands())])


def spelled(action: argparse.Action) -> str:
    """An argument as it is typed."""
    metavar = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    value = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    if action.choices is not None:
        value = "|".join(map(str, action.choices))
    value += " ..." if action.nargs in ("+", "*") else ""
    return f"{', '.join(action.option_strings)} {value}".strip()


def section(parser: argparse.ArgumentParser, line: str) -> str:
    """A command's heading, what it does, and its table of arguments."""
    said = escaped(parser.description or f"{line[:1].upper()}{line[1:]}.")
    lines = [f"\n## {parser.prog}\n", said, "", "| argument | |", "|---|---|"]
    given = arguments(parser)
    for action in sorted(given, key=lambda action: (bool(action.option_strings), not action.required)):
        needed = "**required.** " if action.required and action.option_strings else ""
        said = (action.help or "") % {**vars(action), "prog": parser.prog}
        typed = spelled(action).replace("|", "\\|")
        lines.append(f"| `{typed}` | {needed}{escaped(said)} |")
    return "\n".join(lines if given else lines[:2])


def escaped(text: str) -> str:
    """Plain text that Markdown leaves as it is."""
    return re.sub(r"([|*_<>\[\]`\\])", r"\\\1", " ".join(text.split()))
