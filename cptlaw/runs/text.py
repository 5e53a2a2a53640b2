"""Text files as bytes whose lines are bounded, and the encoding that they are in."""

import codecs
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cptlaw.runs.contract import TableError

LINE_BYTES = 4 << 20  # the longest line that is read; a row of a table has hundreds of bytes
HEAD = 1 << 17  # bytes from which the form of a text is told; Python's csv reads no longer field

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_GUESSES = ("gb18030", "shift_jis", "euc_kr", "cp1252", "latin-1")


@dataclass
class Loaded:
    """A file's rows; `notes` say how it was understood, `line` where row i (from 0) stands in it."""

    frame: pd.DataFrame
    line: Callable[[int], str]
    notes: list[str] = field(default_factory=list)


class NotObjects(Exception):
    """A line of a text does not begin with a brace, though `only_objects` was asked of it."""


class Lines(io.RawIOBase):
    """The bytes of a text, passed on as long as its lines keep to `limit` and, if asked, begin with a brace."""

    only_objects = False

    def __init__(self, raw: Any, path: Path, limit: int):
        self.raw, self.path, self.limit = raw, path, limit
        self.number = 1  # of the line that is read
        self.objects = 0  # lines that begin with a brace
        self._length, self._last = 0, b"\n"
        self._begun = 0  # lines of which a byte was read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.raw.read(min(len(buffer), HEAD))
        breaks, first = data.count(b"\n"), data.find(b"\n")
        self.objects += (self._last + data).count(b"\n{")
        self._begun += (self._last + data[:-1]).count(b"\n") if data else 0
        if self.only_objects and self.objects < self._begun:
            raise NotObjects
        self._last = data[-1:] or self._last
        lengths = [self._length + (first if breaks else len(data))]
        if breaks:
            inner = data[first + 1 :]
            if self.limit < len(inner):
                lengths += map(len, inner.split(b"\n"))
            self._length = len(data) - data.rfind(b"\n") - 1
        else:
            self._length = lengths[0]
        for i, length in enumerate(lengths):
            if length > self.limit:
                raise TableError(
                    f"{self.path}: line {self.number + i} is longer than {self.limit:,} bytes, which no row of a runs "
                    "table is; if it is one, allow it with --max-line BYTES"
                )
        self.number += breaks
        buffer[: len(data)] = data
        return len(data)

    @property
    def ended(self) -> bool:
        """Whether what was read ends with a line feed."""
        return self._last == b"\n"

    def close(self) -> None:
        self.raw.close()
        super().close()


def torn(line: str) -> bool:
    """Whether a last line of JSON is the beginning of one object, as a writer that died leaves it.

    An object that is followed by something else, or is no object at all, was not left by a tear.
    """
    if line.endswith("\n") or not line.lstrip().startswith("{"):
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.msg != "Extra data"
    except (ValueError, RecursionError):
        pass
    return False


def codec_of(path: Path, head: bytes, encoding: str | None) -> str:
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise TableError(f"--encoding {encoding}: no such encoding; utf-8, utf-16, gb18030, cp1252, ...") from None
        return encoding
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name
    if b"\0" in head[:1024]:
        raise TableError(f"{path}: holds NUL bytes: is it UTF-16? Say so with --encoding utf-16-le (or utf-16-be)")
    return "utf-8"


def beginning(data: bytes, codec: str) -> str:
    """The beginning of a text; a character cut at its end is left out."""
    return codecs.getincrementaldecoder(codec)(errors="strict").decode(data)


def undecodable(path: Path, opener: Any, encoding: str | None, error: UnicodeDecodeError) -> TableError:
    if encoding is not None:
        return TableError(f"{path}: is not {encoding} ({error}); give another --encoding")
    number, bad = 0, b""
    with opener(path, "rb") as file:
        while bad.decode(errors="ignore").encode() == bad and (line := file.readline(LINE_BYTES)):
            number, bad = number + 1, line
    for guess in _GUESSES:
        try:
            told = bad.decode(guess).strip()
        except UnicodeDecodeError:
            continue
        return TableError(
            f"{path}: line {number} is not UTF-8; as {guess} it would be {told[:80]!r}: if that is right, give "
            f"--encoding {guess}, else the encoding that it was saved in"
        )
    return TableError(f"{path}: line {number} is not UTF-8; say what it is with --encoding")
