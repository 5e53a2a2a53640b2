"""Rows as JSON objects: one a line, an array of them, or an object of columns."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cptlaw.runs.contract import TEXT, TableError
from cptlaw.runs.text import Loaded, NotObjects, torn

ARRAY_BYTES = 256 << 20  # an array is one value and is held whole
BATCH = 20_000  # lines decoded together


def read_lines(path: Path, lines: Callable[[], Any], codec: str, kind: str) -> Loaded:
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
            file.raw.only_objects = True  # Arrow crashes on a text that begins with null
            table = arrow_json.read_json(
                pa.PythonFile(file, mode="r"),
                read_options=arrow_json.ReadOptions(block_size=16 << 20),
                parse_options=arrow_json.ParseOptions(explicit_schema=schema),
            )
            raw = file.raw
            table.validate(full=True)  # text that is not UTF-8
    except (pa.ArrowException, pa.ArrowKeyError, NotObjects):
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
        rows = _json(f"[{','.join(text for _, text in batch)}]")
        if len(rows) != len(batch):
            raise ValueError("two values in a line")
    except (ValueError, RecursionError):
        rows = []
        for number, text in batch:
            try:
                rows.append(_json(text))
            except (ValueError, RecursionError) as error:
                if torn(text):
                    notes.append(f"line {number} is torn and left out: its writer died")
                    break
                raise TableError(f"{path}: line {number}: not JSON ({error}); correct or delete the line") from error
    for (number, _), row in zip(batch, rows):
        if not isinstance(row, dict):
            why = "not a JSON object; delete the line"
            if isinstance(row, list):
                why = "not a JSON object but an array; write an object a line, or name the file .json"
            raise TableError(f"{path}: line {number}: {why}")
    return pd.DataFrame(rows)


def _json(text: str) -> Any:
    """A JSON value; of a name that stands twice in an object, Python's reader would keep the last."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands twice in it")
        return found

    return json.loads(text, object_pairs_hook=once)


def read_array(path: Path, raw: Callable[[], Any], codec: str) -> Loaded:
    with raw() as file:
        data = file.read(ARRAY_BYTES + 1)
    if len(data) > ARRAY_BYTES:
        raise TableError(f"{path}: an array of more than {ARRAY_BYTES:,} bytes; write an object a line (.jsonl)")
    rows = _json(data.decode(codec))
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
    if "results" in cells:
        raise TableError(
            f"{path}: results of lm-evaluation-harness? Such a file is of one model: "
            "cptlaw runs import lm-eval:FOLDER makes a table of all"
        )
    raise TableError(
        f"{path}: one object with the fields {', '.join(map(str, cells))[:80]}; a runs table is an array of objects, "
        "an object a line, or an object of columns of one length"
    )
