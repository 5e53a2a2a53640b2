"""Progress bars that suit where they are read: often at a terminal or in a notebook, seldom in a log."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

_shown = True  # whether any bar is


def hide() -> None:
    """Shows no bars in this process from now on, whatever is asked for."""
    global _shown
    _shown = False


def bar(*, progress: bool, **options: Any) -> tqdm:
    """A tqdm bar on stderr; nothing unless `progress`."""
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(disable=not (progress and _shown), mininterval=0.5 if live else 30, maxinterval=60, **options)


@contextlib.contextmanager
def bar_of_fits(progress: bool, total: int, what: str) -> Iterator[Callable[[int], Any] | None]:
    """Yields the function that is told how many fits are done: of a bar at a terminal; None unless `progress`."""
    if not (progress and _shown):
        yield None
        return
    with tqdm(total=total, desc=what, unit="fit", disable=None, leave=False) as shown:
        yield shown.update
