"""Batches cut from streams on the device are those that the host makes, bit by bit."""

import jax
import numpy as np
import pytest

from cptlaw.training import feed, together

SEQ, ROWS = 8, 4
MESH = together.make_mesh(2)


class Stream:
    def __init__(self, seed, vocab, documents=60):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(1, 20, documents)
        self.offsets = np.concatenate([[0], lengths.cumsum()])
        self.tokens = rng.integers(0, vocab, lengths.sum()).astype(np.uint16 if vocab < 2**16 else np.uint32)


class Cuttings:
    """Windows at random places, and the same batches made on the host from the definition."""

    batch_size, seq_len = ROWS, SEQ

    def __init__(self, streams, seed):
        self.streams, self.seed = streams, seed

    def windows_of(self, step, steps):
        rows = [np.random.default_rng([self.seed, step + i]) for i in range(steps)]
        stream = np.stack([rng.integers(0, len(self.streams), ROWS) for rng in rows])
        last = min(len(s.tokens) for s in self.streams) - SEQ - 1
        return stream, np.stack([rng.integers(0, last + 1, ROWS) for rng in rows])

    def batch(self, step, rows=slice(None)):
        rows = []
        for index, begin in zip(*(of[0] for of in self.windows_of(step, 1))):
            stream = self.streams[index]
            document = np.searchsorted(stream.offsets, begin + np.arange(SEQ + 1), "right")
            starts = np.array([begin + i in stream.offsets and i > 0 for i in range(SEQ + 1)])
            since = [i - max([0, *(j for j in range(1, i + 1) if starts[j])]) for i in range(SEQ)]
            rows.append(
                {
                    "tokens_BT": stream.tokens[begin : begin + SEQ],
                    "targets_BT": stream.tokens[begin + 1 : begin + SEQ + 1],
                    "segments_BT": document[:-1] - document[0] + 1,
                    "positions_BT": since,
                    "mask_BT": document[1:] == document[:-1],
                }
            )
        return {name: np.stack([np.asarray(row[name], np.int64) for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("vocab", [2**15, 2**17])
def test_cut_batches_are_the_ones_that_the_host_makes(vocab):
    shared, own = Stream(0, vocab), Stream(1, vocab)
    runs = [Cuttings((shared,), 0), Cuttings((own, shared), 1)]
    fed = feed.feed(runs, MESH, vocab)
    assert isinstance(fed, feed.Windows)
    (marked,) = fed.resident
    assert marked.dtype == (np.uint16 if vocab == 2**15 else np.uint32)
    assert len(marked) == len(shared.tokens) + len(own.tokens), "a stream that two runs read is there once"
    cut = jax.jit(lambda part: fed.recipe.batch(fed.resident, part))
    block = fed.of(64)
    assert block.shape == (fed.block, 2, ROWS) and block.dtype == np.int32
    for r, run in enumerate(runs):
        for step in (0, 1, 63):
            got, want = cut(block[step, r]), run.batch(64 + step)
            assert got.keys() == want.keys()
            for name in want:
                np.testing.assert_array_equal(got[name], want[name], err_msg=name)
                assert got[name].dtype == (np.float32 if name == "mask_BT" else np.int32)


def test_streams_that_are_too_long_are_not_put_on_the_device(monkeypatch):
    runs = [Cuttings((Stream(0, 9),), 0)] * 2
    monkeypatch.setattr(feed, "_CPU_BYTES", 100)
    fed = feed.feed(runs, MESH, 9)
    assert isinstance(fed, feed.Whole)
    np.testing.assert_array_equal(fed.of(3)["tokens_BT"], np.stack([runs[0].batch(3)["tokens_BT"]] * 2)[None])
