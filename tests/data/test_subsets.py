import numpy as np
import pandas as pd
import pytest

from cptlaw.data import subsets
from cptlaw.data.corpora import open_corpus
from cptlaw.data.store import StoreError, Writer
from cptlaw.data.vocabularies import BYTES, train_sentencepiece

TEXTS = ["one", "a longer text", "naïve"]


@pytest.fixture
def store(tmp_path):
    facts = {"source": "here", "vocabulary": {"kind": "bytes", "size": BYTES.size}}
    with Writer(tmp_path / "whole", BYTES.size) as writer:
        for text in TEXTS:
            writer.add(np.append(BYTES.encode([text])[0], 1), len(text.encode()))
        return writer.finish("tiny", "train", facts)


def spans(*rows):
    return pd.DataFrame(rows, columns=["document", "begin", "end"])


def test_a_subset_is_a_store_of_the_chosen_tokens(store, tmp_path):
    chosen = spans((1, 2, 8), (2, 0, 7))
    part = subsets.write_store(store, chosen, tmp_path / "part", "part")
    documents = [part.tokens[a:b].tolist() for a, b in zip(part.offsets[:-1], part.offsets[1:])]
    assert documents == [store.tokens[6:12].tolist(), store.tokens[18:25].tolist()]
    assert part.name == "part" and part.doc_bytes.tolist() == [6, 6]
    again = subsets.write_store(store, chosen, tmp_path / "part", "part")
    assert again.ledger == part.ledger
    with pytest.raises(StoreError, match="holds another subset"):
        subsets.write_store(store, spans((0, 0, 4)), tmp_path / "part", "part")


@pytest.mark.parametrize("row", [(3, 0, 1), (0, 0, 5), (0, 2, 2), (-1, 0, 1)])
def test_spans_of_another_corpus_are_refused(store, tmp_path, row):
    with pytest.raises(StoreError, match=r"the subset's row 1 .* chosen from another corpus"):
        subsets.write_store(store, spans((0, 0, 4), row), tmp_path / "part", "part")


def test_lists_are_read_back_and_bad_ones_named(tmp_path):
    spans((1, 0, 3)).to_parquet(tmp_path / "list.parquet")
    assert subsets.read_list(tmp_path / "list.parquet").to_numpy().tolist() == [[1, 0, 3]]
    pd.DataFrame({"document": [1]}).to_parquet(tmp_path / "bad.parquet")
    with pytest.raises(StoreError, match="no column begin, end"):
        subsets.read_list(tmp_path / "bad.parquet")
    with pytest.raises(StoreError, match="make it with `cptlaw select`"):
        subsets.read_list(tmp_path / "none.parquet")


def test_the_seqio_task_gives_the_stores_tokens(store, tmp_path):
    part = subsets.write_store(store, spans((0, 0, 4), (1, 1, 9)), tmp_path / "part", "part")
    task = subsets.register_task("cptlaw.subset.test", tmp_path / "part", BYTES)
    rows = [row["targets"] for row in task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()]
    assert [row.tolist() for row in rows] == [part.tokens[:4].tolist(), part.tokens[4:].tolist()]
    assert rows[0].dtype == np.int32


def test_the_text_of_a_subset_is_a_corpus(store, tmp_path):
    subsets.write_text(store, spans((2, 0, 7), (1, 2, 8)), BYTES, tmp_path / "part.jsonl")
    texts = [document.text for document in open_corpus("part", str(tmp_path / "part.jsonl"), tmp_path).documents()]
    assert texts == ["naïve", "longer"]


def test_bytes_of_tokens_add_up_to_the_text(tmp_path):
    text = "Ωmega and naïve spaces   here\n" * 20
    vocabulary = train_sentencepiece(["some words to learn from, " * 50], 300, tmp_path / "model")
    for one in (BYTES, vocabulary):
        tokens = np.append(one.encode([text])[0], 1)
        assert one.token_bytes()[tokens].sum() == len(text.encode())
        assert one.decode(tokens.tolist()) == text
