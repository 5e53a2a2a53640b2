"""Text with separators: which they are, which signs numbers have, and on which line a row begins."""

import contextlib
import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cptlaw.runs.contract import TEXT, TableError, is_number
from cptlaw.runs.text import HEAD, Loaded, beginning

# Floats are read exactly by default since pandas 3.1, and on demand before it.
_EXACT: dict[str, Any] = (
    {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}
)


def read(
    path: Path, lines: Callable[[], Any], head: bytes, codec: str, columns: Sequence[str], text: Sequence[str],
    rename: Callable[[list[str]], list[str]],
) -> Loaded:  # fmt: skip
    sample = beginning(head, codec).lstrip("\ufeff")
    first = next((line for line in sample.splitlines() if line.strip()), None)
    if first is None:
        raise TableError(f"{path}: the file is empty")
    if first.lstrip()[0] in "{[":
        raise TableError(f"{path}: looks like JSON; name it .jsonl (an object a line) or .json")
    if first.startswith("#") or re.fullmatch(r'"?sep=."?', first.strip()):
        raise TableError(f"{path}: the first line is {first.strip()[:40]!r}, not the header; remove it (or its #)")
    separator = max(",;\t|", key=lambda s: _fields(first, s))
    if _fields(first, separator) == 1:
        separator = ","
    rows = [
        row
        for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True)
        if any(row)
    ]
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
