"""Griffe extension: of an entry of a docstring that describes several names, `low, high: the bounds`, one for each."""

import re
from typing import Any

import griffe

SEVERAL = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<said>.*(?:\n(?P=indent) +\S.*)*)", re.MULTILINE)


class OneEach(griffe.Extension):
    """Rewrites the docstrings before they are parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each object that Griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = split(obj.docstring.value)


def split(text: str) -> str:
    """A docstring whose entries describe a name each."""
    return SEVERAL.sub(lambda m: "\n".join(f"{m['indent']}{n}: {m['said']}" for n in m["names"].split(", ")), text)
