"""Vocabularies: SentencePiece trained on one of the corpora, bytes, or an open model's own; all are seqio vocabularies.

Ids of the first two are as seqio expects them: 0 padding, 1 end of document, 2 unknown; no beginning of document.
"""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cptlaw import atomic
from cptlaw.data import tokenizer_files
from cptlaw.data.tokenizer_files import VocabularyError
from cptlaw.paths import local

EOS_ID = 1
PIECE = 1 << 20  # characters of a long document that are tokenised at a time
_TRAIN_BYTES = 4_000_000


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What a token id means.

    Attributes:
      kind: "sentencepiece", "tokenizer" (a tokenizer.json, which needs the package tokenizers) or "bytes".
      size: number of ids.
      path: the SentencePiece model or tokenizer.json; None for bytes.
      eos_id: the id that ends a document.
      begin: the ids that begin a document, where tokenizer_config.json says so; None for the file's own.
    """

    kind: str
    size: int
    path: Path | None = None
    eos_id: int = EOS_ID
    begin: tuple[int, ...] | None = None

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what decides the tokens; equal hashes, equal tokens."""
        digest = hashlib.sha256(self.path.read_bytes() if self.path else b"bytes")
        if self.eos_id != EOS_ID:
            digest.update(f"eos {self.eos_id}".encode())
        if self.kind == "tokenizer" and self.path and (stored := tokenizer_files.stored_settings(self.path)):
            digest.update(f"without {stored}".encode())
        if self.begin is not None:
            digest.update(f"begin {self.begin}".encode())
        return digest.hexdigest()

    @property
    def bos_id(self) -> int | None:
        """The id with which `encode` begins a document; None where it does not."""
        return self._affixes[0][0] if self._affixes[0] else None

    @cached_property
    def _affixes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids around a document's own, without the end of document."""
        before: tuple[int, ...] = ()
        after: tuple[int, ...] = ()
        if self.kind == "tokenizer":
            before, after = tokenizer_files.affixes(self._tokenizer)
        return before if self.begin is None else self.begin, after[:-1] if after[-1:] == (self.eos_id,) else after

    @cached_property
    def _digest(self) -> str:
        return tokenizer_files.digest(self.path) if self.path else ""

    @property
    def _sentencepiece(self) -> Any:
        return tokenizer_files.sentencepiece(self.path, self._digest)

    @property
    def _tokenizer(self) -> Any:
        return tokenizer_files.tokenizer(self.path, self._digest)

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text (int32, without the end of document): those that `seqio()` gives, without TensorFlow.

        A document begins with a token of its own where tokenizer_config.json or the post-processor of a tokenizer.json
        says so. Special tokens that stand in the text are text.
        """
        before, after = (np.array(ids, np.int32) for ids in self._affixes)
        return [np.concatenate([before, ids, after]) for ids in self._encode(texts)]

    def encode_pieces(self, text: str) -> Iterator[np.ndarray]:
        """The ids of one text, as `encode` gives them, in arrays of moderate length: a long text takes less memory.

        Pieces are cut where `cut` says; where it says nothing the text is tokenised as a whole.
        """
        cut, added = self.cut
        if cut is None or len(text) <= PIECE:
            yield self.encode([text])[0]
            return
        before, after = (np.array(ids, np.int32) for ids in self._affixes)
        yield before
        begin = 0
        while begin < len(text):
            match = cut.search(text, begin + PIECE)
            end = match.start() if match else len(text)
            yield self._encode([text[begin:end]])[0][added if begin else 0 :]
            begin = end
        yield after

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text alone."""
        if self.kind == "bytes":
            return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 3 for text in texts]
        if self.kind == "sentencepiece":
            return [np.array(ids, np.int32) for ids in self._sentencepiece.encode(texts)]
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in found]

    @cached_property
    def cut(self) -> tuple[re.Pattern[str] | None, int]:
        """Where a text can be cut without changing its tokens, and how many tokens each part but the first adds.

        None: nowhere that is known, so that a document needs the memory of all its tokens at once (about 16 bytes a
        byte with SentencePiece, 50 with a tokenizer.json).
        """
        if self.kind == "bytes":
            return re.compile(""), 0
        if self.kind == "sentencepiece":
            assert self.path is not None
            return tokenizer_files.sentencepiece_cut(self.path, self._sentencepiece)
        return tokenizer_files.tokenizer_cut(self._tokenizer), 0

    @cached_property
    def special_text(self) -> re.Pattern[str] | None:
        """Finds special tokens written in a text, where they are ordinary text; None where there are none."""
        names: list[str] = []
        if self.kind == "sentencepiece":
            model = self._sentencepiece
            names = [model.id_to_piece(i) for i in range(self.size) if model.is_control(i) or model.is_unknown(i)]
        if self.kind == "tokenizer":
            names = [t.content for t in self._tokenizer.get_added_tokens_decoder().values() if t.special]
        return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if any(names) else None

    def decode(self, ids: list[int]) -> str:
        """What some ids say; where they cut a character, a replacement character."""
        if self.path is None:
            return bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors="replace")
        if self.kind == "sentencepiece":
            return self._sentencepiece.decode(ids)
        return self._tokenizer.decode(ids)

    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of every token id: (size,) int64; 0 for padding, end of document, unknown and the like.

        Their sum over a document need not be the document's bytes: a space may have been put in front, or the text
        normalised. The ledger of a store says how many documents have it (`bytes_by_token`).
        """
        return self._token_bytes

    @cached_property
    def _token_bytes(self) -> np.ndarray:
        if self.kind == "sentencepiece":
            return tokenizer_files.sentencepiece_bytes(self._sentencepiece, self.size)
        if self.kind == "tokenizer":
            return tokenizer_files.tokenizer_bytes(self._tokenizer, self.size)
        sizes = np.ones(self.size, np.int64)
        sizes[:3] = 0
        return sizes

    def seqio(self) -> Any:
        """The seqio vocabulary (imports TensorFlow)."""
        seqio = quiet_seqio()
        if self.path is None:
            return seqio.ByteVocabulary()
        if self.kind == "sentencepiece" and not self.begin:
            return seqio.SentencePieceVocabulary(str(self.path))
        return _own_seqio(self)


BYTES = Vocabulary("bytes", 256 + 3)


def open_vocabulary(path: Path, eos: str = "") -> Vocabulary:
    """The vocabulary of an open model.

    Args:
      path: a tokenizer.json, a SentencePiece model (tokenizer.model), or the folder of the model that holds one.
      eos: the token that ends a document; without it, what tokenizer_config.json (or special_tokens_map.json) beside
        the file, or the SentencePiece model, names.

    tokenizer_config.json beside the file also says whether documents begin with a token (add_bos_token). They end with
    one in any case, whatever add_eos_token says: packed documents need it.

    Raises VocabularyError when there is no such file or token, or a file beside it cannot be read.
    """
    path = local(path).expanduser()
    if path.is_dir():
        path = next((path / name for name in ("tokenizer.json", "tokenizer.model") if (path / name).exists()), path)
    if not path.is_file():
        raise VocabularyError(f"vocabulary: {path} is no tokenizer.json or SentencePiece model, nor a folder with one")
    beside = tokenizer_files.Beside(path)
    if path.suffix == ".json":
        tokenizer = tokenizer_files.tokenizer(path, tokenizer_files.digest(path))
        eos = eos or beside.token("eos_token")
        size = max(tokenizer.get_vocab().values(), default=-1) + 1
        kind, find = "tokenizer", tokenizer.token_to_id
        eos_id, begins = find(eos), tokenizer_files.affixes(tokenizer)[0]
    else:
        model = tokenizer_files.sentencepiece(path, tokenizer_files.digest(path))

        def find(token: str) -> int | None:
            found = model.piece_to_id(token)
            return None if model.is_unknown(found) else found

        kind, size, begins = "sentencepiece", model.vocab_size(), ()
        eos_id = find(eos) if eos else model.eos_id()
    if eos_id is None or eos_id < 0:
        raise VocabularyError(
            f"vocabulary: {path} has no token {eos!r} to end a document with; name one of its own (eos)"
        )
    return Vocabulary(kind, size, path, eos_id, _begin(path, beside, begins, find))


def _begin(path: Path, beside: tokenizer_files.Beside, own: tuple[int, ...], find: Any) -> tuple[int, ...] | None:
    """The ids that begin a document where tokenizer_config.json says otherwise than the file itself, else None."""
    wanted = beside.begins()
    if wanted is None or wanted == bool(own):
        return None
    if not wanted:
        return ()
    token = beside.token("bos_token") or "<s>"
    if (found := find(token)) is None:
        raise VocabularyError(
            f"vocabulary: {beside.file}: add_bos_token asks for {token!r}, and {path.name} has no such token; "
            "name its bos_token"
        )
    return (found,)


def _own_seqio(vocabulary: Vocabulary) -> Any:
    seqio = quiet_seqio()
    import tensorflow as tf

    def encode(text: bytes) -> np.ndarray:
        return vocabulary.encode([text.decode()])[0]

    def decode(ids: np.ndarray) -> np.ndarray:
        rows = [vocabulary.decode(row.tolist()).encode() for row in ids.reshape(-1, ids.shape[-1])]
        return np.array(rows, object).reshape(ids.shape[:-1])

    class OwnVocabulary(seqio.Vocabulary):  # type: ignore[name-defined]
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

    return OwnVocabulary()


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
        # TensorFlow refuses this once it has been used; such a program has chosen its devices itself.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], kind)


def quiet_seqio() -> Any:
    """seqio, imported as quietly."""
    quiet_tensorflow()
    with silent():
        import seqio
    return seqio
