"""Tokenizers as they lie in model folders: what their files say beside the tokens, bytes of tokens, long documents."""

import io
import json

import hypothesis.strategies as st
import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from tokenizers import decoders, normalizers, pre_tokenizers

from cptlaw.data import build, vocabularies
from cptlaw.data.tokenizer_files import _KNOWN_SPLITS
from cptlaw.data.vocabularies import BYTES, VocabularyError, open_vocabulary

TEXTS = [
    "The cat sat on the mat.\n\nIt's 1234 mats, isn't it?",
    "def f(x):\n        return x  # naïve 猫",
    "",
    " leading and trailing \n",
    "<|stop|> and </s> and <s>",
    "tabs\tand\r\nlines",
]
STOP, BEGIN = "<|stop|>", "<|begin|>"


def byte_level(path, config=None, change=lambda made: None, split=None, prefix_space=False, **given):
    """A folder with a byte-level BPE's tokenizer.json, changed as asked, and its tokenizer_config.json."""
    path.mkdir(parents=True, exist_ok=True)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=split is None)
    made.pre_tokenizer = level
    if split:
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(split), "isolated"), level])
    made.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[STOP, BEGIN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS * 5, trainer)
    change(made)
    described = json.loads(made.to_str()) | given
    (path / "tokenizer.json").write_text(json.dumps(described))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": STOP} if config is None else config))
    return path


