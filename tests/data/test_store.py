import json
import os

import numpy as np
import pytest

from cptlaw.data import store
from cptlaw.data.store import StoreError, TokenStore, Writer, verify


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


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path / "s", [[*rng.integers(2, 1000, n), 1] for n in rng.integers(1, 30, 50)])
    return tmp_path / "s"


@pytest.mark.parametrize("file", ["tokens.bin", "offsets.npy", "doc_bytes.npy"])
@pytest.mark.parametrize("place", [0.3, 0.7, 0.99])
def test_one_changed_bit_is_found(stored, file, place):
    verify(stored)
    path = stored / file
    data = bytearray(path.read_bytes())
    header = 0 if file == "tokens.bin" else 128
    data[header + int(place * (len(data) - header))] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged token store .*build it again"):
        verify(stored)


def test_what_agreed_once_is_not_read_again_until_a_file_is_another(stored, monkeypatch):
    verify(stored)
    hashed, real = [], store._hash
    monkeypatch.setattr(store, "_hash", lambda array: hashed.append(array) or real(array))
    verify(stored)
    assert not hashed
    path = stored / "tokens.bin"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    verify(stored)
    assert len(hashed) == 3
    path.write_bytes(path.read_bytes())  # the same bytes in a new file
    verify(stored)
    (stored / "verified.json").write_text("{")  # a memory that is damaged is none
    verify(stored)
    assert len(hashed) == 9


def test_a_ledger_of_before_the_hashes_gets_them(stored):
    ledger = json.loads((stored / "ledger.json").read_text())
    old = {k: v for k, v in ledger.items() if k not in ("seal", "sealed", "offsets_sha256", "doc_bytes_sha256")}
    (stored / "ledger.json").write_text(json.dumps(old))
    assert TokenStore.open(stored).ledger == old
    verify(stored)
    assert json.loads((stored / "ledger.json").read_text()) == ledger


def test_a_store_that_may_only_be_read_is_compared_every_time(stored, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store.records, "write", refused)
    verify(stored)
    verify(stored)
    verify(stored.with_name("none"))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"tokens": "many"}, "field 'tokens' is 'many', expected int"),
        ({"dtype": "<f8"}, "field 'dtype' is '<f8'"),
        ({"name": None}, "field 'name' is 'None'"),
        ({"tokens_sha256": None}, "field 'tokens_sha256'"),
    ],
)
def test_a_damaged_ledger_names_its_field(stored, change, says):
    ledger = json.loads((stored / "ledger.json").read_text())
    (stored / "ledger.json").write_text(json.dumps({**ledger, **change}))
    with pytest.raises(StoreError, match=r"ledger\.json of a damaged token store: .*agree with their hash"):
        TokenStore.open(stored)
    del ledger["seal"], ledger["sealed"]
    (stored / "ledger.json").write_text(json.dumps({**ledger, **change}))
    with pytest.raises(StoreError, match=rf"ledger\.json of a damaged token store: damaged: {says}"):
        TokenStore.open(stored)
