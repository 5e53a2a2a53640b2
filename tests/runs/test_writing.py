"""Rows appended at the cost of the new ones, and text that is what it always was."""

import hashlib
import json
import math

import numpy as np
import pandas as pd
import pytest

from cptlaw import runs
from cptlaw.runs import writing


class Counting:
    """A file whose reads are counted."""

    def __init__(self, file):
        self.file, self.bytes = file, 0

    def read(self, size):
        data = self.file.read(size)
        self.bytes += len(data)
        return data

    def seek(self, *where):
        return self.file.seek(*where)


def test_appending_reads_the_end_of_the_file_only(tmp_path):
    path = tmp_path / "t.jsonl"
    line = json.dumps({"run": "a" * 80, "loss": 1.0}) + "\n"
    path.write_text(line * 20_000)
    with path.open("rb") as file:
        counting = Counting(file)
        assert writing._last_line(counting) == (len(line) * 20_000, b"") and counting.bytes == 1
    with path.open("a") as file:
        file.write(line[:-3])
    with path.open("rb") as file:
        counting = Counting(file)
        assert writing._last_line(counting) == (len(line) * 20_000, line[:-3].encode())
        assert counting.bytes <= writing.TAIL + 1


@pytest.mark.parametrize("length", [1, 60, writing.TAIL - 1, writing.TAIL, writing.TAIL + 1, 3 * writing.TAIL])
@pytest.mark.parametrize("before", [b"", b'{"run": "a"}\n', b'{"run": "a"}\n' * 9000])
def test_a_torn_line_of_any_length_is_taken_back(tmp_path, length, before):
    path = tmp_path / "t.jsonl"
    path.write_bytes(before + b'{"run": "' + b"x" * length)
    runs.append(path, [{"run": "b"}])
    assert path.read_bytes() == before + b'{"run": "b"}\n'


@pytest.mark.parametrize("before", ["", '{"run": "a"}\n'])
@pytest.mark.parametrize("last", ['{"run": "z", "loss": 2.5}', '{"run": "\u00e9}{"}', '{"x": {"y": [1, 2]}}', "{}"])
def test_a_whole_row_without_its_line_feed_is_kept(tmp_path, before, last):
    path = tmp_path / "t.jsonl"
    path.write_text(before + last)
    runs.append(path, [{"run": "b"}])
    assert [json.loads(line) for line in path.read_text().splitlines()][-2:] == [json.loads(last), {"run": "b"}]


@pytest.mark.parametrize(
    "torn", ["{", '{"a": 1', '{"a": 1}, ', "12", '"a"', "[1]", "nul", "\x00\x00", "{'a': 1}", "{}x"]
)
def test_what_is_no_whole_row_is_taken_back(tmp_path, torn):
    path = tmp_path / "t.jsonl"
    path.write_text('{"run": "a"}\n' + torn)
    runs.append(path, [])
    assert path.read_text() == '{"run": "a"}\n'


def test_every_cut_of_a_table_keeps_the_rows_before_it(tmp_path):
    whole = b"".join(json.dumps({"run": f"{i}", "eval": "e", "loss": 1}).encode() + b"\n" for i in range(2))
    path = tmp_path / "t.jsonl"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        runs.append(path, [{"run": "new", "eval": "e", "loss": 2}])
        kept = whole[:cut].count(b"\n") + (cut > 0 and whole[cut - 1 : cut] == b"}")
        assert len(runs.read(path)) == kept + 1


def old_text(row):
    """How rows were written before they were written by column."""
    plain = {k: v.item() if hasattr(v, "item") else v for k, v in row.items()}
    return (
        json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}) + "\n"
    )


def old_digest(df):
    rows = []
    for record in df.to_dict("records"):
        known = {str(k): v for k, v in record.items() if v is not None and v == v}
        rows.append(json.dumps({k: v if isinstance(v, str) else float(v) for k, v in known.items()}, sort_keys=True))
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


ODD = pd.DataFrame(
    {
        "run": ["a", "b\"\\\n", "é代", None], "loss": [0.1 + 0.2, 1e-300, 1e22, np.nan], "seed": [1, 2, 3, 4],
        "ok": [True, False, True, True], "zero": [0.0, -0.0, 0.0, 1.0], "mixed": [1, True, "1", 1.0],
        "none": [None] * 4,        "inf": [np.inf, -np.inf, 1.0, 2.0], "100% x": [1.5] * 4,
    }
)  # fmt: skip


@pytest.mark.parametrize("df", [ODD, ODD[["run"]], ODD.iloc[:0], pd.concat([ODD] * 3)], ids=range(4))
def test_text_and_digest_are_what_they_were(tmp_path, df, monkeypatch):
    monkeypatch.setattr(writing, "CHUNK", 3)
    runs.write(df, tmp_path / "t.jsonl")
    assert (tmp_path / "t.jsonl").read_text() == "".join(map(old_text, df.to_dict("records")))
    assert runs.digest(df) == old_digest(df)


def test_the_digest_takes_any_cell():
    odd = pd.DataFrame(
        {"run": ["a", "b"], "tags": [["x"], None], "day": [pd.Timestamp("2026-01-01"), pd.NaT], "at": [{"a": 1}, {}]}
    )
    assert len({runs.digest(odd), runs.digest(odd.assign(tags=[["y"], None]))}) == 2
    assert runs.digest(odd) == runs.digest(odd.iloc[::-1])


@pytest.mark.parametrize("name", ["t.tsv", "t.json", "t.csv.gz", "t.xlsx", "t"])
def test_only_three_formats_are_written(table, tmp_path, name):
    with pytest.raises(runs.TableError, match=r"is written as \.csv, \.parquet, \.jsonl"):
        runs.write(table, tmp_path / name)
    assert not list(tmp_path.iterdir())
