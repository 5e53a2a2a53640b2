"""Files of every format and fault, as documents, bad rows or refusals."""

import bz2
import csv
import gzip
import json
import lzma
import tracemalloc
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cptlaw.data import build, folders
from cptlaw.data.corpora import CorpusError, open_corpus

ROWS = [{"text": "first", "id": 1}, {"text": "sécond", "id": 2}]
TEXTS = ["first", "sécond"]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "text,id\nfirst,1\nsécond,2\n"


def corpus(source, **spec):
    return open_corpus("mine", {"source": str(source), **spec}, cache_dir=None)


def texts(source, **spec):
    return [document.text for document in corpus(source, **spec).documents()]


def zstd(content):
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as file:
        file.write(content)
    return stream.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.JSONL", LINES),
        ("a.ndjson", LINES),
        ("a.jsonlines", LINES),
        ("a.json", LINES),
        ("a.JSON", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", "\n\n".join(json.dumps(row, indent=2) for row in ROWS)),
        ("a.json", "\ufeff" + json.dumps(ROWS)),
        ("a.jsonl", "\ufeff" + LINES),
        ("a.jsonl", LINES.replace("\n", "\r\n")),
        ("a.jsonl", LINES.rstrip("\n")),
        ("a.csv", CSV),
        ("a.CSV", "\ufeff" + CSV),
        ("a.csv", CSV.replace(",", ";")),
        ("a.csv", CSV.replace(",", "\t").replace("\n", "\r\n")),
        ("a.csv", 'id,"text"\n1,first\n\n2,"sécond"\n'),
        ("a.tsv", CSV.replace(",", "\t")),
    ],
)
def test_formats_are_known_by_their_suffix(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert texts(tmp_path / name) == TEXTS
    assert texts(tmp_path) == TEXTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd), (".GZ", gzip.compress)],
)
def test_every_format_may_be_compressed(tmp_path, name, suffix, pack):
    content = {"a.csv": CSV, "a.txt": "\ufefffirst\r\nline"}.get(name, LINES)
    (tmp_path / (name + suffix)).write_bytes(pack(content.encode()))
    assert texts(tmp_path) == (["first\nline"] if name == "a.txt" else TEXTS)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_file_that_was_cut_is_refused(tmp_path, name, pack):
    suffix = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz", zstd: ".zst"}[pack]
    content = (CSV if name == "a.csv" else LINES).encode() * 50
    (tmp_path / (name + suffix)).write_bytes(pack(content)[:-9])
    with pytest.raises(CorpusError, match=rf"{name}{suffix}(, after line \d+: not |: cannot be unpacked)"):
        texts(tmp_path, on_bad_rows="skip")


