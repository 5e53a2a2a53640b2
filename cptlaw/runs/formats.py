"""Files into frames: what the bytes are, told from their beginning, and the row of the file behind every row.

Text is read through `Lines`, which refuses an endless line before it is held in memory.
"""

import bz2
import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cptlaw.runs.contract import TEXT, TableError, is_number

KINDS = {
    ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".jsonlines": "jsonl",
    ".json": "json", ".parquet": "parquet", ".pq": "parquet", ".feather": "arrow", ".arrow": "arrow", ".ipc": "arrow",
}  # fmt: skip
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
READABLE = ".csv, .tsv, .jsonl, .json (each also .gz, .bz2 or .xz), .parquet, .feather or .arrow"
LINE_BYTES = 4 << 20  # the longest line that is read; a row of a table has hundreds of bytes
ARRAY_BYTES = 256 << 20  # a .json array is one value and is held whole
HEAD = 1 << 17  # bytes from which the form of a text is told; Python's csv reads no longer field
BATCH = 20_000  # lines decoded together

# Floats are read exactly by default since pandas 3.1, and on demand before it.
_EXACT: dict[str, Any] = (
    {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
)

# Beginnings of files that are no text.
_MAGIC = (
    (b"PAR1", "a Parquet file: name it .parquet", ("parquet",)),
    (b"ARROW1", "an Arrow file: name it .arrow", ("arrow",)),
    (b"FEA1", "a Feather file of version 1: write it again with to_feather()", ()),
    (b"\x1f\x8b", "compressed by gzip: name it .csv.gz or .jsonl.gz", ()),
    (b"PK\x03\x04", "an Excel or zip file: save the table as CSV", ()),
    (b"\xd0\xcf\x11\xe0", "an old Excel file: save the table as CSV", ()),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it, or compress it as .gz", ()),
    (b"version https://git-lfs", "a pointer of Git LFS, not the table: fetch it with `git lfs pull`", ()),
    (b"<", "a web page or XML, not a table: download the raw file", ()),
)
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# pandas' and pyarrow's parse errors are ValueErrors.
_UNREADABLE = (ValueError, OSError, EOFError, LookupError, lzma.LZMAError, RecursionError, OverflowError, csv.Error)
_GUESSES = ("gb18030", "shift_jis", "euc_kr", "cp1252", "latin-1")


@dataclass
class Loaded:
    """A file's rows; `notes` say how it was understood, `line` where row i (from 0) stands in it."""

    frame: pd.DataFrame
    line: Callable[[int], str]
    notes: list[str] = field(default_factory=list)


class Lines(io.RawIOBase):
    """The bytes of a text, passed on as long as its lines keep to `limit`."""

    def __init__(self, raw: Any, path: Path, limit: int):
        self.raw, self.path, self.limit = raw, path, limit
        self.number = 1  # of the line that is read
        self.objects = 0  # lines that begin with a brace
        self._length, self._last = 0, b"\n"

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.raw.read(min(len(buffer), HEAD))
        breaks, first = data.count(b"\n"), data.find(b"\n")
        self.objects += (self._last + data).count(b"\n{")
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
        with path.open("rb") as file:
            first = file.read(64)
        for magic, what, kinds in _MAGIC:
            if first.startswith(magic) and kind not in kinds and opener is open:
                raise TableError(f"{path}: {what}")
        if kind in ("parquet", "arrow"):
            frame = pd.read_parquet(path) if kind == "parquet" else _arrow(path)
            return Loaded(frame.reset_index(drop=True), lambda i: f"row {i}")

        def lines() -> Any:
            return io.BufferedReader(Lines(opener(path, "rb"), path, limit), HEAD)

        with lines() as file:
            head = file.read(HEAD)
        if not head.strip():
            raise TableError(f"{path}: the file is empty")
        codec = _codec(path, head, encoding)
        if kind == "csv":
            return _csv(path, lines, head, codec, columns, text, rename)
        if kind == "json" and _text(head, codec).lstrip()[:1] == "[":
            return _array(path, lambda: opener(path, "rb"), codec)
        return _jsonl(path, lines, codec, kind)
    except UnicodeDecodeError as error:
        raise _undecodable(path, opener, encoding, error) from error
    except _UNREADABLE as error:
        raise TableError(f"{path}: cannot be read as {kind}: {error}") from error


def _arrow(path: Path) -> pd.DataFrame:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).read_all().to_pandas()
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_stream(source).read_all().to_pandas()


# Encodings.


def _codec(path: Path, head: bytes, encoding: str | None) -> str:
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


def _text(data: bytes, codec: str) -> str:
    """The beginning of a text; a character cut at its end is left out."""
    return codecs.getincrementaldecoder(codec)(errors="strict").decode(data)


