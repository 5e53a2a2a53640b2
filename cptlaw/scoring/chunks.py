"""Scores of a whole corpus under a frozen model: one row a chunk, in Parquet shards that resume.

A document of n tokens is cut into chunks of C targets: chunk j predicts the tokens j C + 1 ... (j + 1) C, its context
beginning with token j C. So every token but the document's first is predicted exactly once, and all chunks see
contexts of the same lengths. The tail rule: what is left at a document's end is a shorter chunk of its own. It counts
in the document's sums; the landscape and the subset builders leave it out, because perplexities of different lengths
do not compare (short chunks score higher).

DIRECTORY/
  scores.json           what was scored, and how; written first
  shard-00000.parquet   columns document, chunk, tokens, bytes, nats; whole documents, in the store's order

Shapes: B rows of a batch, T positions of a row.
"""

import bisect
import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.experimental import multihost_utils

from cptlaw import atomic, records
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.paths import local
from cptlaw.progress import bar as progress_bar
from cptlaw.scoring.evaluate import make_token_nll
from cptlaw.selection.scores import ScoreError, meta, shard_path

FORMAT = 1
LEAST_ROW = 64  # the attention that shorter rows would save is not worth another compilation


class Tokens(Protocol):
    """A token store: `tokens` (n,), `offsets` (documents + 1,) into it, `doc_bytes` (documents,), `ledger`."""

    tokens: np.ndarray
    offsets: np.ndarray
    doc_bytes: np.ndarray
    ledger: dict[str, Any]


def score(
    params: transformer.Params,
    cfg: transformer.Config,
    store: Tokens,
    directory: str | os.PathLike[str],
    *,
    chunk: int,
    model: Mapping[str, Any],
    layout: Layout | None = None,
    batch_tokens: int = 16_384,
    shard_tokens: int = 1 << 22,
    token_bytes: np.ndarray | None = None,
    progress: bool = False,
) -> None:
    """Scores what is not scored yet; `read` then gives the rows. Memory grows with `shard_tokens`, not the corpus.

    Args:
      params: as of `transformer.init`, placed by `layout`.
      directory: a shard in it is whole, so a killed call is continued by the same call, with the same result.
      chunk: C.
      model: JSON that says which parameters these are; scores of another model are refused, not mixed.
      batch_tokens: positions of a batch. Batch, order, padding and devices move a chunk's nats by rounding alone.
      shard_tokens: tokens of a shard, and at least one document.
      token_bytes: (vocabulary,) UTF-8 bytes of each token id. None: a document's bytes are shared out by tokens.

    Raises:
      ScoreError: `directory` holds scores of something else.
    """
    directory = local(directory)
    if chunk < 1:
        raise ScoreError(f"chunk: at least 1 token, not {chunk}")
    if store.ledger.get("vocabulary", {}).get("size", 0) > cfg.vocab_size:
        raise ScoreError(f"the corpus has {store.ledger['vocabulary']['size']} token ids, the model {cfg.vocab_size}")
    shards = _shards(store.offsets, shard_tokens)
    _claim(directory, store, {"model": dict(model), "chunk": chunk, "shard_tokens": shard_tokens}, len(shards))
    layout = layout or Layout(make_mesh())
    longest = int(np.diff(store.offsets).max(initial=2)) - 1
    scorer = _Scorer(params, cfg, layout, min(chunk, longest), batch_tokens)
    todo = np.array([not shard_path(directory, i).exists() for i in range(len(shards))], np.int32)
    if jax.process_count() > 1:  # one process writes while another may still be looking
        todo = multihost_utils.broadcast_one_to_all(todo)
    done = sum(int(np.diff(store.offsets[[a, b]])[0]) for (a, b), left in zip(shards, todo) if not left)
    with progress_bar(
        progress=progress, total=len(store.tokens), initial=done, desc="Scoring", unit="token", unit_scale=True
    ) as bar:
        for i in np.flatnonzero(todo).tolist():
            first, last = shards[i]
            chunks = cut(store.offsets, first, last, chunk)
            nats = scorer.nats(store.tokens, chunks, bar.update)
            bar.update(last - first)  # the first tokens of the documents, which nothing predicts
            if jax.process_index() == 0:
                _write(shard_path(directory, i), store, chunks, nats, token_bytes)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("scored")  # every process returns only when all shards can be read


