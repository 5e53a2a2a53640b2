"""Writing tables: whole files, rows appended to JSONL, and the hash of a table's content."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from cptlaw import atomic
from cptlaw.fields import plain
from cptlaw.paths import local
from cptlaw.runs.contract import TableError

FORMATS = (".csv", ".parquet", ".jsonl")
CHUNK = 50_000  # rows made into text at a time
TAIL = 1 << 16  # bytes read at a time from a file's end


def write(df: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Writes a table atomically; the format is the suffix (CSV, Parquet or JSONL). Floats come back exactly."""
    path = local(path)
    if path.suffix not in FORMATS:
        raise TableError(f"{path}: unknown format {path.suffix!r}; a runs table is written as {', '.join(FORMATS)}")
    with atomic.replacing(path) as temporary:
        if path.suffix == ".csv":
            df.to_csv(temporary, index=False)
        elif path.suffix == ".parquet":
            df.to_parquet(temporary, index=False)
        else:
            names = [json.dumps(str(name)) for name in df.columns]
            form = "{" + ", ".join(f"{name.replace('%', '%%')}: %s" for name in names) + "}\n"
            with temporary.open("w") as file:
                for cells in _cells(df, _json):
                    file.writelines(map(form.__mod__, zip(*cells)))


def append(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Appends rows to a JSONL table in one fsynced write, safe between processes.

    Only the file's end is read, so the cost is that of the new rows. A line torn by an earlier crash is removed first:
    its row never counted as written. A whole row that lacks only its line feed is kept. A write that fails leaves the
    table as it was.
    """
    path = local(path)
    if path.suffix != ".jsonl":
        raise TableError(f"{path}: rows can be appended to a .jsonl table only")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = lines(rows)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start, tail = _last_line(file)
        if tail and is_row(tail):
            data = b"\n" + data
        elif tail:
            file.truncate(start)
        end = file.seek(0, os.SEEK_END)
        left = memoryview(data)
        try:
            while left:  # not through the file's buffer, which would try again when it is closed
                left = left[os.write(file.fileno(), left) :]
            os.fsync(file.fileno())
        except OSError:  # a full disk, perhaps after a part
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), end)
            raise


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The text of rows in a JSONL table."""
    return "".join(json.dumps({key: plain(value) for key, value in row.items()}) + "\n" for row in rows).encode()


def is_row(line: bytes) -> bool:
    """Whether a line is one whole JSON object. A beginning of one never is."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def digest(df: pd.DataFrame) -> str:
    """sha256 of the content, independent of file format, row and column order, and of empty columns."""
    names = sorted(df.columns, key=str)
    heads = [json.dumps(str(name)) + ": " for name in names]
    lines: list[str] = []
    for cells in _cells(df[names], _digested):
        filled = [[head + cell if cell else "" for cell in column] for head, column in zip(heads, cells)]
        if all(map(all, filled)):
            lines += map(", ".join, zip(*filled))
        else:
            lines += (", ".join(filter(None, row)) for row in zip(*filled))
    return hashlib.sha256("\n".join(sorted(f"{{{line}}}" for line in lines)).encode()).hexdigest()


def _cells(df: pd.DataFrame, encode: Any) -> Iterator[list[list[str]]]:
    """Chunks of rows as text, a list a column. Columns repeat few values, so each value is made into text once."""
    for start in range(0, max(len(df), 1), CHUNK):
        yield [_texts(df.iloc[start : start + CHUNK, i], encode) for i in range(df.shape[1])]


def _texts(column: pd.Series, encode: Any) -> list[str]:
    values = column.to_numpy(object) if column.dtype.kind not in "fiub" else column.to_numpy()
    try:
        codes, unique = pd.factorize(values, use_na_sentinel=True)
    except TypeError:  # lists have no hash
        return [encode(value) for value in values.tolist()]
    if values.dtype.kind == "O" and len(set(map(type, values[codes >= 0]))) > 1:  # 1, 1.0 and True are one key
        return [encode(value) for value in values.tolist()]
    if values.dtype.kind == "f" and (np.signbit(values) & (values == 0)).any():  # so are 0.0 and -0.0
        return [encode(value) for value in values.tolist()]
    if values.dtype.kind == "f":  # JSON's floats are Python's
        texts = [repr(v) if math.isfinite(v) else encode(v) for v in unique.tolist()]
    else:
        texts = [encode(v) for v in unique.tolist()]
    return np.array([*texts, encode(None)], object)[codes].tolist()


def _json(value: Any) -> str:
    value = plain(value)
    return (
        json.dumps(value)
        if value is None or isinstance(value, (str, int, float, list, dict))
        else json.dumps(str(value))
    )


def _digested(value: Any) -> str:
    """A cell's text in the digest; nothing for an empty one. Numbers count as floats, other kinds as their words."""
    if value is None or value is pd.NaT or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, (bool, int, float, np.generic)) and not (isinstance(value, int) and value.bit_length() > 1000):
        return json.dumps(float(value))
    return json.dumps(str(value))


def _last_line(file: BinaryIO) -> tuple[int, bytes]:
    """Where the last line begins, and what it holds, if it lacks its line feed; else the end and nothing."""
    end = place = file.seek(0, os.SEEK_END)
    tail = b""
    while place:
        step = min(TAIL if tail else 1, place)  # one byte tells of most files that nothing is torn
        place -= step
        file.seek(place)
        block = file.read(step)
        cut = block.rfind(b"\n")
        if cut >= 0:
            return place + cut + 1, block[cut + 1 :] + tail
        tail = block + tail
    return (0, tail) if end else (0, b"")
