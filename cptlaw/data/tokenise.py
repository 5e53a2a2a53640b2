"""Documents to tokens, in parallel processes, resumable.

The parent process reads the corpus in its order, splits it and drops duplicates. It hands the documents out in parts of
about PART characters, and the tokens of each part are written to a file. Which documents are in a part depends on the
corpus alone: a build that was killed goes on from the parts that are there, and any number of processes writes the same
parts. Reading takes a seventh of the time of a SentencePiece model of 1,024 ids, and less beside slower tokenizers. The
processes import no TensorFlow. A long document is tokenised in pieces where that gives the same tokens.
"""

import concurrent.futures
import functools
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cptlaw import atomic, cores
from cptlaw.data.store import pack
from cptlaw.data.vocabularies import PIECE, Vocabulary

PART = 1 << 22  # about a second's work, which is what a kill costs each process; a terabyte makes 250,000 files


class Part(NamedTuple):
    """Consecutive documents.

    Attributes:
      tokens: of all documents, one after the other.
      lengths, doc_bytes: (documents,) each one's number of tokens, and UTF-8 bytes.
      counted_bytes: (documents,) the sum of the bytes of each one's tokens (`Vocabulary.token_bytes`).
      specials: (documents,) how often special tokens are written in each one's text.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    doc_bytes: np.ndarray
    counted_bytes: np.ndarray
    specials: np.ndarray


def tokenise(
    texts: Iterable[str],
    vocabulary: Vocabulary,
    directory: Path,
    processes: int = 0,
    advance: Callable[[int], Any] = lambda documents: None,
) -> Iterator[Part]:
    """Tokenises documents, each with the end of document, and yields them back in their order.

    Args:
      texts: the documents; the same ones, in the same order, whenever `directory` is the same.
      vocabulary: what encodes them.
      directory: where the parts are kept; the caller removes it when it needs them no more.
      processes: 0 takes one a core, at most 16: one reader keeps no more of them busy.
      advance: called with the number of documents of each part that is done, or was found done.
    """
    count = 0

    def missing() -> Iterator[tuple[Path, list[str]]]:
        nonlocal count
        for part in in_parts(texts):
            path = _path(directory, count)
            count += 1
            if path.exists():
                advance(len(part))
            else:
                yield path, part

    left = missing()
    first = list(itertools.islice(left, 2))
    processes = processes or min(16, cores.usable())
    if processes == 1 or len(first) < 2:
        for path, part in itertools.chain(first, left):
            advance(_write(vocabulary, path, part))
    else:
        _in_processes(vocabulary, itertools.chain(first, left), processes, advance)
    for number in range(count):
        with np.load(_path(directory, number)) as arrays:
            yield Part(**arrays)


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.part.npz"


def _in_processes(
    vocabulary: Vocabulary, left: Iterator[tuple[Path, list[str]]], processes: int, advance: Callable[[int], Any]
) -> None:
    # Spawned, because this process may have started the threads of TensorFlow or JAX.
    pool = concurrent.futures.ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start)
    pending: deque[concurrent.futures.Future[int]] = deque()
    try:
        for path, part in left:
            if len(pending) == 2 * processes:  # bounds the text in memory
                advance(pending.popleft().result())
            pending.append(pool.submit(_write, vocabulary, path, part))
        while pending:
            advance(pending.popleft().result())
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    """Ignores Ctrl-C, which the parent answers by letting parts be finished. Ends when the parent was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _write(vocabulary: Vocabulary, path: Path, texts: list[str]) -> int:
    part = encode(vocabulary, texts)
    with atomic.replacing(path) as temporary:
        np.savez(temporary, **part._asdict())
    return len(texts)


def encode(vocabulary: Vocabulary, texts: Sequence[str]) -> Part:
    """The documents as tokens; `vocabulary` may be another copy at every call."""
    vocabulary = _first_of_equals(vocabulary, vocabulary.hash)
    special, sizes = vocabulary.special_text, vocabulary.token_bytes()
    short = iter(vocabulary.encode([text for text in texts if len(text) <= PIECE]))
    end = np.array([vocabulary.eos_id], np.int32)
    tokens, lengths, counted = [], [], []
    for text in texts:
        length = size = 0
        for ids in itertools.chain(vocabulary.encode_pieces(text) if len(text) > PIECE else [next(short)], [end]):
            tokens.append(pack(ids, vocabulary.size))
            length += ids.size
            size += int(sizes[ids].sum())
        lengths.append(length)
        counted.append(size)
    return Part(
        tokens=np.concatenate(tokens),
        lengths=np.array(lengths),
        doc_bytes=np.array([len(text.encode()) for text in texts]),
        counted_bytes=np.array(counted),
        specials=np.array([sum(1 for _ in special.finditer(text)) if special else 0 for text in texts]),
    )


@functools.lru_cache(maxsize=2)
def _first_of_equals(vocabulary: Vocabulary, content: str) -> Vocabulary:
    """One object for all parts of a process: it keeps what it has worked out, and each part brings a new copy."""
    return vocabulary


def in_parts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Consecutive documents of about PART characters together."""
    part: list[str] = []
    size = 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= PART:
            yield part
            part, size = [], 0
    if part:
        yield part
