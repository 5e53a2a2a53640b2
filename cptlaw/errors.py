"""The one exception a user is meant to read, and the hint that most of its messages end with."""

import difflib
from collections.abc import Iterable


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
