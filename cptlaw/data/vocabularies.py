"""Vocabularies: SentencePiece trained on one of the corpora, bytes, or an open model's own; all are seqio vocabularies.

Ids of the first two are as seqio expects them: 0 padding, 1 end of document, 2 unknown; no beginning of document.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cptlaw import atomic
from cptlaw.errors import UserError

EOS_ID = 1
_TRAIN_BYTES = 4_000_000


class VocabularyError(UserError):
    """A vocabulary of an impossible kind or size."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a token id means.

    Attributes:
      kind: "sentencepiece", "tokenizer" (a tokenizer.json, which needs the package tokenizers) or "bytes".
      size: number of ids.
      path: the SentencePiece model or tokenizer.json; None for bytes.
      eos_id: the id that ends a document.
    """

    kind: str
    size: int
    path: Path | None = None
    eos_id: int = EOS_ID

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what decides the tokens; equal hashes, equal tokens."""
        digest = hashlib.sha256(self.path.read_bytes() if self.path else b"bytes")
        if self.eos_id != EOS_ID:
            digest.update(f"eos {self.eos_id}".encode())
        return digest.hexdigest()

    @property
    def bos_id(self) -> int | None:
        """The id with which `encode` begins a document; None where it does not."""
        ids = _tokenizer(self.path, self.hash).encode("").ids if self.kind == "tokenizer" and self.path else []
        return next((i for i in ids if i != self.eos_id), None)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text (int32, without the end of document): those that `seqio()` gives, without TensorFlow.

        A tokenizer.json that begins a document with a token of its own (as Llama 3's does) does so here.
        """
        if self.path is None:
            return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 3 for text in texts]
        if self.kind == "sentencepiece":
            return [np.array(ids, np.int32) for ids in _sentencepiece(self.path, self.hash).encode(texts)]
        found = [np.array(encoding.ids, np.int32) for encoding in _tokenizer(self.path, self.hash).encode_batch(texts)]
        return [ids[:-1] if ids.size and ids[-1] == self.eos_id else ids for ids in found]

    def decode(self, ids: list[int]) -> str:
        """What some ids say; where they cut a character, a replacement character."""
        if self.path is None:
            return bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors="replace")
        if self.kind == "sentencepiece":
            return _sentencepiece(self.path, self.hash).decode(ids)
        return _tokenizer(self.path, self.hash).decode(ids)

    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of every token id: (size,) int64; 0 for padding, end of document, unknown and the like."""
        if self.path is None:
            sizes = np.ones(self.size, np.int64)
            sizes[:3] = 0
            return sizes
        if self.kind == "sentencepiece":
            model = _sentencepiece(self.path, self.hash)
            return np.array([
                0 if model.is_control(i) or model.is_unknown(i) or model.is_unused(i)
                else 1 if model.is_byte(i)
                else len(model.id_to_piece(i).replace("▁", " ").encode())
                for i in range(self.size)
            ])  # fmt: skip
        return _tokenizer_bytes(_tokenizer(self.path, self.hash), self.size)

    def seqio(self) -> Any:
        """The seqio vocabulary (imports TensorFlow)."""
        seqio = quiet_seqio()
        if self.path is None:
            return seqio.ByteVocabulary()
        return seqio.SentencePieceVocabulary(str(self.path)) if self.kind == "sentencepiece" else _tokenizer_seqio(self)


BYTES = Vocabulary("bytes", 256 + 3)


def open_vocabulary(path: Path, eos: str = "") -> Vocabulary:
    """The vocabulary of an open model.

    Args:
      path: a tokenizer.json, a SentencePiece model (tokenizer.model), or the folder of the model that holds one.
      eos: the token that ends a document; without it, what tokenizer_config.json beside the file, or the SentencePiece
        model, names.

    Raises VocabularyError when there is no such file or token.
    """
    if path.is_dir():
        path = next((path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).exists()), path)
    if not path.is_file():
        raise VocabularyError(f"vocabulary: {path} is no tokenizer.json or SentencePiece model, nor a folder with one")
    if path.suffix == ".json":
        tokenizer = _tokenizer(path, "")
        eos = eos or _eos_beside(path)
        size, eos_id = max(tokenizer.get_vocab().values()) + 1, tokenizer.token_to_id(eos)
        kind = "tokenizer"
    else:
        model = _sentencepiece(path, "")
        kind, size, eos_id = "sentencepiece", model.vocab_size(), model.piece_to_id(eos) if eos else model.eos_id()
        if eos and model.is_unknown(eos_id):
            eos_id = None
    if eos_id is None or eos_id < 0:
        raise VocabularyError(
            f"vocabulary: {path} has no token {eos!r} to end a document with; name one of its own (eos)"
        )
    return Vocabulary(kind, size, path, eos_id)


def _eos_beside(path: Path) -> str:
    beside = path.with_name("tokenizer_config.json")
    token = json.loads(beside.read_text()).get("eos_token") if beside.exists() else None
    return (token["content"] if isinstance(token, dict) else token) or ""