def _undecodable(path: Path, opener: Any, encoding: str | None, error: UnicodeDecodeError) -> TableError:
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


# Text with separators.


def _csv(
    path: Path, lines: Callable[[], Any], head: bytes, codec: str, columns: Sequence[str], text: Sequence[str],
    rename: Callable[[list[str]], list[str]],
) -> Loaded:  # fmt: skip
    sample = _text(head, codec).lstrip("\ufeff")
    first = next(line for line in sample.splitlines() if line.strip())
    if first.lstrip()[0] in "{[":
        raise TableError(f"{path}: looks like JSON; name it .jsonl (an object a line) or .json")
    separator = max(",;\t|", key=lambda s: _fields(first, s))
    if _fields(first, separator) == 1:
        separator = ","
    rows = [row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True) if any(row)]
    header = rows[0]
    names = rename(header)
    used = [name for name in names if name in (*TEXT, *columns) or is_number(name)]
    if twice := sorted({name for name in used if used.count(name) > 1}):
        places = " and ".join(str(i + 1) for i, name in enumerate(names) if name == twice[0])
        raise TableError(f"{path}: the header {twice[0]!r} stands in columns {places}; rename or remove one")
    numeric = [i for i, name in enumerate(names) if is_number(name) or name in columns or header[i] in columns]
    whole = rows[1:-1] if len(head) == HEAD else rows[1:]  # the last one may be cut
    decimal, thousands = _marks(path, whole, numeric)
    with lines() as file:
        frame = pd.read_csv(
            file, sep=separator, skipinitialspace=True, encoding=codec, decimal=decimal, thousands=thousands,
            dtype={h: str for h, name in zip(header, names) if name in TEXT or h in text},
            low_memory=False, **_EXACT,
        )  # fmt: skip
    if not isinstance(frame.index, pd.RangeIndex):
        raise TableError(f"{path}: the rows have more fields than the header's {len(header)}; name every column")
    notes = []
    if separator != "," and not (separator == "\t" and path.name.lower().split(".")[1:2] in (["tsv"], ["tab"])):
        notes.append(f"read with {({';': 'semicolons', '|': 'bars'}).get(separator, 'tabs')} between the fields")
    if decimal != ".":
        notes.append("read with decimal commas")
    if thousands:
        notes.append(f"read with {thousands!r} between thousands")
    if codec not in ("utf-8", "utf-8-sig"):
        notes.append(f"read as {codec}")
    return Loaded(frame, lambda i: f"line {_csv_line(lines, codec, separator, i)}", notes)


def _fields(line: str, separator: str) -> int:
    return len(next(csv.reader([line], delimiter=separator, skipinitialspace=True)))


