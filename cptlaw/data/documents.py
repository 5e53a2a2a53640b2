"""A document, and which side of the split it falls on."""

import hashlib
import struct
from typing import NamedTuple

from cptlaw.errors import UserError


class CorpusError(UserError):
    """A source that cannot be read, or that holds no usable text."""


class Document(NamedTuple):
    """A text and where it came from (file, article or table row, for people to read)."""

    text: str
    source: str


class Key(NamedTuple):
    """Content hash of a document.

    Attributes:
      digest: 16 bytes; equal texts have equal digests.
      side: uniform in [0, 1), decides between train and validation.
      rank: uniform in [0, 2^64), independent of `side`; the smallest ranks are a random sample of the documents.
    """

    digest: bytes
    side: float
    rank: int


def content_key(text: str) -> Key:
    """The key of a text; it depends on nothing else, so a text in two corpora falls on the same side in both."""
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    side, rank = struct.unpack("<QQ", digest)
    return Key(digest, side / 2**64, rank)


def too_long(limit: int) -> str:
    """Why a row is bad that is longer than the limit."""
    return f"longer than max_document_bytes, {limit:,}; divide it, or raise that limit if there is memory for it"
