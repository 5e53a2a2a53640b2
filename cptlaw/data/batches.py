"""Batches from token stores, as pure functions of the step.

Shapes: B rows of a batch, T positions of a row (`seq_len`).
"""

from collections.abc import Iterator, Mapping

import numpy as np

from cptlaw.data.mixture import Mixture, check_weights, key, permute
from cptlaw.data.store import StoreError, TokenStore

Batch = dict[str, np.ndarray]


class TrainBatches:
    """Batches of a mixture by token share.

    Sequence k of a corpus is a window of `seq_len + 1` tokens of its packed stream, at stride `seq_len`; each epoch of
    a corpus takes all its windows once, in an order of its own.

    Attributes:
      windows: corpus -> sequences in one epoch.
    """

    def __init__(
        self,
        stores: Mapping[str, TokenStore],
        weights: Mapping[str, float],
        seq_len: int,
        batch_size: int,
        seed: int = 0,
    ):
        """Raises MixtureError for weights that are not shares of `stores`, StoreError for a store under one window."""
        check_weights(weights, stores)
        self.mixture = Mixture(weights, seed)
        self.seq_len, self.batch_size, self.seed = seq_len, batch_size, seed
        self.stores = {name: stores[name] for name in self.mixture.names}
        self.windows = {name: (len(store.tokens) - 1) // seq_len for name, store in self.stores.items()}
        for name, windows in self.windows.items():
            if weights[name] > 0 and windows < 1:
                raise StoreError(
                    f"corpus {name!r}: {len(self.stores[name].tokens)} tokens are fewer than one window of "
                    f"{seq_len + 1}; give it more text or choose a shorter sequence"
                )

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> Batch:
        """The batch of a step, or those of its rows (indices, perhaps none) that one host feeds; only these are made.

        Returns:
          tokens_BT, targets_BT: int32.
          segments_BT: int32, the document within the row, from 1.
          positions_BT: int32, restarting with each document.
          mask_BT: float32, 1 where the target belongs to the same document as the token.
        """
        index = step * self.batch_size + np.arange(self.batch_size)[rows]
        corpus, begin = self._places(index)
        windows_BW = np.empty((index.size, self.seq_len + 1), np.int32)
        starts_BW = np.zeros((index.size, self.seq_len + 1), bool)
        for c, store in enumerate(self.stores.values()):
            (mine,) = np.nonzero(corpus == c)
            if mine.size:
                windows_BW[mine] = store.tokens[begin[mine, None] + np.arange(self.seq_len + 1)]
                starts_BW[mine] = _document_starts(store, begin[mine], self.seq_len + 1)
        return _batch(windows_BW, starts_BW)

    @property
    def streams(self) -> tuple[TokenStore, ...]:
        """The stores, by which `windows_of` counts."""
        return tuple(self.stores.values())

    def windows_of(self, step: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows of `steps` batches are, from that of `step` on.

        Returns:
          streams: (steps, B) int64, an index into `streams`.
          begins: (steps, B) int64, the first token of the window in the stream.
        """
        index = step * self.batch_size + np.arange(steps * self.batch_size)
        corpus, begin = self._places(index)
        return corpus.reshape(steps, -1), begin.reshape(steps, -1)

    def _places(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corpus and first token of the sequences at `index` of the mixture."""
        corpus, k = self.mixture.locate(index)
        begin = np.zeros_like(k)
        for c, name in enumerate(self.stores):
            (mine,) = np.nonzero(corpus == c)
            if mine.size:
                epoch, within = np.divmod(k[mine], self.windows[name])
                epochs, inverse = np.unique(epoch, return_inverse=True)
                keys = np.array([key(self.seed, name, int(e)) for e in epochs], np.uint64)[inverse]
                begin[mine] = permute(within, self.windows[name], keys) * self.seq_len
        return corpus, begin


def eval_batches(store: TokenStore, seq_len: int, batch_size: int, max_tokens: int | None = None) -> Iterator[Batch]:
    """The documents of a store in order, every token but the first of a document being the target exactly once.

    Args:
      store: what to evaluate on.
      seq_len, batch_size: T and B; every batch has that shape, the last one padded with mask 0.
      max_tokens: take only as many whole documents as have no more tokens than that (at least one).

    Yields:
      The arrays of `TrainBatches.batch`, and documents_BT: int32, the target's document in the store (0 where masked).
    """
    end = len(store.tokens)
    if max_tokens is not None and max_tokens < end:
        end = int(store.offsets[max(1, int(np.searchsorted(store.offsets, max_tokens, "right")) - 1)])
    if end < 2:
        raise StoreError(f"corpus {store.name!r}, {store.split}: no text to evaluate on; give it more documents")
    rows = -(-(end - 1) // seq_len)
    for first in range(0, rows, batch_size):
        begin = np.arange(first, first + batch_size) * seq_len
        at_BW = begin[:, None] + np.arange(seq_len + 1)
        inside_BW = at_BW < end
        windows_BW = np.where(inside_BW, store.tokens[np.minimum(at_BW, end - 1)], 0).astype(np.int32)
        starts_BW = _document_starts(store, begin, seq_len + 1)
        batch = _batch(windows_BW, starts_BW)
        batch["mask_BT"] *= inside_BW[:, 1:]
        batch["segments_BT"] *= inside_BW[:, :-1]
        in_first = np.searchsorted(store.offsets, begin, "right") - 1
        documents_BW = in_first[:, None] + starts_BW.cumsum(1)
        batch["documents_BT"] = np.where(batch["mask_BT"] > 0, documents_BW[:, 1:], 0).astype(np.int32)
        yield batch


def _document_starts(store: TokenStore, begin: np.ndarray, width: int) -> np.ndarray:
    """(B, width) bool: where a document starts inside the windows at `begin`, their first token not counted."""
    first = np.searchsorted(store.offsets, begin, "right")
    last = np.searchsorted(store.offsets, begin + width, "left")
    count = np.maximum(last - first, 0)
    row = np.repeat(np.arange(begin.size), count)
    document = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count) + first[row]
    starts = np.zeros((begin.size, width), bool)
    starts[row, store.offsets[document] - begin[row]] = True
    return starts


def _batch(windows_BW: np.ndarray, starts_BW: np.ndarray) -> Batch:
    column = np.arange(starts_BW.shape[1] - 1, dtype=np.int32)
    positions_BT = column - np.maximum.accumulate(np.where(starts_BW[:, :-1], column, 0), axis=1)
    return {
        "tokens_BT": windows_BW[:, :-1],
        "targets_BT": windows_BW[:, 1:],
        "segments_BT": starts_BW[:, :-1].cumsum(1, dtype=np.int32) + 1,
        "positions_BT": positions_BT,
        "mask_BT": (~starts_BW[:, 1:]).astype(np.float32),
    }
