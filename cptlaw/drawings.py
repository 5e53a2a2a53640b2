"""Pictures of results: the room of reports draws them. It knows fits and decisions, and those find it here alone.

It is imported by name when a picture is asked for, so that a fit loads without matplotlib.
"""

import importlib
from typing import Any


def draw(kind: str, result: Any, **options: Any) -> Any:
    """The picture of a result of this kind (`fit`, `decision`), by `cptlaw.report.figures.pictures`."""
    return getattr(importlib.import_module("cptlaw.report.figures.pictures"), kind)(result, **options)
