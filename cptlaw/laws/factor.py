"""A factor covariate: levels of a column (decayed or not, a schedule, an optimizer), each with its own log-loss offset.

The law's loss is multiplied by exp(offset of the level); the level with the most rows has none. So runs that differ in
a knob outside the law can be fitted together, and are asked about at a level.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

from cptlaw.laws.base import Array, Law, LawError, Param

COLUMN = "factor"  # what the law reads: the index into the levels
OFFSET = "offset"  # its parameters are offset[LEVEL]
MOST = 0.5  # of an offset's size, in log loss


@dataclass(frozen=True)
class Factor:
    """A table's `column` and its `levels`, the reference first. `at`: the level that is asked about; None: any."""

    column: str
    levels: tuple[str, ...]
    at: int | None = None

    def index(self, level: object) -> int:
        """Which level `level` is.

        Raises:
          LawError: none of those fitted; the message lists them.
        """
        if (name := level_name(level)) not in self.levels:
            raise LawError(f"no level {name!r} of {self.column} was fitted; there are {', '.join(sorted(self.levels))}")
        return self.levels.index(name)


def level_name(value: object) -> str:
    """A level as text: a number in its shortest form."""
    return value if isinstance(value, str) else f"{value:g}"


@functools.lru_cache(maxsize=64)
def factored(law: Law, column: str, levels: tuple[str, ...]) -> Law:
    """The law with an offset for every level but the first. The same call returns the same object."""

    def function(p: Any, x: Any, xp: Any) -> Array:
        total: Array = 0.0
        for i, level in enumerate(levels[1:], start=1):
            total = total + xp.where(x.factor == i, vars(p)[f"{OFFSET}[{level}]"], 0.0)
        return law.function(p, x, xp) * xp.exp(total)

    about = f"log loss beside that at {column}={levels[0]}"
    offsets = (Param(f"{OFFSET}[{level}]", -MOST, MOST, (-0.02, 0.02), about=about) for level in levels[1:])
    return replace(
        law,
        title=f"{law.title}, with an offset for each {column}",
        equation=f"({law.equation}) exp(offset of {column})",
        params=(*law.params, *offsets),
        columns=(*law.columns, COLUMN),
        function=function,
        factor=Factor(column, levels),
    )


@functools.lru_cache(maxsize=64)
def at_level(law: Law, level: str) -> Law:
    """A factored law that is asked about at one level: it reads no factor, unless rows bring theirs."""
    assert law.factor is not None
    here = law.factor.index(level)
    inner = law.function

    def function(p: Any, x: Any, xp: Any) -> Array:
        if not hasattr(x, COLUMN):
            x = type(x)(**vars(x), **{COLUMN: xp.asarray(float(here))})
        return inner(p, x, xp)

    columns = tuple(name for name in law.columns if name != COLUMN)
    return replace(law, function=function, columns=columns, factor=replace(law.factor, at=here))
