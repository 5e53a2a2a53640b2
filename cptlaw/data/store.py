"""A token store: one split of one corpus, tokenised once, as flat arrays and a ledger.

Files of a store, a directory of its own:
  tokens.bin     the documents one after another, each `[bos?] tokens... eos`; little-endian uint16 or uint32
  offsets.npy    int64 (documents + 1,), where each document starts in `tokens.bin`
  doc_bytes.npy  int64 (documents,), UTF-8 bytes of each document's text
  ledger.json    counts, vocabulary, source, licence; written last, so a store without it was never finished
  verified.json size, time and inode of the files when they were last compared with the ledger's hashes (`verify`)
"""

import contextlib
import hashlib
import os
import shutil
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cptlaw import atomic, records
from cptlaw.errors import UserError
from cptlaw.paths import local

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
        directory = local(directory)
        ledger = read_ledger(directory)
        if ledger is None:
            raise StoreError(f"{directory}: no finished token store here (no ledger.json); build it first")
        try:
            path = directory / "tokens.bin"
            # A plain view: indexing the memmap subclass costs more than the copy of a batch.
            tokens = np.asarray(np.memmap(path, ledger["dtype"], "r")) if path.stat().st_size else np.empty(0, "<u2")
            offsets, doc_bytes = (_load(directory / name) for name in ("offsets.npy", "doc_bytes.npy"))
        except (OSError, ValueError) as error:
            raise _damaged(directory, str(error)) from None
        if len(tokens) != ledger["tokens"] or len(doc_bytes) != ledger["documents"]:
            raise _damaged(directory, f"{len(tokens)} tokens, {len(doc_bytes)} documents; the ledger says otherwise")
        if len(offsets) != len(doc_bytes) + 1 or offsets[0] != 0 or offsets[-1] != len(tokens):
            raise _damaged(directory, "offsets.npy does not span tokens.bin")
        if (np.diff(offsets) <= 0).any():
            raise _damaged(directory, "offsets.npy is not strictly increasing")
        if doc_bytes.sum() != ledger["bytes"]:
            raise _damaged(directory, f"doc_bytes.npy has {doc_bytes.sum()} bytes of text; the ledger says otherwise")
        return cls(tokens, offsets, doc_bytes, ledger)


class Writer:
    """Writes a store document by document; `finish` makes it whole. A context manager.

    Whatever an earlier, unfinished build left in `directory` is removed. Use one writer for a directory at a time.
    """

    def __init__(self, directory: str | os.PathLike[str], vocab_size: int):
        self.directory = local(directory)
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
            "offsets_sha256": _hash(np.array(self._offsets, np.int64)),
            "doc_bytes_sha256": _hash(np.array(self._doc_bytes, np.int64)),
        }
        records.write(self.directory / "ledger.json", counts | dict(facts))
        return TokenStore.open(self.directory)


def pack(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Token ids in the type that a store of this vocabulary keeps them in. Raises ValueError for one outside it."""
    if tokens.size and (tokens.min() < 0 or tokens.max() >= vocab_size):
        raise ValueError(f"token {tokens.min()} or {tokens.max()} outside the vocabulary of {vocab_size}")
    return tokens.astype(_dtype(vocab_size))


def _dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


_LEDGER: dict[str, records.Kinds] = {
    "name": str,
    "split": str,
    "documents": int,
    "tokens": int,
    "bytes": int,
    "dtype": str,
    "tokens_sha256": str,
}
_CURE = "delete the directory of the token store and build it again"


def read_ledger(directory: Path) -> dict[str, Any] | None:
    """The ledger of a finished store, or None where there is none. Raises StoreError naming the field that is wrong."""
    path = directory / "ledger.json"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    where = f"{path} of a damaged token store"
    ledger = records.parse(text, where, _CURE, StoreError)
    records.require(ledger, {"format": int}, where, _CURE, StoreError)
    if ledger["format"] != FORMAT:
        raise StoreError(
            f"{directory}: format {ledger['format']}, this version reads {FORMAT}; delete it and build again"
        )
    ledger = records.unsealed(ledger, where, _CURE, StoreError)
    records.require(ledger, _LEDGER, where, _CURE, StoreError)
    if ledger["dtype"] not in ("<u2", "<u4"):
        raise StoreError(f"{where}: damaged: field 'dtype' is {ledger['dtype']!r}; {_CURE}")
    return ledger


def verify(directory: str | os.PathLike[str]) -> None:
    """Compares a finished store's files with the hashes in its ledger, and does nothing where there is no store.

    What agreed once is compared again only when a file's size, time of change or inode is another, so it costs the
    reading of the store once. A ledger of before there were hashes of offsets and doc_bytes gets them.

    Raises StoreError naming the file that is damaged.
    """
    directory = local(directory)
    ledger = read_ledger(directory)
    if ledger is None:
        return
    seen = {name: _identity(directory / name) for name in _FILES}
    agreed = {"files": seen, "hashes": [ledger.get(field) for field in _FILES.values()]}
    with contextlib.suppress(UserError):
        if records.read(directory / "verified.json", {}, "") == agreed:
            return
    store = TokenStore.open(directory)
    arrays = {"tokens.bin": store.tokens, "offsets.npy": store.offsets, "doc_bytes.npy": store.doc_bytes}
    hashes = {_FILES[name]: _hash(array) for name, array in arrays.items()}
    for name, field in _FILES.items():
        if ledger.get(field, hashes[field]) != hashes[field]:
            raise _damaged(directory, f"{name} does not agree with its hash, {field} of ledger.json")
    with contextlib.suppress(OSError):  # a store that may only be read is compared every time
        if not ledger.keys() >= hashes.keys():
            records.write(directory / "ledger.json", ledger | hashes)
        records.write(directory / "verified.json", {"files": seen, "hashes": [hashes[f] for f in _FILES.values()]})


# File -> the ledger's field with its hash.
_FILES = {"tokens.bin": "tokens_sha256", "offsets.npy": "offsets_sha256", "doc_bytes.npy": "doc_bytes_sha256"}


def _load(path: Path) -> np.ndarray:
    try:
        array = np.load(path)
    except OSError:
        raise
    except Exception as error:  # of NumPy's parser of headers: SyntaxError, EOFError, TokenError, ...
        raise ValueError(f"{path.name}: {type(error).__name__}: {str(error)[:100]}") from None
    if array.dtype != np.int64 or array.ndim != 1:
        raise ValueError(f"{path.name}: {array.dtype} of shape {array.shape}")
    return array


def _identity(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _damaged(path.parent, f"{path.name}: {error.strerror}") from None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _hash(array: np.ndarray) -> str:
    """SHA-256 of the values, a piece at a time: a corpus may be larger than the memory."""
    digest = hashlib.sha256()
    for start in range(0, len(array), 1 << 22):
        digest.update(np.ascontiguousarray(array[start : start + (1 << 22)]).tobytes())
    return digest.hexdigest()


def _damaged(directory: Path, why: str) -> StoreError:
    return StoreError(f"{directory}: damaged token store ({why}); delete the directory and build it again")