@dataclasses.dataclass(frozen=True)
class Chunks:
    """Chunks of a run of documents: arrays (chunks,) of document, number in it, place in the corpus, and targets."""

    document: np.ndarray
    number: np.ndarray
    begin: np.ndarray
    targets: np.ndarray


def cut(offsets: np.ndarray, first: int, last: int, chunk: int) -> Chunks:
    """The chunks of documents [first, last) of a store, see the module."""
    lengths = np.diff(offsets[first : last + 1]) - 1
    count = -(-lengths // chunk)
    document = np.repeat(np.arange(first, last), count)
    number = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    targets = np.minimum(chunk, np.repeat(lengths, count) - number * chunk)
    return Chunks(document, number, np.repeat(offsets[first:last], count) + number * chunk, targets)


def _claim(directory: Path, store: Tokens, asked: Mapping[str, Any], shards: int) -> None:
    """Writes scores.json, or refuses a directory of other scores."""
    corpus = {key: store.ledger[key] for key in ("name", "split", "tokens_sha256")}
    new = json.loads(json.dumps({"format": FORMAT, **corpus, **asked, "shards": shards}))
    if (directory / "scores.json").exists():
        old = meta(directory)
        differ = [f"{key} {old.get(key)!r}, now {new.get(key)!r}" for key in old | new if old.get(key) != new.get(key)]
        if differ:
            raise ScoreError(f"{directory}: holds other scores ({'; '.join(differ)}); give another directory")
    elif jax.process_index() == 0:
        records.write(directory / "scores.json", new)


def _shards(offsets: np.ndarray, shard_tokens: int) -> list[tuple[int, int]]:
    """Runs of whole documents of at most `shard_tokens` tokens, at least one document each."""
    shards, first, documents = [], 0, len(offsets) - 1
    while first < documents:
        fits = int(np.searchsorted(offsets, offsets[first] + shard_tokens, "right")) - 1
        last = max(first + 1, fits)
        shards.append((first, last))
        first = last
    return shards


def _write(path: Path, store: Tokens, chunks: Chunks, nats: np.ndarray, token_bytes: np.ndarray | None) -> None:
    columns = {
        "document": chunks.document.astype(np.int64),
        "chunk": chunks.number.astype(np.int32),
        "tokens": chunks.targets.astype(np.int32),
        "bytes": _bytes(store, chunks, token_bytes),
        "nats": nats,
    }
    with atomic.replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary, write_page_checksum=True)


def _bytes(store: Tokens, chunks: Chunks, token_bytes: np.ndarray | None) -> np.ndarray:
    """UTF-8 bytes of each chunk's targets; a document's first token counts in its first chunk.

    A store whose ledger has `bytes_by_token` knows its documents' true bytes, to which those of the tokens are brought:
    one byte more is the space that a tokenizer puts in front of a text, other differences are shared out.
    """
    if not chunks.number.size:
        return np.empty(0, np.int64)
    first = chunks.number == 0
    begin = np.where(first, chunks.begin, chunks.begin + 1)
    end = chunks.begin + chunks.targets + 1
    size = store.doc_bytes[chunks.document]
    if token_bytes is None:
        # Rounded sums, so that a document's chunks have exactly its bytes.
        tokens = (np.diff(store.offsets)[chunks.document] - 1).astype(float)
        before = chunks.begin - store.offsets[chunks.document]
        return (np.rint(size * ((before + chunks.targets) / tokens)) - np.rint(size * (before / tokens))).astype(
            np.int64
        )
    start, stop = int(store.offsets[chunks.document[0]]), int(store.offsets[chunks.document[-1] + 1])
    total = np.concatenate([[0], np.cumsum(token_bytes[store.tokens[start:stop]], dtype=np.int64)])
    if "bytes_by_token" not in store.ledger:
        return total[end - start] - total[begin - start]
    document = total[store.offsets[chunks.document] - start]
    counted = total[store.offsets[chunks.document + 1] - start] - document

    def true(at: np.ndarray) -> np.ndarray:
        """Bytes of the document in front of a token."""
        sums = total[at - start] - document
        shared = np.rint(size * (sums / np.maximum(counted, 1)))
        return np.where(counted - size == 1, np.maximum(sums - 1, 0), shared).astype(np.int64)

    return true(end) - true(begin)


