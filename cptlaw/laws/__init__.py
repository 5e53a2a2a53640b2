"""Scaling laws as data: `get("dcpt")`, `names()`, `load("my_laws.py:name")`. Equations only; fitting is next door."""

import dataclasses
import functools
import importlib
import inspect
import pkgutil
from typing import Any

import pandas as pd

from cptlaw import runs
from cptlaw.laws.base import BUILDERS, Law, LawError, Param, builder, joint, law
from cptlaw.registry import is_own

__all__ = ["Law", "LawError", "Param", "builder", "for_table", "get", "joint", "law", "load", "names", "parse"]


# Every module here registers the laws that it builds.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def names() -> list[str]:
    """Every built-in law."""
    return list(BUILDERS)


def get(name: str, **options: Any) -> Law:
    """A built-in law by name, or a user's by `FILE.py:NAME`. The same call returns the same object.

    Raises:
      LawError: no such law or option.
    """
    if is_own(name):
        if options:
            raise LawError(f"{name}: a law from a file takes no options")
        return load(name)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    defaults = options_of(name) if name in BUILDERS else {}
    for option, value in options.items():  # any text would count as true; and to the cache, 0 is False
        if isinstance(defaults.get(option), bool) and not isinstance(value, bool):
            raise LawError(f"law {name}: {option}={value} is neither true nor false")
    return _get(name, tuple(sorted(options.items())))


@functools.lru_cache(maxsize=256)
def _get(name: str, options: tuple[tuple[str, Any], ...]) -> Law:
    build, known = BUILDERS.find(name), options_of(name)
    for option, _ in options:
        if option not in known:
            raise LawError(f"law {name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    built = build(**dict(options))
    return dataclasses.replace(built, options=dict(options))


def options_of(name: str) -> dict[str, Any]:
    """Option -> default of a built-in law."""
    return {k: p.default for k, p in inspect.signature(BUILDERS[name]).parameters.items()}


def example(name: str) -> Law:
    """A built-in law as `get` gives it; a mixing law with two corpora named web and code."""
    return get(name, **({"corpora": ("web", "code")} if "corpora" in options_of(name) else {}))


def for_table(text: str, table: pd.DataFrame) -> Law:
    """`parse`, with the corpora of a mixing law taken from the table's shares.

    They are taken in the order of their names: the law's parameters depend on that order, and must not depend on the
    order of a table's columns.
    """
    name = text.partition(":")[0]
    known = options_of(name) if name in BUILDERS else {}
    return parse(text, **({"corpora": tuple(sorted(runs.corpora(table)))} if "corpora" in known else {}))


def parse(text: str, **options: Any) -> Law:
    """A law from the command line: `NAME`, `NAME:option=value:option=value` or `FILE.py:NAME`."""
    if is_own(text):
        return get(text)
    name, *pairs = text.split(":")
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise LawError(f"{text}: write options as {name}:option=value")
        options[key] = _value(value)
    return get(name, **options)


def load(spec: str, sha256: str | None = None) -> Law:
    """A user's law from `FILE.py:NAME`, where NAME is a `Law` (see `cptlaw.laws.law`). This runs FILE.

    Args:
      sha256: of the bytes that FILE must hold; other content is refused before any of it runs. What FILE imports is not
        covered.

    Raises:
      LawError: no such file, other content, or no such law in it.
    """
    return _own(*BUILDERS.pinned(spec if sha256 is None else f"{spec}@{sha256}").rsplit("@", 1))


@functools.lru_cache(maxsize=256)
def _own(spec: str, sha256: str) -> Law:
    """The law of a file's content. The same content gives the same object, so its programs compile once."""
    found, path, _ = BUILDERS.load(f"{spec}@{sha256}")
    return dataclasses.replace(found, name=spec, file=str(path), sha256=sha256)


def _value(text: str) -> Any:
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered == "none":
        return None
    try:
        return float(text)
    except ValueError:
        return tuple(text.split(",")) if "," in text else text