@lru_cache(maxsize=2)
def _sentencepiece(path: Path, content: str) -> Any:
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise VocabularyError(f"vocabulary: {path} is not a SentencePiece model ({error})") from None


@lru_cache(maxsize=2)
def _tokenizer(path: Path, content: str) -> Any:
    # Documents are tokenised in several processes already.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError:
        raise VocabularyError("tokenizer.json needs the package tokenizers: pip install 'cptlaw[tokenizers]'") from None
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises this class itself
        raise VocabularyError(f"vocabulary: {path} is not a tokenizer.json ({error})") from None


def _tokenizer_bytes(tokenizer: Any, size: int) -> np.ndarray:
    # Byte-level tokens have a character a byte; others are text, "▁" for a space, and <0x0A> for a byte.
    byte_level = '"ByteLevel"' in json.dumps(json.loads(tokenizer.to_str())["decoder"])
    sizes = np.zeros(size, np.int64)
    for token, i in tokenizer.get_vocab(with_added_tokens=False).items():
        text = re.sub(r"<0x[0-9A-F]{2}>", " ", token).replace("▁", " ")
        sizes[i] = len(token) if byte_level else len(text.encode())
    for i, token in tokenizer.get_added_tokens_decoder().items():
        sizes[i] = 0 if token.special else len(token.content.encode())
    return sizes


def _tokenizer_seqio(vocabulary: Vocabulary) -> Any:
    seqio = quiet_seqio()
    import tensorflow as tf

    def encode(text: bytes) -> np.ndarray:
        return vocabulary.encode([text.decode()])[0]

    def decode(ids: np.ndarray) -> np.ndarray:
        rows = [vocabulary.decode(row.tolist()).encode() for row in ids.reshape(-1, ids.shape[-1])]
        return np.array(rows, object).reshape(ids.shape[:-1])

    class TokenizerVocabulary(seqio.Vocabulary):  # type: ignore[name-defined]
        bos_id = vocabulary.bos_id
        unk_id = None
        eos_id = vocabulary.eos_id
        _base_vocab_size = vocabulary.size
        hash = vocabulary.hash

        def _encode(self, s: str) -> list[int]:
            return vocabulary.encode([s])[0].tolist()

        def _decode(self, ids: list[int]) -> str:
            return vocabulary.decode(list(ids))

        def _encode_tf(self, s: Any) -> Any:
            ids = tf.numpy_function(encode, [s], tf.int32)
            ids.set_shape([None])
            return ids

        def _decode_tf(self, ids: Any) -> Any:
            return tf.numpy_function(decode, [ids], tf.string)

        def __eq__(self, other: object) -> bool:
            return getattr(other, "hash", None) == self.hash

        __hash__ = None  # type: ignore[assignment]

    return TokenizerVocabulary()


def train_sentencepiece(texts: Iterable[str], size: int, path: Path) -> Vocabulary:
    """Trains a byte-pair vocabulary on the first 4 MB of `texts` and writes it to `path`, whole or not at all.

    Nothing is normalised and unknown characters fall back to bytes, so decoding gives back the text exactly (but for
    U+2581, with which SentencePiece marks spaces). Newlines and runs of spaces have ids of their own: prose has none to
    learn them from, and without them Python takes a third more tokens. BPE was as good as a unigram model in bytes per
    token at 512 to 2048 ids, and trains in a tenth of the time. The same text gives the same vocabulary.

    Raises:
      VocabularyError: `size` is too small for the bytes and characters, or too large for the text.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            user_defined_symbols=["\n", *("▁" * length for length in (2, 4, 8))],
            pad_id=0,
            eos_id=EOS_ID,
            unk_id=2,
            bos_id=-1,
            max_sentence_length=1 << 16,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        said = re.sub(r".*\] ", "", str(error).strip().splitlines()[-1])
        raise VocabularyError(
            f"a SentencePiece vocabulary of {size} cannot be trained on this text ({said}); "
            "choose another size (512 to 8192 suits a few megabytes) or the kind 'bytes'"
        ) from None
    atomic.write_bytes(path, model.getvalue())
    return Vocabulary("sentencepiece", size, path)


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    total = 0
    for text in texts:
        for line in text.splitlines():
            # Sentences longer than the trainer's limit are dropped; four bytes a character at most.
            for begin in range(0, len(line), 1 << 14):
                yield line[begin : begin + (1 << 14)]
        total += len(text.encode())
        if total >= _TRAIN_BYTES:
            return


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Drops what C++ writes to standard error, which no Python setting reaches; Python's exceptions pass."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def quiet_tensorflow() -> None:
    """Imports TensorFlow without its log lines and keeps it off the accelerators, which belong to JAX."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent():
        import tensorflow as tf
    for kind in ("GPU", "TPU"):
        # A program that has used TensorFlow before has settled this for itself.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)


def quiet_seqio() -> Any:
    """seqio, imported as quietly."""
    quiet_tensorflow()
    with silent():
        import seqio
    return seqio
