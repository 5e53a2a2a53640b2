"""The one exception a user is meant to read, the hint that most of its messages end with, and how a program ends."""

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(Exception):
    """Something the user can mend: a path, row, column, field, flag or ratio.

    The message says what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name most like `name`; None if none is alike enough (`cutoff` is difflib's, 1 for equal names)."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a message about an unknown name: "did you mean 'x'?", or "" if no known name is like it."""
    near = nearest(name, known)
    return f"did you mean {near!r}?" if near else ""


def exit_code(program: str, command: Callable[[], int | None]) -> int:
    """Runs a command of `program`, and returns its exit code: 2, with a message and no traceback, for what a user can
    mend."""
    try:
        return command() or 0
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `cptlaw laws | head` is no error
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a path that may not be read or written
        where = f"{error.filename}: " if error.filename else ""
        print(f"{program}: {where}{error.strerror or error}", file=sys.stderr)
        return 2
