"""From a file to documents, a row at a time: JSON lines, JSON, CSV, TSV, Parquet and plain text, also compressed.

A reader yields documents and, in the place of rows that hold none, `Bad` with the reason; `read` then refuses such a
row or counts it, as the caller wishes. No row is taken into memory that is longer than the limit (a compressed file of
two megabytes may hold a line of gigabytes).
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from cptlaw.data.documents import CorpusError, Document, too_long
from cptlaw.data.folders import COMPRESSED, format_of
from cptlaw.data.json_values import BLOCK, Values
from cptlaw.lfs import refuse_pointer


class Bad(NamedTuple):
    """A row that is no document: where it stands in the file, and why."""

    where: str
    why: str


class Rules(NamedTuple):
    """How files are read.

    Attributes:
      text_field: the field or column with the text; `a.b` is field b of the object in field a.
      max_document_bytes: of a document, and of the line or row that holds it.
      skip_bad_rows: count rows that hold no text instead of refusing the first.
    """

    text_field: str = "text"
    max_document_bytes: int = 1 << 26
    skip_bad_rows: bool = False


Rows = Iterator[Document | Bad]


def read(path: Path, rules: Rules, bad: Counter[str]) -> Iterator[Document]:
    """The documents of a file, in its order.

    Args:
      bad: where skipped rows are counted, by reason.

    Raises:
      CorpusError: a file that cannot be read, or (unless they are skipped) a row that holds no text, by file and row.
    """
    refuse_pointer(path, CorpusError)
    kind = format_of(path)
    rows = {
        "json lines": _json_lines,
        "json": _json,
        "csv": _csv,
        "tsv": _csv,
        "parquet": _parquet,
        "text": _text,
    }[kind]
    try:
        yield from accept(f"{path}", rows(path, rules), rules, bad)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from None


def accept(source: str, rows: Iterable[Document | Bad], rules: Rules, bad: Counter[str]) -> Iterator[Document]:
    """The documents among rows; bad ones are counted or refused, as the rules say."""
    for row in rows:
        if isinstance(row, Document):
            yield row
        elif rules.skip_bad_rows:
            bad[re.split(r"[(:;,]", row.why)[0].strip()] += 1
        else:
            raise CorpusError(f"{source}{row.where}: {row.why}; on_bad_rows='skip' leaves such rows out")


def text_of(row: Any, field: str) -> str:
    """The text in a row's field. Raises ValueError with the reason when there is none."""
    if not isinstance(row, dict):
        raise ValueError(f"no text in field {field!r} (the line has: no object)")
    value: Any = row
    for name in [field] if field in row else field.split("."):
        if not isinstance(value, dict) or name not in value:
            fields = ", ".join(map(str, row)) or "no fields"
            raise ValueError(f"no text in field {field!r} (the line has: {fields}); set text_field to the one with it")
        value = value[name]
    return as_text(value, field)


def as_text(value: Any, field: str) -> str:
    """A value as text: strings, and bytes in UTF-8. Raises ValueError with the reason for any other."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        inner = ", ".join(f"{field}.{name}" for name in value)
        raise ValueError(f"no text in field {field!r} (an object); set text_field to one of its own: {inner}")
    if isinstance(value, list):
        raise ValueError(f"no text in field {field!r} (a list); join its items to one text first")
    if not isinstance(value, str):
        raise ValueError(f"no text in field {field!r} (it is {'null' if value is None else repr(value)[:40]})")
    value.encode()  # JSON may hold lone surrogates, which are no text: a ValueError
    return value


def _open(path: Path) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if suffix == ".bz2":
        return bz2.open(path, "rb")
    if suffix == ".xz":
        return lzma.open(path, "rb")
    if suffix in (".zst", ".zstd"):
        import pyarrow  # it brings zstd; the standard library has it from Python 3.14 on

        return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd"), BLOCK)
    return path.open("rb")


# What unpacking raises for a damaged or cut file; those of gzip, bz2 and Arrow are OSErrors without a number.
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, OSError)


def _lines(path: Path, kind: str, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None for one of more than `limit` bytes, which is not read as a whole."""
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(limit + 1):
                number += 1
                if len(line.rstrip(b"\r\n")) <= limit:
                    yield number, line
                else:
                    yield number, None
                    while line and not line.endswith(b"\n"):
                        line = file.readline(BLOCK)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CorpusError(f"{path}, after line {number}: not {kind} ({error}); mend or remove it") from None