def test_fields_within_objects(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": {"text": "x"}}\n{"content.text": "y"}\n')
    assert texts(tmp_path, text_field="content.text") == ["x", "y"]
    table = pa.table({"content": [{"text": "x", "n": 1}]})
    (tmp_path / "b").mkdir()
    pq.write_table(table, tmp_path / "b" / "a.parquet")
    assert texts(tmp_path / "b", text_field="content.text") == ["x"]
    with pytest.raises(
        CorpusError, match=r"column 'content' holds struct.*set text_field to .*: content\.text, conten"
    ):
        texts(tmp_path / "b", text_field="content")
    with pytest.raises(CorpusError, match=r"no column 'content\.body' \(there are: text, n\)"):
        texts(tmp_path / "b", text_field="content.body")


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS).dictionary_encode(),
        pa.array([text.encode() for text in TEXTS], pa.binary()),
        pa.array([text.encode() for text in TEXTS], pa.large_binary()),
    ],
    ids=["large_string", "dictionary", "binary", "large_binary"],
)
def test_parquet_has_text_of_many_types(tmp_path, column):
    pq.write_table(pa.table({"text": column}), tmp_path / "a.PARQUET")
    assert texts(tmp_path) == TEXTS


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": null}', r"line 2: no text in field 'text' \(it is null\); on_bad_rows='skip'"),
        ('{"text": 3.5}', r"line 2: no text in field 'text' \(it is 3.5\)"),
        ('{"text": ["a", "b"]}', r"line 2: no text in field 'text' \(a list\); join its items"),
        ('{"text": {"en": "a"}}', r"line 2: no text in field 'text' \(an object\); set text_field .*: text\.en"),
        ('{"body": "a"}', r"line 2: no text in field 'text' \(the line has: body\); set text_field"),
        ('"text"', r"line 2: no text in field 'text' \(the line has: no object\)"),
        ('{"text": "\\ud800"}', r"after line 2: not JSON lines"),
        ('{"text": "a', r"line 2: not JSON lines"),
        ("[" * 100_000, r"line 2: not JSON lines"),
    ],
    ids=["null", "number", "list", "object", "field", "string", "surrogate", "cut", "nested"],
)
def test_a_bad_line_is_refused_by_number_or_skipped_and_counted(tmp_path, line, says):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "first"}}\n{line}\n{{"text": "sécond"}}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=says):
        texts(tmp_path)
    read = corpus(tmp_path, on_bad_rows="skip")
    assert [document.text for document in read.documents()] == TEXTS
    assert read.dropped.total() == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"body,id\nx,1\n", r"a.csv: no column 'text' \(there are: body, id\); set text_field"),
        ("a.csv", b"text,text\nx,1\n", r"a.csv: two columns 'text'"),
        ("a.csv", b"text,id\rx,1\ry,2\r", r"a.csv, line 1: not CSV \(new-line character seen in unquoted field"),
        ("a.csv", b"", r"a.csv: no column 'text' \(there are: \)"),
        ("a.csv", b"text,id\nx,1\ny,2,3\n", r"a.csv, line 3: 3 fields where the header has 2"),
        ("a.csv", b"text,id\nx,1\ny\n", r"a.csv, line 3: 1 fields where the header has 2"),
        ("a.csv", b'text,id\nx,1\n"y,2\n', r"a.csv, line 3: not CSV \(unexpected end of data\)"),
        ("a.csv", b"text,id\ncaf\xe9,1\n", r"a.csv, line 2: not UTF-8 text .*convert the file"),
        ("a.tsv", b'text\tid\n"he" said\t1\n', r"a.tsv, line 2: not TSV"),
        ("a.tsv", b"text,id\nx,1\n", r"a.tsv: no column 'text'"),
        ("a.json", b'[{"text": "x"}, {"text": "y"}', r"a.json, line 1: the array does not end"),
        ("a.json", b'[\n{"text": "x"}\n{"text": "y"}]', r"a.json, line 3: ',' or ']' expected, not '{'"),
        ("a.json", b'[{"text": "x"}]\n{"text": "y"}', r"a.json, line 2: the array has ended, but '{' follows"),
        ("a.json", b'[{"text": "x"},\n{"text": y}]', r"a.json, line 2: not JSON"),
        ("a.json", b'[{"text": "\xff"}]', r"a.json, line 1: not UTF-8"),
        ("a.json", b'{"data": [{"text": "x"}]}', r"a.json, line 1: no text in field 'text' \(the line has: data\)"),
        ("a.json", b"[1, 2]", r"a.json, line 1: no text in field 'text'"),
        ("a.txt", "héllo".encode("utf-16"), r"a.txt: not UTF-8 text .*it seems to be UTF-16.*convert it"),
        ("a.txt", "hello".encode("utf-16-le"), r"a.txt: not UTF-8 text \(it holds NUL characters"),
        ("part-00001", b'{"text": "one"}\n', r"part-00001: JSON lines, not one text"),
        ("a.ldjson", b"", r"a.ldjson: .ldjson files are not read"),
        ("a.ipynb", b"", r"a.ipynb: .ipynb files are not read"),
        ("part-00000", LINES.encode(), r"part-00000: JSON lines, not one text; give the file the suffix .jsonl"),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", r"a.txt: a Git LFS pointer"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", r"a.parquet: a Git LFS pointer"),
        ("a.pdf", b"%PDF-1.7 ...", r"a.pdf: .pdf files are not read; convert it to JSON lines or Parquet"),
        ("a.zip", b"PK", r"a.zip: .zip files are not read"),
        ("a.tar.gz", b"", r"a.tar.gz: .tar files are not read"),
        ("a.arrow", b"ARROW1", r"a.arrow: .arrow files are not read"),
        ("a.parquet.gz", b"", r"a.parquet.gz: Parquet is compressed inside the file; unpack"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(CorpusError, match=says):
            texts(source)


def test_a_row_of_a_parquet_file_that_is_not_utf8_is_named(tmp_path):
    raw = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"caf\xe9"]).buffers())
    pq.write_table(pa.table({"text": raw}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a.parquet, row 1: not UTF-8 text .*convert the column 'text'"):
        texts(tmp_path)
    assert texts(tmp_path, on_bad_rows="skip") == ["ok"]


@pytest.mark.parametrize("column", [[1, 2], [["a"], ["b"]], [None, None]], ids=["numbers", "lists", "nulls"])
def test_columns_of_parquet_without_text(tmp_path, column):
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"column 'text' holds (int64|list<.*>|None), not text"):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("a.jsonl", b'{"text": "ok"}\n{"text": "' + b"x" * 3000 + b'"}\n{"text": "end"}\n', ", line 2: longer"),
        ("a.json", json.dumps([{"text": "x" * 3000}]).encode(), ", line 1: longer"),
        ("a.csv", b"text,id\nok,1\n" + b"x" * 3000 + b",2\nend,3\n", ", line 3: longer"),
        ("a.csv", b'text,id\nok,1\n"' + b"x\n" * 1500 + b'",2\nend,3\n', "longer"),
        ("a.txt", b"x" * 3000, "a.txt: longer"),
        ("a.txt.gz", gzip.compress(b"x" * 3000, mtime=0), "a.txt.gz: longer"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "' + b"x" * 3000 + b'"}\n', mtime=0), ", line 1: longer"),
    ],
)
def test_what_is_too_long_is_refused_by_line(tmp_path, name, content, where):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=rf"{where} than max_document_bytes, 1,000; divide it, or raise"):
        texts(tmp_path, max_document_bytes=1000)
    assert len(texts(tmp_path)) >= 1
    if name == "a.jsonl" or name == "a.csv":
        assert texts(tmp_path, max_document_bytes=1000, on_bad_rows="skip")[:1] == ["ok"]


