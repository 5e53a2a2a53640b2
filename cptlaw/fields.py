"""Plain values as dataclasses, with every field checked by name, type and range.

A field's range stands in its annotation, beside its type:

    seq_len: Annotated[int, at_least(1)]
    schedule: Annotated[str, OneOf(KINDS)]

A range on a tuple or a mapping holds for each of its values. Of a union of dataclasses, the field `kind` says which one
a value is. `build` makes a dataclass of what a config says, `check`
looks at a dataclass that Python made, and `check_some` at a mapping of some of a dataclass's fields.
"""

import contextlib
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Protocol

import numpy as np

from cptlaw.errors import UserError, did_you_mean


class ConfigError(UserError):
    """A field that is unknown, missing or out of range.

    Attributes:
      field: its path, such as config.cpt.peak_lr.
      said: what is wrong with it, and what would be valid.
    """

    def __init__(self, field: str, said: str):
        super().__init__(field, said)
        self.field, self.said = field, said

    def __str__(self) -> str:
        return f"{self.field}: {self.said}"

    def moved(self, path: str) -> "ConfigError":
        """The same error of a field under `path`, which replaces the first name of its own path."""
        _, dot, rest = self.field.partition(".")
        return ConfigError(path + dot + rest, self.said)


@contextlib.contextmanager
def in_field(path: str) -> Iterator[None]:
    """Names the field that a user's error is about."""
    try:
        yield
    except UserError as error:
        raise ConfigError(path, str(error)) from error


class Rule(Protocol):
    """What a value must be, beside its type."""

    def refuse(self, value: Any) -> str | None:
        """What is wrong with a value of the right type, and what would be valid; None if nothing is."""


@dataclasses.dataclass(frozen=True)
class Range:
    """A finite number between two bounds, either of which may be excluded.

    Attributes:
      low, high: the bounds; infinite ones bound nothing.
      open_low, open_high: whether the bound itself is refused.
      what: the words of the message before the bounds.
      example: a value that would be valid.
      infinite: whether an infinite number is valid too.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    what: str = "must be"
    example: str = ""
    infinite: bool = False

    def refuse(self, value: float) -> str | None:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        if above and below and (self.infinite or abs(value) < math.inf):
            return None
        example = f"; give one such as {self.example}" if self.example else ""
        kind = "" if self.infinite or abs(value) < math.inf else "a finite number "
        return f"{self.what} {kind}{self.bounds()}, not {value}{example}"

    def bounds(self) -> str:
        """The range in words."""
        if not (self.open_low or self.open_high) and math.isfinite(self.low) and math.isfinite(self.high):
            return f"between {self.low:.12g} and {self.high:.12g}"
        parts = []
        if math.isfinite(self.low):
            parts.append(f"{'above' if self.open_low else 'at least'} {self.low:.12g}")
        if math.isfinite(self.high):
            parts.append(f"{'below' if self.open_high else 'at most'} {self.high:.12g}")
        return " and ".join(parts) or "a number"


def at_least(low: float, **words: Any) -> Range:
    return Range(low=low, **words)


def above(low: float, **words: Any) -> Range:
    return Range(low=low, open_low=True, **words)


def between(low: float, high: float, **words: Any) -> Range:
    """Both bounds are valid, unless `open_low` or `open_high` say otherwise."""
    return Range(low=low, high=high, **words)


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A string out of a few."""

    known: Collection[str]

    def refuse(self, value: str) -> str | None:
        if value in self.known:
            return None
        near = did_you_mean(value, self.known)
        return f"one of {', '.join(self.known)}, not {value!r}" + (f"; {near}" if near else "")


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """A string or a collection with something in it."""

    def refuse(self, value: Any) -> str | None:
        return None if value else f"must not be empty, but is {value!r}"


# JAX makes its random keys of 32-bit integers, and a confirming run takes the seed after the largest.
Seed = Annotated[int, between(0, 2**31 - 2, what="a seed lies")]


