"""What can be added without a change here: laws, recipes, schedules, optimizers, families of weights, writers.

Each kind has a decorator, and a `Registry` of what is built in under a name. One of the user's own is named
`FILE.py:NAME`: decorated in a file, and named on the command line or in a config, which runs the file. Nothing that is
only read has that power: a saved fit or run that names a file holds the digest of what the file held, and what reads it
gives that digest, so that another content is refused before any of it runs.
"""

import functools
import hashlib
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from cptlaw.errors import UserError, did_you_mean
from cptlaw.paths import local

Entry = TypeVar("Entry")
_OWN = re.compile(r"(?P<file>.+\.py):(?P<name>[^:@/]+)(@(?P<sha256>[0-9a-f]{64}))?")


def is_own(spec: str) -> bool:
    """Whether the text names something in a user's file: FILE.py:NAME, or FILE.py:NAME@SHA256."""
    return _OWN.fullmatch(spec) is not None


def parts(spec: str) -> tuple[str, str, str | None]:
    """(file, name, SHA-256 or None) of such a text."""
    match = _OWN.fullmatch(spec)
    if match is None:
        raise UserError(f"{spec}: expected FILE.py:NAME")
    return match["file"], match["name"], match["sha256"]


def by_content(spec: str) -> str:
    """What tells a user's own from another, wherever its file lies: NAME@SHA256; a name as it is."""
    if not is_own(spec):
        return spec
    _, name, digest = parts(spec)
    return f"{name}@{digest}"


class Registry(Mapping[str, Entry], Generic[Entry]):
    """The entries of one kind: those built in, by name, and any in a user's file.

    Args:
      what: the kind in words, "law".
      kind: the class of an entry.
      decorator: how one is made, for messages: "@cptlaw.laws.law".
      error: the UserError to raise.
      after: what remembers the file's digest, "fit" or "run".
    """

    def __init__(
        self, what: str, kind: type[Entry], decorator: str, error: type[UserError] = UserError, after: str = "run"
    ):
        self.what, self.kind, self.decorator, self.error, self.after = what, kind, decorator, error, after
        self._entries: dict[str, Entry] = {}

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    __hash__ = object.__hash__  # a registry is itself alone, though it reads as a mapping

    def add(self, name: str, entry: Entry) -> Entry:
        """Registers an entry that is built in. Raises the registry's error if there is one of the name."""
        if name in self._entries:
            raise self.error(f"there is a {self.what} {name} already")
        self._entries[name] = entry
        return entry

    def find(self, spec: str) -> Entry:
        """The entry of a name; or of a user's file (FILE.py:NAME, with or without @SHA256), which this runs.

        Raises:
          UserError: (the registry's) no such entry, file or content.
        """
        if is_own(spec):
            return self.load(spec)[0]
        if spec not in self._entries:
            raise self.error(f"no {self.what} {spec!r}; {self.hint(spec)}")
        return self._entries[spec]

    def load(self, spec: str) -> tuple[Entry, Path, str]:
        """(entry, file, SHA-256 of the file's content) of FILE.py:NAME. This runs the file, once for a content.

        What the file imports is not covered by the digest.
        """
        text, name, wanted = parts(spec)
        path = local(text)
        if not path.is_file():
            raise self.error(f"{spec}: no such file {path}; a {self.what} of your own is given as FILE.py:NAME")
        source = path.read_bytes()
        digest = hashlib.sha256(source).hexdigest()
        if wanted not in (None, digest):
            raise self.error(
                f"{path} has changed since the {self.after}, or is another file; nothing of it was run. Give the file "
                "as it was, or begin again with this one"
            )
        try:
            found = _run(str(path.resolve()), source)
        except (Exception, SystemExit) as failed:  # it is the user's program; one that exits must not end the command
            raise self.error(f"{path}: cannot be run: {type(failed).__name__}: {failed}") from failed
        if not isinstance(entry := found.get(name), self.kind):
            there = ", ".join(key for key, value in found.items() if isinstance(value, self.kind))
            there = there or f"none (decorate with {self.decorator})"
            raise self.error(f"{path}: {name} is no {self.what}; it defines {there}")
        return entry, path, digest

    def pinned(self, spec: str) -> str:
        """A user's FILE.py:NAME with an absolute path and its digest; a name as it is. This runs the file.

        It is what a run remembers: another content of the file is another run.
        """
        if not is_own(spec):
            return spec
        _, path, digest = self.load(spec)
        return f"{path.resolve()}:{parts(spec)[1]}@{digest}"

    def hint(self, name: str) -> str:
        near = did_you_mean(name, self)
        return f"{near} " * bool(near) + f"there are {', '.join(sorted(self))}, or FILE.py:NAME for one of your own"

    def refuse(self, value: str) -> str | None:
        """As a rule of `cptlaw.fields`: a name that is known, or FILE.py:NAME. No file is run."""
        if value in self._entries or is_own(value):
            return None
        near = did_you_mean(value, self)
        known = f"one of {', '.join(self)}, or FILE.py:NAME, not {value!r}"
        return known + (f"; {near}" if near else "")


@functools.lru_cache(maxsize=256)
def _run(path: str, source: bytes) -> dict[str, Any]:
    """The names that a file defines. The same content gives the same objects, so what is compiled of them stays."""
    module = types.ModuleType(f"cptlaw_user_{hashlib.sha256(source).hexdigest()[:8]}")
    module.__file__ = path
    exec(compile(source, path, "exec"), vars(module))
    return vars(module)