def test_a_long_cell_of_many_lines_is_skipped_to_its_end(tmp_path):
    rows = [["ok", 1], ["x\n" * 1500, 2], ["end", 3], ["", ""]]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "id"], *rows])
    source = corpus(tmp_path, max_document_bytes=1000, on_bad_rows="skip")
    assert [document.text for document in source.documents()] == ["ok", "end", ""]


@pytest.mark.parametrize("rows", [["ok", "x" * 3000], ["x" * 3000]], ids=["one of two", "all"])
def test_long_rows_of_parquet(tmp_path, rows):
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"longer than max_document_bytes, 1,000"):
        texts(tmp_path, max_document_bytes=1000)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz", "a.txt.gz"])
def test_a_line_that_unpacks_to_much_takes_little_memory(tmp_path, name):
    """50 kB that hold a line of 50 MB; the limit is 1 MB."""
    with gzip.open(tmp_path / name, "wb") as file:
        file.write({"a.csv.gz": b'text\n"'}.get(name, b'[{"text": "' if name == "a.json.gz" else b'{"text": "'))
        for _ in range(50):
            file.write(b"x" * 1_000_000)
    tracemalloc.start()
    with pytest.raises(CorpusError, match="longer than max_document_bytes"):
        texts(tmp_path, max_document_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_a_large_array_is_read_a_value_at_a_time(tmp_path):
    rows = [{"text": f"document {i} " + "x" * 2000, "more": list(range(20))} for i in range(3000)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    tracemalloc.start()
    count = sum(1 for _ in corpus(tmp_path).documents())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3000 and peak < 10 << 20


def test_csv_fields_may_hold_lines_and_quotes(tmp_path):
    values = ['two\nlines, "quoted"', "=1+1", " spaced "]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], *([i, value] for i, value in enumerate(values))])
    assert texts(tmp_path) == values


def test_files_that_describe_a_folder_are_left_out_and_counted(tmp_path):
    for name in ("README.md", "dataset_info.json", "_SUCCESS", "LICENSE", "a.jsonl.crc", ".hidden", "sub/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("about")
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "licences.txt").write_text("a text about licences")
    (tmp_path / "__init__.py").write_text("import a")
    read = corpus(tmp_path)
    assert [document.text for document in read.documents()] == ["import a", *TEXTS, "a text about licences"]
    assert read.left_out == Counter({"README.md": 2, "dataset_info.json": 1, "_SUCCESS": 1, "LICENSE": 1,
                                     "a.jsonl.crc": 1, "hidden files": 1})  # fmt: skip
    assert texts(tmp_path / "**" / "README.*") == ["about", "about"]


def test_a_folder_of_descriptions_alone_holds_no_files(tmp_path):
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(CorpusError, match=r"holds no files but README.md; name such files by a pattern"):
        texts(tmp_path)
    with pytest.raises(CorpusError, match="the pattern matches no files"):
        texts(tmp_path / "*.txt")