def _marks(path: Path, rows: list[list[str]], numeric: list[int]) -> tuple[str, str | None]:
    """The signs of decimals and thousands, from the numbers of the first rows."""
    cells = [row[i].strip() for row in rows for i in numeric if i < len(row)]
    commas = [c for c in cells if "," in c and re.fullmatch(r"[+-]?[\d.,]+([eE][+-]?\d+)?", c)]
    if not commas:
        return ".", None
    grouped = [c for c in commas if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", c)]
    points = [c for c in cells if re.fullmatch(r"[+-]?\d*\.\d+([eE][+-]?\d+)?", c)]
    if len(grouped) == len(commas) and (points or any(c.count(",") > 1 or "." in c for c in commas)):
        return ".", ","
    dotted = [c for c in cells if re.fullmatch(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?", c)]
    if len(grouped) == len(commas) and not dotted:
        raise TableError(
            f"{path}: {commas[0]!r} may be a number of thousands or one with decimals; write numbers plainly"
        )
    if left := [c for c in points if c not in dotted]:
        raise TableError(
            f"{path}: numbers with decimal commas ({commas[0]}) beside decimal points ({left[0]}); choose one"
        )
    return ",", "." if dotted else None


def _csv_line(lines: Callable[[], Any], codec: str, separator: str, row: int) -> int:
    """The line of the file on which a row begins: blank lines are no rows, and a quoted field may span lines."""
    with lines() as file:
        reader = csv.reader(io.TextIOWrapper(file, codec, newline=""), delimiter=separator, skipinitialspace=True)
        position, begins = -2, 1
        with contextlib.suppress(csv.Error):  # a field of many kilobytes
            for record in reader:
                position += len(record) > 1 or bool("".join(record).strip())
                if position == row:
                    return begins
                begins = reader.line_num + 1
    return row + 2


# JSON.


def _jsonl(path: Path, lines: Callable[[], Any], codec: str, kind: str) -> Loaded:
    def line(row: int) -> str:
        return f"line {next(number for i, (number, _) in enumerate(_objects(lines, codec)) if i == row)}"

    if codec.startswith("utf-8") and (frame := _quick_jsonl(lines)) is not None:
        return Loaded(frame, line)
    frames: list[pd.DataFrame] = []
    notes: list[str] = []
    batch: list[tuple[int, str]] = []
    for number, text in _objects(lines, codec):
        batch.append((number, text))
        if len(batch) == BATCH:
            frames.append(_decoded(path, batch, notes))
            batch = []
    frames.append(_decoded(path, batch, notes))
    frame = pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
    if kind == "json" and len(frame) == 1:
        frame = _columns(path, frame)
    return Loaded(frame, line, notes)


def _objects(lines: Callable[[], Any], codec: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers. The last has no line feed where a writer died."""
    with lines() as file:
        for number, text in enumerate(io.TextIOWrapper(file, codec, newline="\n"), 1):
            if text.strip():
                yield number, text


def _quick_jsonl(lines: Callable[[], Any]) -> pd.DataFrame | None:
    """The rows by Arrow's reader, a multiple faster; None where it could read anything in a way of its own."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    schema = pa.schema([(name, pa.string()) for name in TEXT])
    try:
        with lines() as file:
            table = arrow_json.read_json(
                pa.PythonFile(file, mode="r"),
                read_options=arrow_json.ReadOptions(use_threads=False, block_size=16 << 20),
                parse_options=arrow_json.ParseOptions(explicit_schema=schema),
            )
            raw = file.raw
    except (pa.ArrowException, pa.ArrowKeyError):
        return None
    # Arrow takes several objects on a line, and null for one.
    if not table.num_rows == raw.objects == raw.number - raw.ended:
        return None
    plain = (pa.types.is_string, pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    if not all(any(is_it(column.type) for is_it in plain) for column in table.columns):
        return None  # lists, and text taken for a date
    with lines() as file:
        first = json.loads(next(line for line in file if line.strip()))
    order = [name for name in first if name in table.column_names]
    absent = [name for name in TEXT if name not in first and table[name].null_count == len(table)]
    order += [name for name in table.column_names if name not in first and name not in absent]
    return table.select(order).to_pandas()


def _decoded(path: Path, batch: list[tuple[int, str]], notes: list[str]) -> pd.DataFrame:
    try:
        rows = json.loads(f"[{','.join(text for _, text in batch)}]")
        if len(rows) != len(batch):
            raise ValueError("two values in a line")
    except (ValueError, RecursionError):
        rows = []
        for number, text in batch:
            try:
                rows.append(json.loads(text))
            except (ValueError, RecursionError) as error:
                if not text.endswith("\n"):
                    notes.append(f"line {number} is torn and left out: its writer died")
                    break
                raise TableError(f"{path}: line {number}: not JSON ({error}); delete the line") from error
    for (number, text), row in zip(batch, rows):
        if not isinstance(row, dict):
            if not text.endswith("\n"):
                notes.append(f"line {number} is torn and left out: its writer died")
                rows = rows[:-1]
                break
            raise TableError(f"{path}: line {number}: not a JSON object; delete the line")
    return pd.DataFrame(rows)


def _array(path: Path, raw: Callable[[], Any], codec: str) -> Loaded:
    with raw() as file:
        data = file.read(ARRAY_BYTES + 1)
    if len(data) > ARRAY_BYTES:
        raise TableError(f"{path}: an array of more than {ARRAY_BYTES:,} bytes; write an object a line (.jsonl)")
    rows = json.loads(data.decode(codec))
    if bad := next((i for i, row in enumerate(rows, 1) if not isinstance(row, dict)), None):
        raise TableError(f"{path}: item {bad} of the array is not a JSON object; a runs table has one a row")
    return Loaded(pd.DataFrame(rows), lambda i: f"item {i + 1}")


def _columns(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a .json file that is one object of columns, as pandas' `to_json()` writes it."""
    cells = frame.iloc[0].to_dict()
    nested = {name: list(v.values()) if isinstance(v, dict) else v for name, v in cells.items()}
    if not any(isinstance(value, list) for value in nested.values()):
        return frame
    lists = [value for value in nested.values() if isinstance(value, list)]
    whole = len(lists) == len(nested) and len(set(map(len, lists))) == 1
    if whole and not any(isinstance(cell, (list, dict)) for column in lists for cell in column):
        return pd.DataFrame(nested)
    raise TableError(
        f"{path}: one object with the fields {', '.join(map(str, cells))[:80]}; a runs table is an array of objects, "
        "an object a line, or an object of columns of one length"
    )
