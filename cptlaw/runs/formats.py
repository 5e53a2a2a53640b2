"""Files into frames: what a file is, by its name and its first bytes, and who reads it."""

import bz2
import csv
import gzip
import io
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cptlaw.lfs import refuse_pointer
from cptlaw.runs import objects, separated
from cptlaw.runs.contract import TableError
from cptlaw.runs.text import HEAD, LINE_BYTES, Lines, Loaded, beginning, codec_of, undecodable

KINDS = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl",
    ".json": "json", ".parquet": "parquet", ".pq": "parquet", ".feather": "arrow", ".arrow": "arrow", ".ipc": "arrow",
}  # fmt: skip
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
READABLE = ".csv, .tsv, .jsonl, .json (each also .gz, .bz2 or .xz), .parquet, .feather or .arrow"

# Beginnings of files that are no text.
_MAGIC = (
    (b"PAR1", "a Parquet file: name it .parquet", ("parquet",)),
    (b"ARROW1", "an Arrow file: name it .arrow", ("arrow",)),
    (b"FEA1", "a Feather file of version 1: write it again with to_feather()", ()),
    (b"\x1f\x8b", "compressed by gzip: name it .csv.gz or .jsonl.gz", ()),
    (b"PK\x03\x04", "an Excel or zip file: save the table as CSV", ()),
    (b"\xd0\xcf\x11\xe0", "an old Excel file: save the table as CSV", ()),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it, or compress it as .gz", ()),
    (b"<", "a web page or XML, not a table: download the raw file", ()),
)
# pandas' and pyarrow's parse errors are ValueErrors.
_UNREADABLE = (ValueError, OSError, EOFError, LookupError, lzma.LZMAError, RecursionError, OverflowError, csv.Error)


def kind_of(path: Path) -> tuple[str, Callable[..., Any]]:
    """What a file's name says it is, and how it is opened.

    Raises:
      TableError: no such format.
    """
    suffixes = [s.lower() for s in path.suffixes]
    opener = OPENERS.get(suffixes[-1]) if suffixes else None
    inner = suffixes[-2 if opener and len(suffixes) > 1 else -1] if suffixes else ""
    kind = KINDS.get(inner)
    if kind is None or (opener and kind in ("parquet", "arrow")):
        raise TableError(f"{path}: unknown format {''.join(suffixes[-2:])!r}; a runs table is {READABLE}")
    return kind, opener or open


def load(
    path: Path, columns: Sequence[str] = (), text: Sequence[str] = (), encoding: str | None = None,
    limit: int = LINE_BYTES, rename: Callable[[list[str]], list[str]] = list,
) -> Loaded:  # fmt: skip
    """Reads a file of any of the formats.

    Args:
      columns: headers that hold numbers, though their names do not say so.
      text: headers that hold text, likewise.
      rename: headers -> the columns that they mean.

    Raises:
      TableError: it is not what its name says, cannot be decoded, or has an endless line.
    """
    kind, opener = kind_of(path)
    try:
        refuse_pointer(path, TableError)
        with path.open("rb") as file:
            first = file.read(64)
        for magic, what, kinds in _MAGIC:
            if first.startswith(magic) and kind not in kinds and opener is open:
                raise TableError(f"{path}: {what}")
        if kind in ("parquet", "arrow"):
            frame = _binary(path, kind)
            named = any(name is not None for name in frame.index.names)  # columns that a frame was indexed by
            return Loaded(frame.reset_index(drop=not named), lambda i: f"row {i}")

        def lines() -> Any:
            return io.BufferedReader(Lines(opener(path, "rb"), path, limit), HEAD)

        with lines() as file:
            head = file.read(HEAD)
        if not head.strip():
            raise TableError(f"{path}: the file is empty")
        codec = codec_of(path, head, encoding)
        if kind == "csv":
            return separated.read(path, lines, head, codec, columns, text, rename)
        if kind == "json" and beginning(head, codec).lstrip()[:1] == "[":
            return objects.read_array(path, lambda: opener(path, "rb"), codec)
        return objects.read_lines(path, lines, codec, kind)
    except UnicodeDecodeError as error:
        raise undecodable(path, opener, encoding, error) from error
    except _UNREADABLE as error:
        raise TableError(f"{path}: cannot be read as {kind}: {_short(error)}") from error


def _short(error: BaseException) -> str:
    """The first line of a reader's message, without the bytes that it could not read."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "".join(letter if letter.isprintable() else "?" for letter in lines[0][:200])


def _binary(path: Path, kind: str) -> pd.DataFrame:
    import pyarrow as pa

    try:
        if kind == "parquet":
            return pd.read_parquet(path)
        with pa.memory_map(str(path)) as source:
            try:
                table = pa.ipc.open_file(source).read_all()
            except pa.ArrowInvalid:
                source.seek(0)
                table = pa.ipc.open_stream(source).read_all()
            table.validate(full=True)  # of a damaged file, offsets may point anywhere
            return table.to_pandas()
    except (pa.ArrowException, MemoryError) as error:
        raise ValueError(str(error)) from error