@pytest.mark.parametrize("name", ["a.html", "a.xml", "a.HTM", "a.svg"])
def test_markup_is_text_where_it_stands_alone_or_is_named(tmp_path, name):
    (tmp_path / name).write_text("<p>hello</p>")
    assert texts(tmp_path) == texts(tmp_path / name) == ["<p>hello</p>"]
    (tmp_path / "b.txt").write_text("text")
    with pytest.raises(CorpusError, match=rf"{name}: markup .* beside other files"):
        texts(tmp_path)
    assert texts(tmp_path / "*.txt") == ["text"]
    assert texts(tmp_path / "a.*") == ["<p>hello</p>"]


def test_how_a_file_is_read_is_part_of_the_fingerprint_where_that_has_changed(tmp_path):
    for name, kind in (("a.jsonl", ""), ("b.txt", ""), ("c.json", "json"), ("d.csv", "csv"), ("e.txt.gz", "text")):
        (tmp_path / name).write_bytes(b"")
        assert folders.reading(tmp_path / name).strip() == kind
    first = corpus(tmp_path / "a.jsonl").fingerprint
    assert corpus(tmp_path / "a.jsonl", max_document_bytes=9).fingerprint == first
    assert corpus(tmp_path / "a.jsonl", on_bad_rows="skip").fingerprint != first


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"max_document_bytes": 0}, "max_document_bytes is 0; give a number of bytes$"),
        ({"max_document_bytes": None}, "max_document_bytes is None; give a number of bytes$"),
        ({"on_bad_rows": "ignore"}, "on_bad_rows one of refuse, skip, not 'ignore'"),
        ({"text_field": ""}, "text_field must not be empty"),
        ({"on_bad_row": "skip"}, "no field 'on_bad_row'; did you mean 'on_bad_rows'"),
    ],
)
def test_specs_are_checked(tmp_path, spec, says):
    with pytest.raises(CorpusError, match=says):
        corpus(tmp_path, **spec)


def test_the_ledger_tells_what_was_left_out(tmp_path, capsys):
    lines = [json.dumps({"text": f"document {i} of the corpus"}) for i in range(200)]
    lines += ['{"text": null}', '{"text": null}', '{"text": " "}', lines[0], lines[1], "{"]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "corpus" / "README.md").write_text("about")
    spec = {"a": {"source": str(tmp_path / "corpus"), "on_bad_rows": "skip"}}
    for _ in range(2):
        stores = build.prepare(spec, {"kind": "bytes"}, tmp_path / "data", tmp_path, 0.2, processes=1)
    ledger = stores["a"]["train"].ledger
    assert ledger["dropped"]["no text in field 'text'"] == 2 and ledger["dropped"]["not JSON lines"] == 1
    both = [store.ledger["dropped"] for store in stores["a"].values()]
    assert sum(dropped.get("blank documents", 0) for dropped in both) == 1
    assert sum(dropped.get("duplicates", 0) for dropped in both) == 2
    assert ledger["left_out_files"] == {"README.md": 1}
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "corpus 'a', train: files that are not read: README.md"
    assert said[1].startswith("corpus 'a', train: 3 rows are left out (on_bad_rows='skip'): 2 no text in field 'text'")


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n{"text": "  "}\n', '{"text": null}\n'])
def test_a_corpus_without_text_is_refused(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    spec = {"a": {"source": str(tmp_path / "a.jsonl"), "on_bad_rows": "skip"}}
    with pytest.raises(CorpusError, match=r"corpus 'a' .*: it holds no text.*check source and text_field"):
        build.prepare(spec, {"kind": "bytes"}, tmp_path / "data", tmp_path)


@pytest.mark.parametrize("name", ["a.JSONL", "a.csv", "a.jsonlines", "a.ndjson", "a.tsv", "shards", "mix"])
def test_cases_that_are_read(cases, name):
    read = texts(cases / "corpora" / name)
    assert len(read) > 7 and all("\n" not in text and "{" not in text for text in read)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("badutf.parquet", r"badutf.parquet, row 1: not UTF-8 text"),
        ("null.jsonl", r"null.jsonl, line 5: no text in field 'text' \(it is null\)"),
        ("nest.jsonl", r"nest.jsonl, line 1: no text in field 'text' \(the line has: content\)"),
    ],
)
def test_cases_that_are_refused(cases, name, says):
    with pytest.raises(CorpusError, match=says):
        texts(cases / "corpora" / name)


def test_cases_that_are_read_as_asked(cases):
    assert texts(cases / "corpora" / "bom.txt") == ["hello world"]
    assert texts(cases / "corpora" / "nest.jsonl", text_field="content.text") == ["abc"]
    assert len(texts(cases / "corpora" / "badutf.parquet", on_bad_rows="skip")) == 1
