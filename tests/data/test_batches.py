import itertools

import numpy as np
import pytest

from cptlaw.data.batches import TrainBatches, eval_batches
from cptlaw.data.mixture import MixtureError
from cptlaw.data.store import StoreError, Writer

EOS = 1


@pytest.fixture
def stores(tmp_path):
    """Two corpora whose tokens can be told apart: `code` below 500, `web` above."""
    rng = np.random.default_rng(0)
    made = {}
    for name, low in (("code", 2), ("web", 500)):
        writer = Writer(tmp_path / name, 1000)
        for length in rng.integers(0, 60, 100):
            writer.add(np.append(rng.integers(low, low + 400, length), EOS), int(length))
        made[name] = writer.finish(name, "train", {})
    return made


def spell_out(store, begin, width):
    """The plain definition of a row, token by token."""
    document = [int(np.searchsorted(store.offsets, at, "right") - 1) for at in range(begin, begin + width)]
    segments, positions = [1], [0]
    for before, now in itertools.pairwise(document):
        segments.append(segments[-1] + (now != before))
        positions.append(0 if now != before else positions[-1] + 1)
    mask = [float(a == b) for a, b in itertools.pairwise(document)]
    return store.tokens[begin : begin + width], segments[:-1], positions[:-1], mask


def test_rows_are_windows_of_the_packed_stream(stores):
    batch = TrainBatches(stores, {"code": 0.5, "web": 0.5}, seq_len=32, batch_size=8, seed=1).batch(3)
    for row in range(8):
        tokens = np.append(batch["tokens_BT"][row], batch["targets_BT"][row, -1])
        np.testing.assert_array_equal(batch["targets_BT"][row, :-1], tokens[1:-1])
        store = stores["code" if tokens[tokens != EOS][0] < 500 else "web"]
        matches = [b for b in range(0, len(store.tokens) - 32, 32) if (store.tokens[b : b + 33] == tokens).all()]
        assert len(matches) == 1
        _, segments, positions, mask = spell_out(store, matches[0], 33)
        np.testing.assert_array_equal(batch["segments_BT"][row], segments)
        np.testing.assert_array_equal(batch["positions_BT"][row], positions)
        np.testing.assert_array_equal(batch["mask_BT"][row], mask)
    assert {name: values.dtype.name for name, values in batch.items()} == {
        "tokens_BT": "int32", "targets_BT": "int32", "segments_BT": "int32",
        "positions_BT": "int32", "mask_BT": "float32",
    }  # fmt: skip


def test_hosts_and_batch_sizes_see_one_stream(stores):
    weights = {"code": 0.3, "web": 0.7}
    large = TrainBatches(stores, weights, 16, 12, seed=2)
    small = TrainBatches(stores, weights, 16, 4, seed=2)
    for name, whole in large.batch(5).items():
        np.testing.assert_array_equal(whole, np.concatenate([small.batch(step)[name] for step in (15, 16, 17)]))
        hosts = [large.batch(5, slice(begin, begin + 3))[name] for begin in (0, 3, 6, 9)]
        np.testing.assert_array_equal(whole, np.concatenate(hosts))
    apart, none = large.batch(5, np.array([1, 4, 11])), large.batch(5, np.array([], int))
    for name, whole in large.batch(5).items():
        np.testing.assert_array_equal(apart[name], whole[[1, 4, 11]])
        assert none[name].shape == (0, 16) and none[name].dtype == whole.dtype


def test_each_epoch_takes_every_window_once_in_an_order_of_its_own(stores):
    store = stores["code"]
    batches = TrainBatches(stores, {"code": 1.0}, 16, 1, seed=0)
    n = batches.windows["code"]
    assert n == (len(store.tokens) - 1) // 16
    orders = []
    for epoch in range(2):
        rows = [batches.batch(epoch * n + i)["tokens_BT"][0].tobytes() for i in range(n)]
        windows = [store.tokens[b : b + 16].astype(np.int32).tobytes() for b in range(0, 16 * n, 16)]
        assert sorted(rows) == sorted(windows)
        orders.append(rows)
    assert orders[0] != orders[1]


def test_seed_changes_the_stream(stores):
    weights = {"code": 0.5, "web": 0.5}
    a, b, c = (TrainBatches(stores, weights, 16, 8, seed).batch(0) for seed in (0, 0, 1))
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name])
    assert (a["tokens_BT"] != c["tokens_BT"]).any()


def test_a_corpus_too_small_for_a_window(stores):
    n = len(stores["code"].tokens)
    TrainBatches(stores, {"code": 0.5, "web": 0.5}, n - 1, 1)
    with pytest.raises(StoreError, match=f"'code': {n} tokens are fewer than one window of {n + 1}"):
        TrainBatches(stores, {"code": 0.5, "web": 0.5}, n, 1)
    TrainBatches(stores, {"code": 0.0, "web": 1.0}, n, 1)


def test_unknown_corpus(stores):
    with pytest.raises(MixtureError, match="no corpus named 'prose'"):
        TrainBatches(stores, {"code": 0.5, "prose": 0.5}, 16, 1)


@pytest.mark.parametrize("max_tokens", [None, 1, 500, 10**9])
def test_evaluation_scores_every_token_but_the_first_of_a_document_once(stores, max_tokens):
    store = stores["web"]
    documents = len(store.doc_bytes)
    if max_tokens is not None:
        documents = max(1, int((store.offsets[1:] <= max_tokens).sum()))
    scored = []
    for batch in eval_batches(store, 32, 4, max_tokens):
        assert {values.shape for values in batch.values()} == {(4, 32)}
        at = batch["mask_BT"] > 0
        scored += zip(batch["documents_BT"][at].tolist(), batch["targets_BT"][at].tolist())
        assert not batch["documents_BT"][~at].any()
    spans = [store.tokens[store.offsets[d] + 1 : store.offsets[d + 1]].tolist() for d in range(documents)]
    assert scored == [(d, token) for d, span in enumerate(spans) for token in span]


def test_evaluation_needs_text(tmp_path):
    writer = Writer(tmp_path, 10)
    writer.add(np.array([EOS]), 0)
    with pytest.raises(StoreError, match="no text to evaluate on"):
        next(eval_batches(writer.finish("code", "validation", {}), 8, 2))
