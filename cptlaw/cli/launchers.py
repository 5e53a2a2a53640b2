"""`cptlaw prepare | train | sweep | score | checks | footprint`: the launchers, which launch/ offers under absl too."""

from typing import Any

from cptlaw.cli import tables
from cptlaw.launching import flags


def add_parsers(subparsers: Any) -> None:
    """Registers a command a launcher."""
    for program in flags.PROGRAMS.values():
        parser = subparsers.add_parser(
            program.name, help=program.about, description=program.about[0].upper() + program.about[1:] + "."
        )
        flags.add_to(parser, program, tables.number)
        parser.set_defaults(run=program.run)