def sentence_piece(path, config=None, **options):
    path.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    settings = {
        "vocab_size": 320,
        "unk_id": 0,
        "bos_id": 1,
        "eos_id": 2,
        "pad_id": -1,
        "byte_fallback": True,
        "model_type": "bpe",
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in TEXTS * 5 for line in text.splitlines()),
        model_writer=model,
        minloglevel=2,
        **(settings | options),
    )
    (path / "tokenizer.model").write_bytes(model.getvalue())
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return open_vocabulary(byte_level(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """As Llama 2's: no normalisation, a dummy prefix."""
    options = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    return sentence_piece(tmp_path_factory.mktemp("llama"), **options)


def template(made):
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{BEGIN} $A {STOP}", special_tokens=[(BEGIN, 1), (STOP, 0)]
    )


def truncated(made):
    made.enable_truncation(max_length=4)


def padded(made):
    made.enable_padding(pad_id=1, pad_token=BEGIN, length=64)


def dropping(made):
    made.model.dropout = 0.5


@pytest.mark.parametrize("change", [truncated, padded, dropping])
def test_what_a_tokenizer_stores_of_somebodys_training_is_dropped(plain, tmp_path, change):
    vocabulary = open_vocabulary(byte_level(tmp_path, change=change))
    for ids, expected in zip(vocabulary.encode(TEXTS), plain.encode(TEXTS)):
        np.testing.assert_array_equal(ids, expected)
    kept = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert any(kept.encode(text).ids != ids.tolist() for text, ids in zip(TEXTS, plain.encode(TEXTS)))
    kept.no_truncation()
    assert vocabulary.hash != open_vocabulary(byte_level(tmp_path / "plain")).hash


@pytest.mark.parametrize("post_processor", [True, False])
@pytest.mark.parametrize("flag", [True, False, None])
def test_add_bos_token_of_a_tokenizer_json(tmp_path, post_processor, flag):
    config = {"eos_token": STOP, "bos_token": {"content": BEGIN}} | ({} if flag is None else {"add_bos_token": flag})
    vocabulary = open_vocabulary(byte_level(tmp_path, config, template if post_processor else lambda made: None))
    begins = post_processor if flag is None else flag
    assert vocabulary.bos_id == (1 if begins else None)
    (ids,) = vocabulary.encode(["cat"])
    assert ids.tolist()[:1] == [1] if begins else 1 not in ids
    assert 0 not in ids  # the end comes once, when documents are tokenised
    same = post_processor == begins
    assert (vocabulary.begin is None) == same
    assert (vocabulary.hash == open_vocabulary(tmp_path / "tokenizer.json").hash) and vocabulary.decode(ids) == "cat"


@pytest.mark.parametrize(
    ("config", "begins"),
    [
        (None, False),
        ({"add_bos_token": True, "bos_token": "<s>"}, True),
        ({"add_bos_token": True}, True),
        ({"add_bos_token": False, "tokenizer_class": "LlamaTokenizer"}, False),
        ({"tokenizer_class": "LlamaTokenizer"}, True),
        ({"tokenizer_class": "T5Tokenizer"}, False),
        ({"add_bos_token": True, "add_eos_token": True}, True),
    ],
)
def test_add_bos_token_of_a_sentencepiece_folder(tmp_path, llama, config, begins):
    (tmp_path / "tokenizer.model").write_bytes((llama / "tokenizer.model").read_bytes())
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    vocabulary = open_vocabulary(tmp_path)
    assert vocabulary.bos_id == (1 if begins else None)
    (ids,) = vocabulary.encode(["The cat"])
    plain = open_vocabulary(llama)
    assert ids.tolist() == [1] * begins + plain.encode(["The cat"])[0].tolist()
    assert (vocabulary.hash == plain.hash) == (not begins)
    assert vocabulary.seqio().encode("The cat") == ids.tolist()


def test_a_prepared_directory_keeps_how_documents_begin(tmp_path, llama):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.model").write_bytes((llama / "tokenizer.model").read_bytes())
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"add_bos_token": true}')
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"The cat {i} sat"}) for i in range(60)))
    vocab = {"kind": "file", "path": str(tmp_path / "model")}
    for _ in range(2):
        stores = build.prepare({"a": str(tmp_path / "a.jsonl")}, vocab, tmp_path / "data", tmp_path, 0.2, processes=1)
    for store in stores["a"].values():
        assert (store.tokens[store.offsets[:-1]] == 1).all() and (store.tokens[store.offsets[1:] - 1] == 2).all()
        assert (store.tokens == 1).sum() == (store.tokens == 2).sum() == len(store.doc_bytes)
        assert store.ledger["bos_id"] == 1 and store.ledger["bytes_by_token"] == len(store.doc_bytes)
    assert build.load_vocabulary(tmp_path / "data").hash == open_vocabulary(tmp_path / "model").hash


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer_config.json", "{bad", r"tokenizer_config.json: not readable as JSON"),
        ("tokenizer_config.json", "[]", r"tokenizer_config.json: expected an object"),
        (
            "tokenizer_config.json",
            '{"eos_token": 7}',
            r"tokenizer_config.json: eos_token is 7; give the text of a token",
        ),
        ("tokenizer_config.json", '{"eos_token": ["a"]}', r"eos_token is \['a'\]"),
        ("tokenizer_config.json", '{"eos_token": {"id": 1}}', r"has no token '' to end"),
        (
            "tokenizer_config.json",
            '{"eos_token": "<|stop|>", "add_bos_token": "yes"}',
            r"add_bos_token is 'yes'; give true",
        ),
        ("tokenizer_config.json", '{"eos_token": "<|stop|>", "add_bos_token": true}', r"add_bos_token asks for '<s>'"),
        ("tokenizer_config.json", "version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("tokenizer.json", "[1]", r"is not a tokenizer\.json"),
        ("special_tokens_map.json", "{", "special_tokens_map.json: not readable|has no token"),
    ],
)
def test_bad_files_are_named_with_the_field(plain, tmp_path, name, content, says):
    (tmp_path / "tokenizer.json").write_bytes(plain.path.read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(VocabularyError, match=says):
        open_vocabulary(tmp_path)


def test_a_file_that_was_changed_is_read_anew(plain, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(plain.path.read_bytes())
    first = open_vocabulary(tmp_path / "tokenizer.json", eos=STOP)
    described = json.loads(plain.path.read_text())
    described["added_tokens"].append(described["added_tokens"][0] | {"id": first.size, "content": "<new>"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    assert open_vocabulary(tmp_path / "tokenizer.json", eos="<new>").eos_id == first.size


def test_the_end_is_found_in_special_tokens_map_too(plain, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(plain.path.read_bytes())
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": STOP}))
    assert open_vocabulary(tmp_path).eos_id == 0


def test_special_tokens_in_a_text_are_text(plain, llama, tmp_path, capsys):
    for vocabulary in (plain, open_vocabulary(llama)):
        text = "<|stop|> and </s> and <s> and <|begin|>"
        (ids,) = vocabulary.encode([text])
        assert not {0, 1} & set(ids.tolist()) if vocabulary is plain else not {1, 2} & set(ids.tolist())
        assert vocabulary.decode(ids.tolist()) == text
        assert len(vocabulary.special_text.findall(text)) == 2
    rows = [json.dumps({"text": f"Document {i} says <|stop|> twice: <|stop|>"}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    vocab = {"kind": "file", "path": str(plain.path.parent)}
    store = build.prepare({"a": str(tmp_path / "a.jsonl")}, vocab, tmp_path / "d", tmp_path, 0.2, processes=1)["a"][
        "train"
    ]
    documents = len(store.doc_bytes)
    assert (store.tokens == 0).sum() == documents and store.ledger["special_tokens_in_text"] == 2 * documents
    assert (
        f"special tokens are written {2 * documents} times in the text of {documents} documents"
        in capsys.readouterr().err
    )


def no_decoder(made):
    made.decoder = None


@pytest.mark.parametrize("change", [no_decoder, template, lambda made: made.add_tokens(["猫", "naïve"])])
def test_bytes_of_byte_level_tokens_add_up(tmp_path, change):
    vocabulary = open_vocabulary(byte_level(tmp_path, change=change))
    for text, ids in zip(TEXTS, vocabulary.encode(TEXTS)):
        assert vocabulary.token_bytes()[ids].sum() == len(text.encode())


@pytest.mark.parametrize("split", [None, *_KNOWN_SPLITS])
@given(
    st.lists(
        st.sampled_from(["The", " cat", "'s", "\n", "\n\n", "  ", "12345", "naïve", "猫", "!?", "\r\n", "\t", "x"]),
        max_size=40,
    )
)
def test_pieces_of_a_byte_level_text_have_its_tokens(tmp_path_factory, split, parts):
    vocabulary = cached_byte_level(tmp_path_factory, split)
    check_pieces(vocabulary, "".join(parts))


MADE = {}


def cached_byte_level(tmp_path_factory, split):
    if split not in MADE:
        MADE[split] = open_vocabulary(byte_level(tmp_path_factory.mktemp("split"), split=split, change=template))
        assert MADE[split].cut[0] is not None
    return MADE[split]


def check_pieces(vocabulary, text):
    """In pieces of at least three characters."""
    whole = vocabulary.encode([text])[0]
    kept, vocabularies.PIECE = vocabularies.PIECE, 3
    try:
        pieces = list(vocabulary.encode_pieces(text))
    finally:
        vocabularies.PIECE = kept
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@given(st.text(st.sampled_from("ab \n\t▁é猫<s>"), max_size=60))
def test_pieces_of_a_sentencepiece_text_have_its_tokens(llama, text):
    vocabulary = open_vocabulary(llama)
    assert vocabulary.cut[0] is not None
    check_pieces(vocabulary, text)


@given(st.text(max_size=60))
def test_pieces_of_bytes_are_bytes(text):
    check_pieces(BYTES, text)


def test_pieces_are_taken_only_where_they_are_known_to_be_exact(tmp_path):
    def lower(made):
        made.normalizer = normalizers.Lowercase()

    def spaced(made):
        made.add_tokens(["the cat"])

    for name, options in {"a": {"change": lower}, "b": {"change": spaced}, "c": {"split": r"\w+|\W+"}}.items():
        assert open_vocabulary(byte_level(tmp_path / name, **options)).cut[0] is None
    assert open_vocabulary(byte_level(tmp_path / "d", prefix_space=True)).cut[0] is not None
    assert open_vocabulary(sentence_piece(tmp_path / "e")).cut[0] is None  # it normalises
    unigram = {"model_type": "unigram", "vocab_size": 300, "normalization_rule_name": "identity"}
    assert open_vocabulary(sentence_piece(tmp_path / "f", **unigram, remove_extra_whitespaces=False)).cut[0] is None


def test_a_long_document_has_the_store_of_a_whole_one(tmp_path, plain, monkeypatch):
    rows = [json.dumps({"text": f"Document {i} says that the cat sat. " * 9}) for i in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    stores = []
    for piece in (vocabularies.PIECE, 50):
        monkeypatch.setattr(vocabularies, "PIECE", piece)
        monkeypatch.setattr("cptlaw.data.tokenise.PIECE", piece)
        vocab = {"kind": "file", "path": str(plain.path.parent)}
        spec = {"a": str(tmp_path / "a.jsonl")}
        stores.append(build.prepare(spec, vocab, tmp_path / f"{piece}", tmp_path, 0.2, processes=1)["a"]["train"])
    assert stores[0].ledger == stores[1].ledger
    assert stores[0].ledger["bytes_by_token"] == len(stores[0].doc_bytes)


def test_a_vocabulary_that_changes_text_says_whose_bytes_are_shared_out(tmp_path, capsys):
    model = sentence_piece(tmp_path / "model")  # it drops extra spaces
    rows = [json.dumps({"text": f"Document {i}" + "   says" * (i % 2)}) for i in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    vocab = {"kind": "file", "path": str(model)}
    store = build.prepare({"a": str(tmp_path / "a.jsonl")}, vocab, tmp_path / "d", tmp_path, 0.2, processes=1)["a"][
        "train"
    ]
    documents = len(store.doc_bytes)
    assert 0 < store.ledger["bytes_by_token"] < documents
    said = f"{documents - store.ledger['bytes_by_token']} of {documents} documents have other bytes than their tokens"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["trunc", "pad", "nodec"])
def test_cases_take_documents_whole(cases, name):
    vocabulary = open_vocabulary(cases / "tokenizers" / name)
    text = "some words of a document " * 200
    short, long = vocabulary.encode(["some", text])
    assert vocabulary.token_bytes()[long].sum() == len(text) and short.size < 5
    assert vocabulary.decode(long.tolist()) == text or name == "nodec"


def test_cases_of_folders(cases):
    vocabulary = open_vocabulary(cases / "tokenizers" / "spmfolder")
    assert vocabulary.bos_id == 1 and vocabulary.encode(["a text"])[0][0] == 1
    with pytest.raises(VocabularyError, match=r"badcfg/tokenizer_config\.json: not readable as JSON"):
        open_vocabulary(cases / "tokenizers" / "badcfg")
