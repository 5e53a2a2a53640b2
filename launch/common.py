"""The launchers as absl programs; what they do is in cptlaw/launching."""

import argparse
import sys

from absl import app
from absl import flags as absl_flags

from cptlaw.errors import UserError, exit_code
from cptlaw.launching.flags import COMMON, CONFIG, PROGRAMS, Flag


def run(name: str) -> None:
    """Runs a launcher under absl; what the user can mend is a message, not a traceback."""
    program = PROGRAMS[name]
    given = (*program.flags, *COMMON)
    for flag in given:
        _define(flag, required=flag.name in program.required)
    absl_flags.mark_flags_as_required(list(program.required))
    overrides: list[str] = []

    def parse(argv: list[str]) -> list[str]:
        mine, theirs = _split(argv)
        overrides.extend(theirs)
        return app.parse_flags_with_usage(mine)

    def main(argv: list[str]) -> int:
        def start() -> int | None:
            if argv[1:]:
                raise UserError(f"unexpected argument {argv[1]!r}; flags are written --name=value")
            values = {flag.name.replace("-", "_"): absl_flags.FLAGS[flag.name].value for flag in given}
            return program.run(argparse.Namespace(**values, overrides=overrides))

        return exit_code("launch", start)

    sys.modules["__main__"].__doc__ = program.doc()  # what absl's --help shows
    app.run(main, flags_parser=parse)


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words of the flags, and those that change fields of the config."""
    mine, theirs = [], []
    words = iter(argv)
    for word in words:
        if word.lstrip("-").startswith(f"{CONFIG}.") and word.startswith("-"):
            theirs += [word] if "=" in word else [word, *[next(words, "")]]
        else:
            mine.append(word)
    return mine, theirs


def _define(flag: Flag, *, required: bool) -> None:
    """Makes an absl flag, of the module that is run, so that --help lists it."""
    about = flag.help[0].upper() + flag.help[1:] + (" (required)." if required else ".")
    named = {"module_name": sys.argv[0]}
    if flag.kind is bool:
        absl_flags.DEFINE_bool(flag.name, flag.default, about, **named)
    elif flag.choices:
        absl_flags.DEFINE_enum(flag.name, flag.default, list(flag.choices), about, **named)
    elif flag.many:
        absl_flags.DEFINE_multi_string(flag.name, [], about, **named)
    elif flag.kind is int:
        low = None if flag.low is None else int(flag.low)
        absl_flags.DEFINE_integer(flag.name, flag.default, about, lower_bound=low, **named)
    elif flag.kind is float:
        absl_flags.DEFINE_float(flag.name, flag.default, about, lower_bound=flag.low, upper_bound=flag.high, **named)
    else:
        absl_flags.DEFINE_string(flag.name, flag.default, about, **named)