class _Scorer:
    """Packs chunks into rows of a few fixed lengths and scores them, a batch ahead of what it fetches."""

    def __init__(
        self, params: transformer.Params, cfg: transformer.Config, layout: Layout, longest: int, batch_tokens: int
    ):
        self.params, self.layout, self.batch_tokens = params, layout, batch_tokens
        # Attention costs a token its row's width; each is a program to compile.
        self.widths = [longest]
        while self.widths[-1] > LEAST_ROW:
            self.widths.append(max(LEAST_ROW, self.widths[-1] // 2))
        self._token_nll = make_token_nll(cfg, layout)

    def nats(self, tokens: np.ndarray, chunks: Chunks, progress: Any) -> np.ndarray:
        """Sum of the negative log-likelihoods of each chunk: (chunks,) float64, from float32 losses by token."""
        nats = np.zeros(chunks.targets.size)
        waiting: tuple[jax.Array, np.ndarray, tuple[np.ndarray, np.ndarray]] | None = None

        def take(nll_BT: jax.Array, members: np.ndarray, place: tuple[np.ndarray, np.ndarray]) -> None:
            targets = chunks.targets[members]
            flat = np.asarray(nll_BT)[place].astype(np.float64)
            nats[members] = np.add.reduceat(flat, targets.cumsum() - targets)
            progress(len(flat))

        for members, row, column, rows, width in self._batches(chunks.targets):
            batch, place = _batch(tokens, chunks, members, row, column, rows, width)
            mine = self.layout.rows(rows)
            nll_BT = self._token_nll(self.params, self.layout.put({k: v[mine] for k, v in batch.items()}, rows))
            if waiting:
                take(*waiting)
            waiting = nll_BT, members, place
        if waiting:
            take(*waiting)
        return nats

    def _batches(self, targets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int, int]]:
        """(chunk indices, their rows, their columns, B, T); all batches of a T have one B."""
        split = self.layout.mesh.shape["data"] * self.layout.mesh.shape["fsdp"]
        width_of, row_of, column_of = pack(targets, self.widths)
        for index, width in enumerate(self.widths):
            members = np.flatnonzero(width_of == index)
            if not members.size:
                continue
            rows = max(1, self.batch_tokens // (width * split)) * split
            members = members[np.argsort(row_of[members], kind="stable")]
            row, column = row_of[members], column_of[members]
            edges = np.searchsorted(row, np.arange(0, row[-1] + 1 + rows, rows))
            for begin, end in itertools.pairwise(edges):
                yield members[begin:end], row[begin:end] % rows, column[begin:end], rows, width


def pack(lengths: np.ndarray, widths: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Into rows of which of `widths` (the widest first) items go, into which of these, and where: (items,) each.

    The longest items come first. Each goes where it leaves the least room, or opens a row of the narrowest width that
    holds it: so shorter ones fill what longer ones leave, and only the rest pays for rows of its own.
    """
    width, row, column = np.empty_like(lengths), np.empty_like(lengths), np.zeros_like(lengths)
    narrowest = len(widths) - 1 - np.searchsorted(widths[::-1], lengths)
    rows = [0] * len(widths)
    room: list[tuple[int, int, int]] = []  # (what is left, width, row), sorted
    for item in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[item])
        at = bisect.bisect_left(room, (length,))
        if at == len(room):
            which = int(narrowest[item])
            left, where = widths[which], rows[which]
            rows[which] += 1
        else:
            left, which, where = room.pop(at)
        width[item], row[item], column[item] = which, where, widths[which] - left
        if left > length:
            bisect.insort(room, (left - length, which, where))
    return width, row, column


def _batch(
    tokens: np.ndarray, chunks: Chunks, members: np.ndarray, row: np.ndarray, column: np.ndarray, rows: int, width: int
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The arrays `transformer.token_nll` takes, and where in them the members' targets lie, one member after another.

    Every chunk is a segment of its own, with positions of its own; padding is segment 0.
    """
    targets = chunks.targets[members]
    within = np.arange(targets.sum()) - np.repeat(targets.cumsum() - targets, targets)
    source = np.repeat(chunks.begin[members], targets) + within
    place = np.repeat(row, targets), np.repeat(column, targets) + within
    batch = {name: np.zeros((rows, width), np.int32) for name in ("tokens", "targets", "segments", "positions")}
    batch["tokens"][place] = tokens[source]
    batch["targets"][place] = tokens[source + 1]
    batch["segments"][place] = np.repeat(np.arange(1, members.size + 1), targets)
    batch["positions"][place] = within
    return {f"{name}_BT": values for name, values in batch.items()}, place