def _json_lines(path: Path, rules: Rules) -> Rows:
    for number, line in _lines(path, "JSON lines", rules.max_document_bytes):
        where = f", line {number}"
        if line is None:
            yield Bad(where, too_long(rules.max_document_bytes))
        elif line.strip():
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                yield Bad(f", after line {number}", f"not JSON lines ({error}); mend or remove it")
            except (ValueError, RecursionError) as error:
                yield Bad(where, f"not JSON lines ({error}); mend or remove it")
            else:
                yield _document(row, rules, path, number)


def _document(row: Any, rules: Rules, path: Path, number: int) -> Document | Bad:
    try:
        text = text_of(row, rules.text_field)
    except UnicodeEncodeError as error:
        return Bad(f", after line {number}", f"not JSON lines ({error}); mend or remove it")
    except ValueError as error:
        return Bad(f", line {number}", str(error))
    source = row.get("source")
    return Document(text, source if isinstance(source, str) else f"{path}:{number}")


def _json(path: Path, rules: Rules) -> Rows:
    """An array of objects, or objects one after the other: a line each (read as such), or over several lines."""
    limit = rules.max_document_bytes
    first = next((line for _, line in _lines(path, "JSON", BLOCK) if line is None or line.strip()), b"")
    try:
        a_line_each = first is not None and b"{" in first[:4] and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        a_line_each = False
    if a_line_each:
        yield from _json_lines(path, rules)
        return
    values = Values(path, limit)
    try:
        with _open(path) as file:
            for number, value in values.of(file):
                yield _document(value, rules, path, number)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CorpusError(f"{path}, after line {values.line}: not JSON ({error}); mend or remove it") from None


def _csv(path: Path, rules: Rules) -> Rows:
    kind, limit, field = format_of(path).upper(), rules.max_document_bytes, rules.text_field
    dropped: list[int] = []

    def lines() -> Iterator[str]:
        for number, line in _lines(path, kind, limit):
            if line is not None:
                # Bytes that are no UTF-8 stay visible, so that the row with them can be named.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
            elif rules.skip_bad_rows:
                dropped.append(number)
            else:
                raise CorpusError(f"{path}, line {number}: {too_long(limit)}")

    text = lines()
    header, separator = _csv_header(path, kind, field, next(text, ""))
    column = header.index(field)
    csv.field_size_limit(limit)
    rows = csv.reader(text, delimiter=separator, strict=True)
    passed = 0
    while True:
        why, row = "", None
        try:
            row = next(rows)
        except StopIteration:
            break
        except csv.Error as error:
            why = too_long(limit) if "field larger" in str(error) else f"not {kind} ({error}); mend the row"
        number = rows.line_num + 1 + len(dropped) + passed
        if why == too_long(limit):  # the rest of this cell is no row: on to the line that closes its quote
            for line in text:
                passed += 1
                if line.count('"') % 2:
                    break
        if row is not None and len(row) not in (0, len(header)):
            why = f"{len(row)} fields where the header has {len(header)}; mend or remove the row"
        if row and not why:
            try:
                yield Document(as_text(row[column], field), f"{path}:{number}")
            except ValueError as error:
                why = f"not UTF-8 text ({error}); convert the file"
        if why:
            yield Bad(f", line {number}", why)
    for number in dropped:
        yield Bad(f", line {number}", too_long(limit))


def _csv_header(path: Path, kind: str, field: str, line: str) -> tuple[list[str], str]:
    """The columns and what separates them: a CSV may have semicolons, tabs or bars in the place of commas."""
    separators = ["\t"] if kind == "TSV" else [",", ";", "\t", "|"]
    try:
        headers = {s: [name.strip() for name in next(csv.reader([line], delimiter=s), [])] for s in separators}
    except csv.Error as error:
        raise CorpusError(f"{path}, line 1: not {kind} ({error}); mend the header") from None
    for separator, names in headers.items():
        if names.count(field) == 1:
            return names, separator
    names = max(headers.values(), key=len)
    how = "two columns" if field in names else "no column"
    raise CorpusError(
        f"{path}: {how} {field!r} (there are: {', '.join(names)}); set text_field to the one with the text"
    )