def plain(value: Any) -> Any:
    """`value` in JSON's types: tuples and arrays as lists, keys as text, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def unknown(path: str, name: str, known: Iterable[str], what: str = "field") -> ConfigError:
    """The error of a field, or of another `what`, that is not among the `known`."""
    known = list(known)
    hint = did_you_mean(name, known) or f"it has {', '.join(known)}"
    return ConfigError(f"{path}.{name}", f"no such {what}; {hint}")


def build(kind: type, values: Any, path: str) -> Any:
    """`values` as the dataclass `kind`, nested ones too. Raises ConfigError naming the field under `path`."""
    if not isinstance(values, Mapping):
        raise ConfigError(path, f"expected fields, got {values!r}")
    hints = _hints(kind)
    for name in values:
        if name not in hints:
            raise unknown(path, name, hints)
    arguments = {name: _value(hints[name], value, f"{path}.{name}") for name, value in values.items()}
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in arguments:
            raise ConfigError(f"{path}.{field.name}", "missing; every config must give it")
    try:
        return kind(**arguments)
    except ConfigError as error:  # of its __post_init__, which does not know the path
        raise error.moved(path) from None


def check(instance: Any, path: str) -> None:
    """Checks the fields of a dataclass that Python made; for its `__post_init__`. Raises ConfigError as `build`."""
    for name, hint in _hints(instance.__class__).items():
        _value(hint, getattr(instance, name), f"{path}.{name}", exact=True)


def check_some(kind: type, values: Mapping[str, Any], path: str, *, but: Collection[str] = ()) -> None:
    """Checks a mapping of some fields of the dataclass `kind`, none of them in `but`. Raises ConfigError as `build`."""
    hints = {name: hint for name, hint in _hints(kind).items() if name not in but}
    for name, value in values.items():
        if name not in hints:
            raise unknown(path, name, hints)
        _value(hints[name], value, f"{path}.{name}", exact=True)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Field name -> annotation, ranges included."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _value(hint: Any, value: Any, path: str, exact: bool = False) -> Any:
    """`value` as the annotated type, its ranges checked; or a ConfigError.

    Lists pass for tuples and whole floats for integers, unless the type must be `exact`.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = _value(args[0], value, path, exact)
        for rule in hint.__metadata__:
            _obey(rule, value, path)
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        if len(kinds := [a for a in args if dataclasses.is_dataclass(a)]) > 1:
            return _of_kind(kinds, value, path)
        return _value(next(a for a in args if a is not type(None)), value, path, exact)
    if dataclasses.is_dataclass(hint):
        return value if exact and isinstance(value, typing.cast(type, hint)) else build(hint, value, path)  # type: ignore[arg-type]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(path, f"expected a mapping, got {value!r}")
        return {str(k): _value(args[1], v, f"{path}.{k}", exact) for k, v in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(path, f"expected a list, got {value!r}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise ConfigError(path, f"expected {len(items)} entries, got {value!r}")
        return tuple(_value(a, v, f"{path}[{i}]", exact) for i, (a, v) in enumerate(zip(items, value)))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and not exact and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(path, f"expected {hint.__name__}, got {value!r}")
    return value


def _of_kind(kinds: Sequence[Any], value: Any, path: str) -> Any:
    """`value` as one of several dataclasses: the one whose default of `kind` it has, or the first."""
    if isinstance(value, tuple(kinds)):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(path, f"expected fields, got {value!r}")
    named = {kind.kind: kind for kind in kinds}
    kind = value.get("kind", next(iter(named)))
    if not isinstance(kind, str) or kind not in named:
        raise ConfigError(f"{path}.kind", OneOf(named).refuse(kind) or "")
    return build(named[kind], value, path)


def _obey(rule: Rule, value: Any, path: str) -> None:
    if value is None:
        return
    each = value if isinstance(value, tuple) else value.values() if isinstance(value, Mapping) else (value,)
    for one in (value,) if isinstance(rule, NotEmpty) else each:
        if (said := rule.refuse(one)) is not None:
            raise ConfigError(path, said)
