import json

import numpy as np
import pytest

from cptlaw.data.store import StoreError, TokenStore, Writer


def write(directory, documents, vocab_size=1000, finish=True):
    with Writer(directory, vocab_size) as writer:
        for document in documents:
            writer.add(np.array(document), 3 * len(document))
        return writer.finish("code", "train", {"licence": "none"}) if finish else None


def test_round_trip(tmp_path):
    documents = [[5, 6, 1], [1], [7, 8, 9, 1]]
    write(tmp_path / "s", documents)
    store = TokenStore.open(tmp_path / "s")
    assert (store.name, store.split, store.ledger["licence"]) == ("code", "train", "none")
    assert store.tokens.dtype == np.uint16
    np.testing.assert_array_equal(store.tokens, np.concatenate(documents))
    np.testing.assert_array_equal(store.offsets, [0, 3, 4, 8])
    np.testing.assert_array_equal(store.doc_bytes, [9, 3, 12])
    assert (store.ledger["documents"], store.ledger["tokens"], store.ledger["bytes"]) == (3, 8, 24)


def test_large_vocabularies_take_four_bytes(tmp_path):
    store = write(tmp_path, [[70_000, 1]], vocab_size=100_000)
    assert store.tokens.dtype == np.uint32
    assert store.tokens[0] == 70_000


def test_unfinished_store_does_not_read_as_whole_and_is_rebuilt(tmp_path):
    write(tmp_path / "s", [[1, 2, 3]], finish=False)
    with pytest.raises(StoreError, match="no finished token store"):
        TokenStore.open(tmp_path / "s")
    np.testing.assert_array_equal(write(tmp_path / "s", [[4, 1]]).tokens, [4, 1])


@pytest.mark.parametrize("file", ["tokens.bin", "offsets.npy", "doc_bytes.npy", "ledger.json"])
def test_damage_is_found(tmp_path, file):
    write(tmp_path, [[5, 6, 1], [7, 1]])
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[:-2])
    with pytest.raises(StoreError, match=r"damaged token store.*build it again"):
        TokenStore.open(tmp_path)


def test_other_format_is_refused(tmp_path):
    write(tmp_path, [[5, 1]])
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    (tmp_path / "ledger.json").write_text(json.dumps(ledger | {"format": 0}))
    with pytest.raises(StoreError, match="format 0"):
        TokenStore.open(tmp_path)


def test_tokens_outside_the_vocabulary_are_refused(tmp_path):
    with Writer(tmp_path / "s", 10) as writer:
        for bad in ([10], [-1], []):
            with pytest.raises(ValueError, match=r"vocabulary|at least one token"):
                writer.add(np.array(bad, np.int64), 1)
