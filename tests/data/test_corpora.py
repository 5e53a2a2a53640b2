import gzip
import hashlib
import json
import random

import hypothesis.strategies as st
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given

from cptlaw.data import corpora
from cptlaw.data.corpora import Corpus, CorpusError, Spec, open_corpus
from cptlaw.data.documents import Document


def corpus(texts, **spec):
    return Corpus(
        Spec("test", **spec), "fingerprint", lambda: iter([Document(text, str(i)) for i, text in enumerate(texts)])
    )


def texts_of(corpus, side, share=0.3):
    return [document.text for document in corpus.split(side, share)]


texts_strategy = st.lists(st.text(st.sampled_from("ab \n"), max_size=4), max_size=60)


@given(texts_strategy, st.randoms(use_true_random=False))
def test_split_is_a_partition_of_the_distinct_texts_whatever_their_order(texts, shuffler):
    train, validation = texts_of(corpus(texts), "train"), texts_of(corpus(texts), "validation")
    assert sorted(train + validation) == sorted({text for text in texts if text.strip()})
    shuffled = shuffler.sample(texts, len(texts))
    assert sorted(texts_of(corpus(shuffled), "train")) == sorted(train)
    assert texts_of(corpus(shuffled), "validation") == validation
    assert train == sorted(train, key=texts.index)


def test_share_and_sides_across_corpora():
    texts = [f"document {i}" for i in range(5000)]
    validation = texts_of(corpus(texts), "validation", 0.1)
    assert 400 < len(validation) < 600
    other = corpus([f"document {i}" for i in range(2500, 9000)])
    assert not set(validation) & set(texts_of(other, "train", 0.1))
    assert set(texts_of(corpus(texts), "validation", 0.05)) < set(validation)


@given(texts_strategy, st.integers(51, 200), st.integers(0, 50), st.sampled_from(["train", "validation"]))
def test_caps_take_nested_samples_that_fit(texts, limit, less, side):
    def sample(limit):
        return texts_of(corpus(texts, max_bytes=limit, validation_bytes=limit), side)

    everything, chosen = texts_of(corpus(texts), side), sample(limit)
    assert len(chosen) == min(1, len(everything)) or sum(map(len, chosen)) <= limit
    assert set(sample(limit - less)) <= set(chosen) <= set(everything)
    assert sample(10**9) == everything


def test_caps_come_near_their_limit():
    texts = [f"document {i:04}" for i in range(2000)]
    random.Random(0).shuffle(texts)
    assert sum(map(len, texts_of(corpus(texts, max_bytes=5000), "train"))) in range(5000 - 13, 5001)


def read(source, **spec):
    return list(open_corpus("mine", {"source": str(source), **spec}, cache_dir=None).documents())


def zstd(content):
    stream = pa.BufferOutputStream()
    with pa.CompressedOutputStream(stream, "zstd") as file:
        file.write(content)
    return stream.getvalue().to_pybytes()


def test_files_of_every_kind(tmp_path):
    rows = [{"text": "first", "source": "book"}, {"text": "sécond"}]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    # Two frames in one file, as parallel compressors write them.
    (tmp_path / "b.jsonl.zst").write_bytes(b"".join(zstd(line) for line in lines.encode().splitlines(keepends=True)))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.json.zst").write_bytes(zstd(lines.encode()))
    pd.DataFrame({"text": ["first", "sécond"], "other": [1, 2]}).to_parquet(tmp_path / "c.parquet")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "one.txt").write_text("first", encoding="utf-8")
    (tmp_path / "d" / "two.md").write_text("sécond", encoding="utf-8")
    (tmp_path / "d" / ".hidden").write_bytes(b"\xff")
    for name in ("a.jsonl", "b.jsonl.gz", "b.jsonl.zst", "b.json.gz", "b.json.zst", "c.parquet", "d"):
        assert [document.text for document in read(tmp_path / name)] == ["first", "sécond"]
    assert [document.source for document in read(tmp_path / "a.jsonl")] == ["book", f"{tmp_path}/a.jsonl:2"]
    assert len(read(tmp_path)) == 14


