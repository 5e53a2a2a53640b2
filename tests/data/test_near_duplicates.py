import json
import random

import numpy as np
import pytest

from cptlaw.data import build, near_duplicates

CHOOSER = random.Random(0)
WORDS = ["".join(CHOOSER.choices("aeionrst", k=CHOOSER.randint(2, 7))) for _ in range(400)]


def document(length=80):
    return CHOOSER.choices(range(2, 500), k=length)


def flat(documents):
    offsets = np.concatenate([[0], np.cumsum([len(d) for d in documents])]).astype(np.int64)
    return np.array([token for d in documents for token in d], np.uint16), offsets


def find(train, validation):
    return near_duplicates.find(*flat(train), *flat(validation))


def test_changed_copies_are_found_and_others_are_not():
    train = [document() for _ in range(200)]
    validation = [document() for _ in range(50)]
    assert find(train, validation) == (50, 200, 0, None)
    # A header more; one token in forty changed.
    validation[7] = [1, 1, 1, *train[150]]
    validation[30] = [token if i % 40 else 1 for i, token in enumerate(train[3])]
    assert find(train, validation) == (50, 200, 2, (150, 7))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.6])
def test_documents_that_share_a_part_are_not_near_duplicates(share):
    train = [document(200) for _ in range(20)]
    kept = int(200 * share)
    assert find(train, [train[4][:kept] + document(200 - kept)]).found == 0


def test_boilerplate_that_many_share_is_no_duplication():
    licence = document(60)
    train = [licence + document(80) for _ in range(60)]
    validation = [licence + document(80) for _ in range(60)]
    assert find(train, validation).found == 0


def test_short_documents_and_empty_sides():
    title = document(10)
    assert find([title], [title]) == (0, 0, 0, None)
    assert find([document()], [title]) == (0, 1, 0, None)


def test_samples_of_large_stores(monkeypatch):
    monkeypatch.setattr(near_duplicates, "VALIDATION_TOKENS", 800)
    monkeypatch.setattr(near_duplicates, "TRAIN_TOKENS", 1600)
    train = [document() for _ in range(100)]
    found = find(train, [train[i] for i in range(100)])
    assert found.validation_documents == 10 and found.train_documents == 20
    assert found.found == 2 and found.example == (0, 0)  # every fifth document of train was looked at


def test_near_duplicates_are_told_with_an_example_and_recorded(tmp_path, capsys):
    rows = []
    for i in range(150):
        text = " ".join(CHOOSER.choices(WORDS, k=60))
        rows += [text, f"Copied on day {i}. {text}"] if i % 5 == 0 else [text]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows))
    stores = build.prepare(
        {"a": str(tmp_path / "a.jsonl")}, {"kind": "bytes"}, tmp_path / "d", tmp_path, 0.3, processes=1
    )
    found = stores["a"]["validation"].ledger["near_duplicates"]
    assert found["found"] > 3 and found["validation_documents"] == len(stores["a"]["validation"].doc_bytes)
    said = capsys.readouterr().err
    assert f"corpus 'a', validation: {found['found']} of" in said and "remove near-duplicates first" in said
    train, validation = found["example"]
    text = [bytes(s.tokens[s.offsets[d] : s.offsets[d + 1] - 1].astype(np.uint8) - 3).decode()
            for s, d in ((stores["a"]["train"], train), (stores["a"]["validation"], validation))]  # fmt: skip
    assert text[0].endswith(text[1]) or text[1].endswith(text[0])