def _parquet(path: Path, rules: Rules) -> Rows:
    import pyarrow
    import pyarrow.parquet

    field, limit = rules.text_field, rules.max_document_bytes
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: not a Parquet file ({error})") from None
    names = _parquet_path(path, file.schema_arrow, field)
    number = 0
    try:
        for column in _batches(path, file, field, limit):
            for name in names[1:]:
                column = column.field(name)
            for value in _bytes(column).to_pylist():
                where = f", row {number}"
                if value is None:
                    yield Bad(where, f"column {field!r} holds None, not text")
                elif len(value) > limit:
                    yield Bad(where, too_long(limit))
                else:
                    try:
                        yield Document(value.decode(), f"{path}:{number}")
                    except UnicodeDecodeError as error:
                        yield Bad(where, f"not UTF-8 text ({error}); convert the column {field!r}")
                number += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}, after row {number}: cannot be read ({error}); fetch it again") from None


def _parquet_path(path: Path, schema: Any, field: str) -> list[str]:
    """The column, and the fields within it, that hold the text. Raises CorpusError when there are none, or no text."""
    import pyarrow

    names = [field] if field in schema.names else field.split(".")
    kind: Any = pyarrow.struct(schema)
    for name in names:
        known = [kind.field(i).name for i in range(kind.num_fields)] if pyarrow.types.is_struct(kind) else []
        if name not in known:
            raise CorpusError(
                f"{path}: no column {field!r} (there are: {', '.join(known) or kind}); set text_field to the one with "
                "the text"
            )
        kind = kind.field(known.index(name)).type
    plain = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    is_text = (
        *(pyarrow.types.is_string, pyarrow.types.is_large_string, pyarrow.types.is_string_view),
        *(pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_null),
    )
    if not any(check(plain) for check in is_text):
        inner = (
            [f"{field}.{plain.field(i).name}" for i in range(plain.num_fields)]
            if pyarrow.types.is_struct(plain)
            else []
        )
        hint = f"set text_field to one of its own: {', '.join(inner)}" if inner else "set text_field to one with text"
        raise CorpusError(f"{path}: column {field!r} holds {plain}, not text; {hint}")
    return names


def _batches(path: Path, file: Any, field: str, limit: int) -> Iterator[Any]:
    """A column's values in batches of about 32 MB."""
    for group in range(file.num_row_groups):
        group_data = file.metadata.row_group(group)
        chunks = [group_data.column(i) for i in range(group_data.num_columns)]
        size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == field)
        rows = max(1, group_data.num_rows)
        if size > limit * rows:
            why = f"{size:,} bytes of text in {rows} rows, so one is {too_long(limit)}"
            raise CorpusError(f"{path}, row group {group}: {why}")
        batch_size = max(1, min(1024, (1 << 25) * rows // max(1, size)))
        for batch in file.iter_batches(batch_size, row_groups=[group], columns=[field]):
            yield batch.column(0)


def _bytes(column: Any) -> Any:
    """Text as bytes: what a file calls text need not be UTF-8, and the row should be named."""
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pyarrow.large_binary())


def _text(path: Path, rules: Rules) -> Rows:
    limit = rules.max_document_bytes
    data = b""
    if path.suffix.lower() in COMPRESSED or path.stat().st_size <= limit:
        try:
            with _open(path) as file:
                data = file.read(limit + 1)
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise CorpusError(f"{path}: cannot be unpacked ({error}); mend or remove it") from None
    if len(data) > limit or (not data and path.stat().st_size > limit):
        yield Bad("", too_long(limit))
        return
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = ": it seems to be UTF-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else ""
        yield Bad("", f"not UTF-8 text ({error}{wide}); convert it or move it out of the folder")
        return
    del data
    if "\0" in text:
        yield Bad(
            "", "not UTF-8 text (it holds NUL characters, as UTF-16 or binary files do); convert it or move it out"
        )
    elif _is_json_lines(text):
        yield Bad("", "JSON lines, not one text; give the file the suffix .jsonl")
    else:
        yield Document(text.replace("\r\n", "\n").replace("\r", "\n"), str(path))


def _is_json_lines(text: str) -> bool:
    """Whether the first two lines, or the only one, are each a JSON object, as in Spark's part-00000."""
    if not text.startswith("{"):
        return False
    try:
        first = [line for line in text[:BLOCK].split("\n", 2)[:2] if line.strip()]
        return all(isinstance(value, dict) and value for value in map(json.loads, first))
    except (ValueError, RecursionError):
        return False
