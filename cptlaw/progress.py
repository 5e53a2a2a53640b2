"""Progress bars that suit where they are read: often at a terminal or in a notebook, seldom in a log."""

import sys
from typing import Any

from tqdm import tqdm


def bar(*, progress: bool, **options: Any) -> tqdm:
    """A tqdm bar on stderr; nothing unless `progress`."""
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(disable=not progress, mininterval=0.5 if live else 30, maxinterval=60, **options)