def test_other_text_fields(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    pd.DataFrame({"body": ["x"]}).to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert [document.text for document in read(tmp_path / name, text_field="body")] == ["x"]


def test_fingerprints_follow_the_content(tmp_path):
    def fingerprint(**spec):
        return open_corpus("mine", {"source": str(tmp_path), **spec}, cache_dir=None).fingerprint

    (tmp_path / "a.txt").write_text("one")
    first = fingerprint()
    assert fingerprint(max_bytes=5) == first != fingerprint(text_field="body")
    (tmp_path / "a.txt").write_text("two")
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a.jsonl, line 2: not JSON lines"),
        (
            "a.jsonl",
            b'{"text": "x"}\n{"body": "x"}\n',
            r"line 2: no text in field 'text' \(the line has: body\).*text_field",
        ),
        ("a.jsonl", b"[1]\n", r"line 1: no text in field 'text'"),
        ("a.jsonl", b'{"text": null}\n', r"line 1: no text in field 'text'"),
        ("a.jsonl", b'{"text": "\xff"}\n', r"a.jsonl, after line 1: not JSON lines"),
        ("a.jsonl.gz", b"not gzip", r"a.jsonl.gz, after line 0: not JSON lines"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n', mtime=0)[:-9], r"a.jsonl.gz, after line \d: not JSON lines"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"text": "x"}\n', mtime=0)[:10] + b"\xff" * 9,
            r"a.jsonl.gz, after line 0: not JSON",
        ),
        ("a.jsonl.zst", b"not zstd", r"a.jsonl.zst, after line 0: not JSON lines"),
        ("a.jsonl.zst", zstd(b'{"text": "x"}\n')[:-4], r"a.jsonl.zst, after line \d: not JSON lines"),
        ("a.parquet", b"not parquet", r"a.parquet: not a Parquet file"),
        ("a.txt", b"caf\xe9", r"a.txt: not UTF-8 text.*convert it"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        read(tmp_path / name)


def test_bad_parquet_columns(tmp_path):
    pd.DataFrame({"body": ["x", None]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"no column 'text' \(there are: body\)"):
        read(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"row 1: column 'body' holds None, not text"):
        read(tmp_path / "a.parquet", text_field="body")


def test_bad_sources(tmp_path):
    with pytest.raises(CorpusError, match=r"corpus 'mine': .*nowhere: no such file or folder; give recipe:NAME"):
        read(tmp_path / "nowhere")
    with pytest.raises(CorpusError, match="the folder holds no files"):
        read(tmp_path)
    with pytest.raises(CorpusError, match="no field 'text_feild'; did you mean 'text_field'"):
        read(tmp_path, text_feild="body")
    with pytest.raises(CorpusError, match="max_bytes is 0; give a number of bytes"):
        read(tmp_path, max_bytes=0)
    with pytest.raises(CorpusError, match="no source"):
        open_corpus("mine", {"text_field": "body"}, cache_dir=None)


def test_a_large_file_is_hashed_once_for_each_content(tmp_path, monkeypatch):
    def fingerprint():
        return open_corpus("mine", str(tmp_path / "a.txt"), tmp_path / "cache").fingerprint

    (tmp_path / "a.txt").write_text("one")
    plain = fingerprint()
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(corpora, "_REMEMBERED", 1)
    assert fingerprint() == plain
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert fingerprint() == plain
    monkeypatch.undo()
    (tmp_path / "a.txt").write_text("longer")
    assert fingerprint() != plain


@pytest.mark.parametrize(
    "name, field",
    [
        ("c4/en", "text"),
        ("wikipedia/20230601.en", "text"),
        ("wiki40b/en", "text"),
        ("scientific_papers/arxiv", "article"),
        ("scientific_papers/pubmed:1.1.1", "article"),
        ("pg19", "book_text"),
    ],
)
def test_tensorflow_datasets(name, field):
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=5):
        documents = read(f"tfds:{name}", text_field=field)
        assert [document.source for document in documents] == [f"tfds:{name}:{row}" for row in range(5)]
        assert all(document.text for document in documents)


def test_tensorflow_datasets_without_such_text():
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=5):
        with pytest.raises(
            CorpusError, match=r"no feature 'text' \(there are: abstract, article, section_names\).*set"
        ):
            read("tfds:scientific_papers/arxiv")
        with pytest.raises(CorpusError, match=r"feature 'label' is int64, not text"):
            read("tfds:imdb_reviews", text_field="label")
    with pytest.raises(CorpusError, match="tfds:no_such_thing, split 'train\\[:1%\\]': cannot be read"):
        read("tfds:no_such_thing", tfds_split="train[:1%]")
