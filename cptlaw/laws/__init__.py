"""Scaling laws as data: `get("dcpt")`, `names()`, `load("my_laws.py:name")`. Equations only; fitting is next door."""

import dataclasses
import functools
import hashlib
import importlib
import inspect
import pkgutil
import types
from typing import Any

import pandas as pd

from cptlaw import runs
from cptlaw.errors import did_you_mean
from cptlaw.laws.base import BUILDERS, Law, LawError, Param, builder, joint, law
from cptlaw.paths import local

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
    if ".py:" in name:
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
    if name not in BUILDERS:
        hint = did_you_mean(name, BUILDERS) or f"there are {', '.join(BUILDERS)}, or FILE.py:NAME"
        raise LawError(f"no law {name!r}; {hint}")
    known = options_of(name)
    for option, _ in options:
        if option not in known:
            raise LawError(f"law {name} has no option {option!r}; it has {', '.join(known) or 'none'}")
    built = BUILDERS[name](**dict(options))
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
    if ".py:" in text:
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
    path_text, _, name = spec.rpartition(":")
    path = local(path_text)
    if not path.is_file():
        raise LawError(f"{spec}: no such file {path}; a user's law is given as FILE.py:NAME")
    source = path.read_bytes()
    if sha256 is not None and hashlib.sha256(source).hexdigest() != sha256:
        raise LawError(
            f"{path} has changed since the fit, or is another file; nothing of it was run. Fit again with it"
        )
    return _run(str(path.resolve()), name, source)


@functools.lru_cache(maxsize=256)
def _run(path: str, name: str, source: bytes) -> Law:
    """The law `name` of a file's content. The same content gives the same object, so its programs compile once."""
    sha256 = hashlib.sha256(source).hexdigest()
    module = types.ModuleType(f"cptlaw_user_{sha256[:8]}")
    module.__file__ = path
    try:
        exec(compile(source, path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # a law file that exits must not end the command as if all were well
        raise LawError(f"{path}: cannot be run: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not isinstance(found, Law):
        laws = [key for key, value in vars(module).items() if isinstance(value, Law)]
        raise LawError(
            f"{path}: {name} is no law; it defines {', '.join(laws) or 'none (decorate with @cptlaw.laws.law)'}"
        )
    return dataclasses.replace(found, name=f"{path}:{name}", file=path, sha256=sha256)


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
