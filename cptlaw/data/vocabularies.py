"""Vocabularies: SentencePiece trained on one of the corpora, or bytes; both are seqio vocabularies.

Ids as seqio expects them: 0 padding, 1 end of document, 2 unknown; no beginning of document.
"""

import contextlib
import dataclasses
import hashlib
import io
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
      kind: "sentencepiece" or "bytes".
      size: number of ids.
      path: the SentencePiece model; None for bytes.
    """

    kind: str
    size: int
    path: Path | None = None

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what decides the tokens; equal hashes, equal tokens."""
        return hashlib.sha256(self.path.read_bytes() if self.path else b"bytes").hexdigest()

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """The ids of each text (int32, without the end of document): those that `seqio()` gives, without TensorFlow."""
        if self.path is None:
            return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 3 for text in texts]
        return [np.array(ids, np.int32) for ids in _sentencepiece(self.path, self.hash).encode(texts)]

    def seqio(self) -> Any:
        """The seqio vocabulary (imports TensorFlow)."""
        seqio = quiet_seqio()
        return seqio.SentencePieceVocabulary(str(self.path)) if self.path else seqio.ByteVocabulary()


BYTES = Vocabulary("bytes", 256 + 3)


@lru_cache(maxsize=2)
def _sentencepiece(path: Path, content: str) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path))


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
