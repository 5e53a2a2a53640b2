"""From text to token stores through seqio; one tiny prepared directory is shared by the tests that only read it."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cptlaw.data import build, tasks, tokenise, vocabularies
from cptlaw.data.corpora import CorpusError
from cptlaw.data.store import StoreError, TokenStore
from cptlaw.data.vocabularies import VocabularyError

VOCAB = {"kind": "sentencepiece", "size": 400, "train_on": "general"}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A general corpus of words and a domain corpus of indented lines whose documents are four times as long."""
    folder = tmp_path_factory.mktemp("text")
    chooser = random.Random(0)
    words = ["".join(chooser.choices("aeionrst", k=chooser.randint(2, 7))) for _ in range(200)]
    for name, length, indent in (("general", 20, ""), ("code", 80, "    ")):
        lines = []
        for _ in range(300):
            sentences = [indent + " ".join(chooser.choices(words, k=5)) for _ in range(length // 5)]
            lines.append(json.dumps({"text": "\n".join(sentences) + " é😀"}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return {name: str(folder / f"{name}.jsonl") for name in ("general", "code")}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def stores(text, directory):
    return build.prepare(text, VOCAB, directory, directory / "cache", validation_share=0.2)


def test_prepared(text, directory, stores):
    for name, splits in stores.items():
        assert sum(len(store.doc_bytes) for store in splits.values()) == 300
        assert 30 < len(splits["validation"].doc_bytes) < 90
        for split, store in splits.items():
            assert (store.name, store.split) == (name, split)
            assert (store.tokens[store.offsets[1:] - 1] == vocabularies.EOS_ID).all()
            assert (store.tokens == vocabularies.EOS_ID).sum() == len(store.doc_bytes)
            assert store.tokens.max() < 400
            assert store.ledger["source"] == text[name]
            assert store.ledger["vocabulary"]["sha256"] == build.load_vocabulary(directory).hash


def test_the_seqio_task_gives_exactly_the_store(text, directory, stores):
    registered = build.register(text, directory, directory / "cache")
    assert all(task.supports_caching for task in registered.values())
    vocabulary = build.load_vocabulary(directory).seqio()
    for name, task in registered.items():
        for split, store in stores[name].items():
            examples = list(task.get_dataset(None, split, use_cached=False, shuffle=False).as_numpy_iterator())
            np.testing.assert_array_equal(np.concatenate([e["targets"] for e in examples]), store.tokens)
            texts = [e["targets_pretokenized"] for e in examples]
            np.testing.assert_array_equal([len(text) for text in texts], store.doc_bytes)
            for text_, begin, end in zip(texts[:20], store.offsets, store.offsets[1:]):
                assert vocabulary.encode(text_.decode()) == store.tokens[begin : end - 1].tolist()
                assert vocabulary.decode(store.tokens[begin : end - 1].tolist()) == text_.decode()


def test_the_seqio_mixture_reads_at_about_the_asked_token_share(text, directory, stores):
    build.register(text, directory, directory / "cache")
    train = {name: splits["train"] for name, splits in stores.items()}
    mixture = tasks.register_mixture("mixture_of_test", train, {"general": 0.5, "code": 0.5})
    # Registering again, with other weights, replaces it.
    mixture = tasks.register_mixture("mixture_of_test", train, {"general": 0.3, "code": 0.7})
    indent = stores["code"]["train"].tokens[0]
    dataset = mixture.get_dataset({"targets": 1024}, "train", use_cached=False, shuffle=False, seed=0)
    tokens = {"code": 0, "general": 0}
    for example in dataset.take(2000).as_numpy_iterator():
        tokens["code" if example["targets"][0] == indent else "general"] += len(example["targets"])
    assert abs(tokens["code"] / sum(tokens.values()) - 0.7) < 0.03
    alone = tasks.register_mixture("mixture_of_test", train, {"general": 0.0, "code": 1.0})
    assert [task.name for task in alone.tasks] == [train["code"].ledger["task"]]


def run(code, *request):
    """In a process of its own, which must say nothing."""
    said = subprocess.run([sys.executable, "-c", code, json.dumps(request)], capture_output=True, text=True)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_prepared_directories_open_without_tensorflow_and_more(text, directory, stores):
    code = (
        "import json, sys; from cptlaw.data import batches, build; request = json.loads(sys.argv[1]);"
        "stores = build.prepare(*request, validation_share=0.2); assert len(stores) == 2;"
        "assert not {'tensorflow', 'seqio', 'jax', 'pandas', 'sentencepiece'} & set(sys.modules)"
    )
    run(code, text, VOCAB, str(directory), str(directory / "cache"))


def test_building_imports_no_tensorflow(text, tmp_path):
    code = (
        "import json, sys; from cptlaw.data import build; build.prepare(*json.loads(sys.argv[1]));"
        "assert not {'tensorflow', 'seqio', 'jax'} & set(sys.modules)"
    )
    run(code, text, VOCAB, str(tmp_path), str(tmp_path))


def test_tensorflow_is_kept_off_the_accelerators_whoever_imported_it(monkeypatch):
    import tensorflow as tf

    hidden = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda devices, kind: hidden.append((devices, kind)))
    vocabularies.quiet_seqio()
    assert hidden == [([], "GPU"), ([], "TPU")]


def test_interrupted_builds_are_resumed(text, directory, stores, tmp_path, monkeypatch):
    encode = vocabularies.Vocabulary.encode
    encoded = []

    def interrupted(vocabulary, texts):
        encoded.append(len(texts))
        if len(encoded) == 12:
            raise KeyboardInterrupt
        return encode(vocabulary, texts)

    monkeypatch.setattr(tokenise, "PART", 5_000)
    monkeypatch.setattr(vocabularies.Vocabulary, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.prepare(text, VOCAB, tmp_path, tmp_path, validation_share=0.2, processes=1)
    finished = [path.parent for path in tmp_path.rglob("ledger.json")]
    assert tmp_path / "general" / "train" in finished
    (parts,) = {path.parent for path in tmp_path.rglob("*.npz")}
    with pytest.raises(StoreError, match="no finished token store"):
        TokenStore.open(parts.with_name(parts.name[1:].split("-")[0]))

    before = sum(encoded[:-1])
    encoded[:] = [0] * 12
    resumed = build.prepare(text, VOCAB, tmp_path, tmp_path, validation_share=0.2, processes=1)
    assert before + sum(encoded) == 600, "no document was tokenised twice"
    for name, splits in resumed.items():
        for split, store in splits.items():
            # A vocabulary trained again is the same vocabulary, so everything is.
            assert store.ledger == stores[name][split].ledger
    assert not list(tmp_path.rglob("*.npz"))


KILLED = """
import os, signal, sys
from cptlaw.data import build, readers, tokenise
if __name__ == "__main__":
    text, directory = sys.argv[1:]
    tokenise.PART = 2_000
    read = readers._json_lines
    def dying(path, rules):
        for number, document in enumerate(read(path, rules)):
            if number == 200:
                os.kill(os.getpid(), signal.SIGKILL)
            yield document
    readers._json_lines = dying
    build.prepare({"code": text}, {"kind": "bytes"}, directory, directory, validation_share=0.2, processes=2)
"""


def test_killed_builds_go_on_with_any_number_of_processes(text, tmp_path, monkeypatch):
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "killed.py"), text["code"], str(tmp_path / "a")]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    done = set((tmp_path / "a").rglob("*.npz"))
    assert len(done) > 1

    write, written = tokenise._write, []
    monkeypatch.setattr(tokenise, "PART", 2_000)
    monkeypatch.setattr(
        tokenise, "_write", lambda vocabulary, path, texts: written.append(path) or write(vocabulary, path, texts)
    )
    resumed = build.prepare({"code": text["code"]}, {"kind": "bytes"}, tmp_path / "a", tmp_path, 0.2, processes=1)
    assert written and not done & set(written)
    monkeypatch.undo()
    whole = build.prepare({"code": text["code"]}, {"kind": "bytes"}, tmp_path / "b", tmp_path, 0.2, processes=1)
    for split in whole["code"]:
        assert resumed["code"][split].ledger == whole["code"][split].ledger


def test_bytes(text, tmp_path):
    stores = build.prepare({"code": text["code"]}, {"kind": "bytes"}, tmp_path, tmp_path)
    store = stores["code"]["train"]
    np.testing.assert_array_equal(np.diff(store.offsets), store.doc_bytes + 1)
    first = bytes(store.tokens[: store.offsets[1] - 1].astype(np.uint8) - 3).decode()
    assert first == json.loads(Path(text["code"]).read_text().splitlines()[0])["text"]


def test_another_vocabulary_or_source_is_refused(text, directory, stores, tmp_path):
    def prepare(corpora=text, vocab=VOCAB, **options):
        return build.prepare(corpora, vocab, directory, directory / "cache", **{"validation_share": 0.2} | options)

    with pytest.raises(
        VocabularyError, match=r"vocabulary was made from something else \(size was 400, now 500\).*delete"
    ):
        prepare(vocab=VOCAB | {"size": 500})
    with pytest.raises(VocabularyError, match="kind was 'sentencepiece', now 'bytes'"):
        prepare(vocab={"kind": "bytes"})
    with pytest.raises(VocabularyError, match="validation_share"):
        prepare(validation_share=0.1)
    with pytest.raises(StoreError, match=r"code.train was made from something else \(max_bytes was None, now 1000\)"):
        prepare(text | {"code": {"source": text["code"], "max_bytes": 1000}})
    with pytest.raises(StoreError, match="content was"):
        prepare(text | {"code": text["general"]})
    # A corpus more is no contradiction.
    assert len(prepare(text | {"more": {"source": text["code"], "max_bytes": 1000}})) == 3


@pytest.mark.parametrize(
    ("vocab", "message"),
    [
        ({"kind": "words"}, "kind 'words'; choose 'sentencepiece' or 'bytes'"),
        (VOCAB | {"train_on": "prose"}, "train_on 'prose' is no corpus; there are general, code"),
        (VOCAB | {"size": "1024"}, "size '1024'; give the number of ids"),
        (VOCAB | {"size": 100}, "of 100 cannot be trained on this text .*choose another size"),
        (VOCAB | {"size": 100_000}, "of 100000 cannot be trained on this text .*choose another size"),
    ],
)
def test_bad_vocabularies(text, tmp_path, vocab, message):
    with pytest.raises(VocabularyError, match=message):
        build.prepare(text, vocab, tmp_path, tmp_path)


def test_bad_text_is_named_through_tensorflow(text, tmp_path):
    lines = Path(text["code"]).read_text().splitlines()
    (tmp_path / "bad.jsonl").write_text("\n".join([*lines[:290], "{", *lines[290:]]))
    with pytest.raises(CorpusError, match=r"bad.jsonl, line 291: not JSON lines"):
        build.prepare({"code": str(tmp_path / "bad.jsonl")}, {"kind": "bytes"}, tmp_path / "a", tmp_path)


def test_moved_files_are_known_again(text, tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.jsonl").write_text(Path(text["code"]).read_text())
        stores = build.prepare({"code": str(tmp_path / f"{name}.jsonl")}, {"kind": "bytes"}, tmp_path / "a", tmp_path)
        assert stores["code"]["train"].ledger["source"] == f"{tmp_path}/first.jsonl"


def test_bad_requests(text, tmp_path):
    (tmp_path / "one.txt").write_text("one document cannot be on both sides")
    (tmp_path / "file").write_text("")
    bytes_ = {"kind": "bytes"}
    with pytest.raises(CorpusError, match="validation_share is 0"):
        build.prepare(text, bytes_, tmp_path / "a", tmp_path, validation_share=0)
    with pytest.raises(CorpusError, match="corpus 'a/b': use letters"):
        build.prepare({"a/b": text["code"]}, bytes_, tmp_path / "a", tmp_path)
    with pytest.raises(
        CorpusError, match=r"corpus 'one' .*: no validation documents; .* in 20 is held out: split long files"
    ):
        build.prepare({"one": str(tmp_path / "one.txt")}, bytes_, tmp_path / "a", tmp_path)
    with pytest.raises(StoreError, match=r"cannot be made .*choose another directory"):
        build.prepare(text, bytes_, tmp_path / "file", tmp_path)
    with pytest.raises(VocabularyError, match="no vocabulary here; prepare"):
        build.load_vocabulary(tmp_path / "nowhere")


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁")))
def test_tokens_give_back_the_text(directory, stores, text_):
    vocabulary = build.load_vocabulary(directory).seqio()
    assert vocabulary.tokenizer.decode(vocabulary.encode(text_)) == text_
    assert vocabularies.EOS_ID not in vocabulary.encode(text_)
