import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers

from cptlaw.data import build
from cptlaw.data.vocabularies import VocabularyError, open_vocabulary

TEXTS = ["The cat sat on the mat.\n", "def f(x):\n        return x  # naïve 猫", "", "<|end|>? No: a </s> in the text"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Byte-level BPE as GPT-2 and its kin have it, with an end and a beginning of documents, as Llama 3 has them."""
    path = tmp_path_factory.mktemp("model")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|begin|>", "<|stop|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 5, trainer)
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin|> $A <|stop|>", special_tokens=[("<|begin|>", 0), ("<|stop|>", 1)]
    )
    made.add_tokens(["猫猫"])
    made.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|stop|>"}}))
    return path


@pytest.fixture(scope="module")
def llama2(tmp_path_factory):
    """A SentencePiece model with Llama 2's ids: 0 unknown, 1 beginning, 2 end."""
    path = tmp_path_factory.mktemp("llama") / "tokenizer.model"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5), model_writer=model, model_type="bpe", vocab_size=300, byte_fallback=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return path


def test_a_tokenizer_gives_its_own_tokens(folder):
    vocabulary = open_vocabulary(folder)
    assert (vocabulary.kind, vocabulary.eos_id, vocabulary.path) == ("tokenizer", 1, folder / "tokenizer.json")
    itself = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert vocabulary.size == itself.get_vocab_size()
    for text, ids in zip(TEXTS, vocabulary.encode(TEXTS)):
        # With the beginning that the tokenizer adds, without its end, which tokenising adds for all vocabularies.
        assert ids.tolist() == itself.encode(text).ids[:-1] and ids.dtype == np.int32
        assert vocabulary.decode(ids.tolist()) == text
        assert vocabulary.token_bytes()[ids].sum() == len(text.encode())
    assert open_vocabulary(folder, eos="<|begin|>").hash != vocabulary.hash


def test_a_sentencepiece_model_keeps_its_ids(llama2):
    vocabulary = open_vocabulary(llama2.parent)
    assert (vocabulary.kind, vocabulary.size, vocabulary.eos_id) == ("sentencepiece", 300, 2)
    assert open_vocabulary(llama2, eos="<s>").eos_id == 1


@pytest.mark.parametrize("kind", ["folder", "llama2"])
def test_seqio_gives_the_same_tokens(kind, request):
    import tensorflow as tf

    vocabulary = open_vocabulary(request.getfixturevalue(kind))
    seqio = vocabulary.seqio()
    assert (seqio.vocab_size, seqio.eos_id) == (vocabulary.size, vocabulary.eos_id)
    assert seqio == vocabulary.seqio()
    texts = tf.data.Dataset.from_tensor_slices(TEXTS).map(seqio.encode_tf)
    for text, ids, in_tf in zip(TEXTS, vocabulary.encode(TEXTS), texts):
        assert seqio.encode(text) == ids.tolist() == in_tf.numpy().tolist()
        assert seqio.decode(ids.tolist()) == vocabulary.decode(ids.tolist())
        assert seqio.decode_tf(in_tf).numpy().decode() == (vocabulary.decode(ids.tolist()) if ids.size else "")


def test_documents_end_as_the_model_knows_it(folder, llama2, tmp_path):
    source = tmp_path / "text"
    source.mkdir()
    for i in range(40):
        (source / f"{i}.txt").write_text(f"Document {i} says {i * i}.")
    for path, begin, end in ((folder, 0, 1), (llama2, None, 2)):
        vocab = {"kind": "file", "path": str(path)}
        stores = build.prepare({"a": str(source)}, vocab, tmp_path / f"{end}", tmp_path / "cache", 0.2, processes=1)
        store = stores["a"]["train"]
        assert (store.ledger["bos_id"], store.ledger["eos_id"]) == (begin, end)
        assert (store.tokens[store.offsets[1:] - 1] == end).all() and (store.tokens == end).sum() == len(
            store.offsets
        ) - 1
        vocabulary = build.load_vocabulary(tmp_path / f"{end}")
        assert vocabulary.decode(store.tokens[: store.offsets[1]].tolist()).startswith("Document")
        assert vocabulary.hash == open_vocabulary(path).hash == store.ledger["vocabulary"]["sha256"]


def test_what_is_no_vocabulary_is_refused(folder, tmp_path):
    with pytest.raises(VocabularyError, match=r"is no tokenizer\.json or SentencePiece model"):
        open_vocabulary(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with pytest.raises(VocabularyError, match="has no token '' to end a document with"):
        open_vocabulary(tmp_path)
    with pytest.raises(VocabularyError, match="has no token '<eos>'"):
        open_vocabulary(tmp_path, eos="<eos>")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(VocabularyError, match=r"is not a tokenizer\.json"):
        open_vocabulary(tmp_path / "other.json")
    (tmp_path / "other.model").write_bytes(b"x" * 100)
    with pytest.raises(VocabularyError, match="is not a SentencePiece model"):
        open_vocabulary(tmp_path / "other.model")
    with pytest.raises(VocabularyError, match="needs a path"):
        build.prepare({"a": str(folder)}, {"kind": "file"}, tmp_path / "data", tmp_path)
