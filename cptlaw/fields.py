"""Plain values as dataclasses: every field checked by name and type, so that a misspelt one is an error."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from cptlaw.errors import UserError


class ConfigError(UserError):
    """A config field that is unknown, missing or out of range."""


def unknown(path: str, name: str, known: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
    return ConfigError(f"{path}.{name}: no such field; {hint}")


def build(kind: type, values: Any, path: str) -> Any:
    """`values` as the dataclass `kind`, nested ones too. Raises ConfigError naming the field under `path`."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected fields, got {values!r}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise unknown(path, name, fields)
    hints = typing.get_type_hints(kind)
    arguments = {name: _convert(hints[name], value, f"{path}.{name}") for name, value in values.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in arguments:
            raise ConfigError(f"{path}.{name}: missing; every config must give it")
    return kind(**arguments)


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the annotated type, or a ConfigError. Lists pass for tuples, whole floats for integers."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, path)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}: expected a mapping, got {value!r}")
        return {str(k): _convert(args[1], v, f"{path}.{k}") for k, v in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}: expected a list, got {value!r}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(items) != len(value):
            raise ConfigError(f"{path}: expected {len(items)} entries, got {value!r}")
        return tuple(_convert(a, v, f"{path}[{i}]") for i, (a, v) in enumerate(zip(items, value)))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: expected {hint.__name__}, got {value!r}")
    return value
