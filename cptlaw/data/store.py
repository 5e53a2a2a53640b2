"""A token store: one split of one corpus, tokenised once, as flat arrays and a ledger.

Files of a store, a directory of its own:
  tokens.bin     the documents one after another, each `[bos?] tokens... eos`; little-endian uint16 or uint32
  offsets.npy    int64 (documents + 1,), where each document starts in `tokens.bin`
  doc_bytes.npy  int64 (documents,), UTF-8 bytes of each document's text
  ledger.json    counts, vocabulary, source, licence; written last, so a store without it was never finished
"""

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cptlaw import atomic
from cptlaw.errors import UserError

FORMAT = 1


class StoreError(UserError):
    """A token store that is missing, unfinished or damaged."""


class TokenStore:
    """A finished token store, memory-mapped.

    Attributes:
      name, split: the corpus and "train" or "validation".
      tokens: (n,) uint16 or uint32, read only.
      offsets: (documents + 1,) int64, strictly increasing from 0 to n.
      doc_bytes: (documents,) int64.
      ledger: what the store was made from, and its counts.
    """

    def __init__(self, tokens: np.ndarray, offsets: np.ndarray, doc_bytes: np.ndarray, ledger: Mapping[str, Any]):
        self.tokens, self.offsets, self.doc_bytes, self.ledger = tokens, offsets, doc_bytes, dict(ledger)
        self.name: str = ledger["name"]
        self.split: str = ledger["split"]

    def __repr__(self) -> str:
        return f"TokenStore({self.name}/{self.split}: {len(self.doc_bytes):,} documents, {len(self.tokens):,} tokens)"

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "TokenStore":
        """Opens a finished store.

        Raises:
          StoreError: no ledger (never finished), another format, or files that do not agree with the ledger.
        """
        directory = Path(directory)
        ledger = read_ledger(directory)
        if ledger is None:
            raise StoreError(f"{directory}: no finished token store here (no ledger.json); build it first")
        try:
            path = directory / "tokens.bin"
            # A plain view: indexing the memmap subclass costs more than the copy of a batch.
            tokens = np.asarray(np.memmap(path, ledger["dtype"], "r")) if path.stat().st_size else np.empty(0, "<u2")
            offsets = np.load(directory / "offsets.npy")
            doc_bytes = np.load(directory / "doc_bytes.npy")
        except (OSError, ValueError) as error:
            raise _damaged(directory, str(error)) from None
        if len(tokens) != ledger["tokens"] or len(doc_bytes) != ledger["documents"]:
            raise _damaged(directory, f"{len(tokens)} tokens, {len(doc_bytes)} documents; the ledger says otherwise")
        if len(offsets) != len(doc_bytes) + 1 or offsets[0] != 0 or offsets[-1] != len(tokens):
            raise _damaged(directory, "offsets.npy does not span tokens.bin")
        if (np.diff(offsets) <= 0).any():
            raise _damaged(directory, "offsets.npy is not strictly increasing")
        return cls(tokens, offsets, doc_bytes, ledger)


class Writer:
    """Writes a store document by document; `finish` makes it whole. A context manager.

    Whatever an earlier, unfinished build left in `directory` is removed. Use one writer for a directory at a time.
    """

    def __init__(self, directory: str | os.PathLike[str], vocab_size: int):
        self.directory = Path(directory)
        self.vocab_size = vocab_size
        if self.directory.exists():
            shutil.rmtree(self.directory)
        self.directory.mkdir(parents=True)
        self._file = (self.directory / "tokens.bin").open("wb")
        self._hash = hashlib.sha256()
        self._offsets = array("q", [0])
        self._doc_bytes = array("q")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def documents(self) -> int:
        """How many documents have been added."""
        return len(self._doc_bytes)

    def add(self, tokens: np.ndarray, text_bytes: int) -> None:
        """Appends one document of at least one token whose text has `text_bytes` UTF-8 bytes."""
        tokens = pack(np.asarray(tokens), self.vocab_size)
        self.extend(tokens, np.array([tokens.size]), np.array([text_bytes]))

    def extend(self, tokens: np.ndarray, lengths: np.ndarray, doc_bytes: np.ndarray) -> None:
        """Appends documents: their packed tokens one after the other, each one's number of tokens and UTF-8 bytes."""
        if not (lengths > 0).all():
            raise ValueError("a document needs at least one token (its end)")
        data = tokens.tobytes()
        self._file.write(data)
        self._hash.update(data)
        self._offsets.extend((self._offsets[-1] + lengths.cumsum()).tolist())
        self._doc_bytes.extend(doc_bytes.tolist())

    def finish(self, name: str, split: str, facts: Mapping[str, Any]) -> TokenStore:
        """Writes arrays, then the ledger (`facts` and the counts), and opens the store."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        for file, values in (("offsets.npy", self._offsets), ("doc_bytes.npy", self._doc_bytes)):
            with atomic.replacing(self.directory / file) as temporary:
                np.save(temporary, np.array(values, np.int64))
        counts = {
            "format": FORMAT,
            "name": name,
            "split": split,
            "documents": len(self._doc_bytes),
            "tokens": self._offsets[-1],
            "bytes": sum(self._doc_bytes),
            "dtype": _dtype(self.vocab_size).str,
            "tokens_sha256": self._hash.hexdigest(),
        }
        atomic.write_text(self.directory / "ledger.json", json.dumps(counts | dict(facts), indent=2) + "\n")
        return TokenStore.open(self.directory)


def pack(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Token ids in the type that a store of this vocabulary keeps them in. Raises ValueError for one outside it."""
    if tokens.size and (tokens.min() < 0 or tokens.max() >= vocab_size):
        raise ValueError(f"token {tokens.min()} or {tokens.max()} outside the vocabulary of {vocab_size}")
    return tokens.astype(_dtype(vocab_size))


def _dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def read_ledger(directory: Path) -> dict[str, Any] | None:
    """The ledger of a finished store, or None where there is none."""
    try:
        ledger = json.loads((directory / "ledger.json").read_text())
        fits = ledger["format"] == FORMAT
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(directory, f"ledger.json cannot be read: {error!r}") from None
    if not fits:
        raise StoreError(
            f"{directory}: format {ledger['format']}, this version reads {FORMAT}; delete it and build again"
        )
    return ledger


def _damaged(directory: Path, why: str) -> StoreError:
    return StoreError(f"{directory}: damaged token store ({why}); delete the directory and build it again")
