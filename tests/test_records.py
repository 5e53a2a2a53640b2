"""JSON that was written by a process before is checked when it is read."""

import json

import pytest

from cptlaw import records
from cptlaw.errors import UserError

FIELDS = {"name": "a", "count": 3, "loss": 2.5, "inner": {"b": [1, 2]}, "nothing": None}
WANTED = {"name": str, "count": int, "loss": (int, float)}


@pytest.fixture
def path(tmp_path):
    records.write(tmp_path / "x.json", FIELDS)
    return tmp_path / "x.json"


def read(path):
    return records.read(path, WANTED, "make it again", UserError)


def test_what_was_written_is_read_and_nothing_where_nothing_is(path):
    assert read(path) == FIELDS
    assert records.read(path.with_name("none.json"), WANTED, "make it again") is None


@pytest.mark.parametrize(
    "change", [("3", "4"), ("2.5", "2.50001"), ('"b"', '"c"'), ("null", "0"), ("1,", "1, 1,"), ('"seal"', '"other"')]
)
def test_a_change_is_found(path, change):
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(UserError, match=r"x\.json: damaged: its fields do not agree with their hash; make it again"):
        read(path)


@pytest.mark.parametrize(
    "text, says",
    [
        (b"", "not JSON"),
        (b'{"name": "a"', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"count": 1, "loss": 1}', "no field 'name'"),
        (b'{"name": 1, "count": 1, "loss": 1}', "field 'name' is '1', expected str"),
        (b'{"name": "a", "count": true, "loss": 1}', "field 'count' is 'True', expected int"),
        (b'{"name": "a", "count": 1, "loss": null}', "field 'loss' is 'None', expected int or float"),
    ],
)
def test_what_is_no_record_says_which_file_and_field(path, text, says):
    path.write_bytes(text)
    with pytest.raises(UserError, match=rf"x\.json: damaged: {says}.*; make it again"):
        read(path)


def test_a_record_of_before_there_were_seals_is_read(path):
    path.write_text(json.dumps(FIELDS))
    assert read(path) == FIELDS


def test_a_directory_in_its_place_is_named(path):
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"x\.json: cannot be read \(Is a directory\)"):
        read(path)


def test_lines_are_named_by_number(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert records.read_lines(path, {"step": int}, "") == [{"step": 1}, {"step": 2}]
    for bad in ('{"step": "2"}', "[]", "nonsense", "{}"):
        path.write_text('{"step": 1}\n' + bad + "\n")
        with pytest.raises(UserError, match=r"x\.jsonl: line 2: damaged"):
            records.read_lines(path, {"step": int}, "")
    assert records.read_lines(tmp_path / "none.jsonl", {}, "") == []
