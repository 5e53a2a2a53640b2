"""How much of a validation split is in the training text: exact on small stores, right on average when thinned."""

import numpy as np
import pytest

from cptlaw.data import overlap
from cptlaw.data.store import TokenStore
from cptlaw.launching import checks


def store(documents, name="web", split="train", vocabulary="v"):
    offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    ledger = {"name": name, "split": split, "vocabulary": vocabulary}
    return TokenStore(np.concatenate(documents).astype(np.uint16), offsets, np.ones(len(documents), np.int64), ledger)


def documents(count, length, seed):
    return list(np.random.default_rng(seed).integers(0, 60000, (count, length)))


def test_the_part_that_is_held_by_hand():
    train, fresh = documents(50, 100, 0), documents(20, 100, 1)
    copied = [np.concatenate([train[i][:54], fresh[i][54:]]) for i in range(10)]  # 47 of 93 runs of 8 tokens
    found = overlap.of_stores({"web": store(train)}, {"web": store([*copied, *fresh[10:]], split="validation")})
    one = found["web", "web"]
    assert one.share == pytest.approx(10 * 47 / (20 * 93)) and one.documents == 0.5 and one.shingles == 20 * 93
    assert one.se == pytest.approx(np.std([47 / 93] * 10 + [0] * 10, ddof=1) / np.sqrt(20), rel=0.01)


def test_a_shingle_does_not_cross_documents_nor_pieces(monkeypatch):
    train = documents(40, 20, 2)
    turned = [np.concatenate([train[i][10:], train[i + 1][:10]]) for i in range(0, 40, 2)]  # 3 + 3 of 13 runs
    whole = overlap.of_stores({"web": store(train)}, {"web": store(turned, split="validation")})["web", "web"]
    assert whole.share == pytest.approx(6 / 13)
    monkeypatch.setattr(overlap, "PIECE", 64)
    assert overlap.of_stores({"web": store(train)}, {"web": store(turned, split="validation")})["web", "web"] == whole


def test_a_thinned_sketch_estimates_the_same(monkeypatch):
    train, fresh = documents(300, 200, 3), documents(300, 200, 4)
    mixed = [np.concatenate([a[:80], b[80:]]) for a, b in zip(train, fresh)]
    stores = {"web": store(train)}, {"web": store(mixed, split="validation")}
    exact = overlap.of_stores(*stores)["web", "web"]
    monkeypatch.setattr(overlap, "KEPT", 6000)
    thinned = overlap.of_stores(*stores)["web", "web"]
    assert thinned.shingles < 0.15 * exact.shingles
    assert abs(thinned.share - exact.share) < 4 * np.sqrt(exact.share * (1 - exact.share) / thinned.shingles)


def test_across_corpora_and_vocabularies_in_words():
    web, code = documents(30, 50, 5), documents(30, 50, 6)
    train = {"web": store(web), "code": store(code, "code"), "other": store(web, "other", vocabulary="w")}
    found = overlap.of_stores(train, {"web": store(code[:9], split="validation")})
    assert set(found) == {("web", "web"), ("web", "code")}  # token ids of two vocabularies mean different text
    assert found["web", "code"].share == 1.0 and found["web", "web"].share == 0.0
    (line,) = overlap.in_words(found)
    assert line.startswith("web: 0.0%") and "100.0% in code's" in line
    empty = overlap.of_stores({"web": store(web)}, {"web": store(documents(3, 5, 7), split="validation")})
    assert overlap.in_words(empty) == []  # no document has a run of eight tokens


def test_the_check_says_what_is_missing(tmp_path):
    with pytest.raises(checks.Problem, match="no corpus is prepared"):
        checks.overlap(tmp_path, 1.0)


def test_the_check_refuses_more_than_may_be(tmp_path, monkeypatch):
    stores = {"train": documents(9, 50, 8)}
    stores["validation"] = stores["train"][:3]
    for split in stores:
        (tmp_path / "web" / split).mkdir(parents=True)
        (tmp_path / "web" / split / "ledger.json").touch()
    monkeypatch.setattr(TokenStore, "open", lambda path: store(stores[path.name], split=path.name))
    assert "100.0%" in checks.overlap(tmp_path, 1.0)
    with pytest.raises(checks.Problem, match=r"web 100\.0% of the validation text"):
        checks.overlap(tmp_path, 0.2)
