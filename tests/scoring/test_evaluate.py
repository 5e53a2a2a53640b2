import math

import jax
import numpy as np
import pytest
from tiny_run import CFG

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.scoring.evaluate import Evaluator, Scores

rng = np.random.default_rng(0)
DOCUMENTS = [rng.integers(0, 64, length) for length in (9, 3, 30, 17, 6, 22, 12)]
ORDER = (0, 1, 2, 3, 4, 5, 6)
BYTES = np.array([20, 8, 70, 40, 15, 50, 33])


def batches(rows: int, seq_len: int = 32, order=ORDER):
    """Every document in a window of its own, first fit; the last batch padded with mask 0."""
    windows: list[list[int]] = []
    for d in order:
        room = (w for w in windows if sum(len(DOCUMENTS[i]) for i in w) + len(DOCUMENTS[d]) <= seq_len)
        window = next(room, None)
        if window is None:
            windows.append(window := [])
        window.append(d)
    names = ("tokens_BT", "targets_BT", "segments_BT", "positions_BT", "documents_BT")
    for first in range(0, len(windows), rows):
        batch = {name: np.zeros((rows, seq_len), np.int32) for name in names}
        batch["mask_BT"] = np.zeros((rows, seq_len), np.float32)
        for row, window in enumerate(windows[first : first + rows]):
            at = 0
            for segment, d in enumerate(window, 1):
                n = len(DOCUMENTS[d])
                place = row, slice(at, at + n)
                batch["tokens_BT"][place] = DOCUMENTS[d]
                batch["targets_BT"][place] = np.roll(DOCUMENTS[d], -1)
                batch["segments_BT"][place] = segment
                batch["positions_BT"][place] = np.arange(n)
                batch["documents_BT"][place] = d
                batch["mask_BT"][row, at : at + n - 1] = 1
                at += n
        yield batch


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: 2 * x, transformer.init(jax.random.key(0), CFG))


@pytest.fixture(scope="module")
def scores(params):
    return Evaluator(CFG, Layout(make_mesh())).score(params, batches(8), BYTES)


def test_sums_equal_documents_scored_alone_in_float64(params, scores):
    apply = jax.jit(transformer.apply, static_argnums=1)
    nats = np.zeros(len(DOCUMENTS))
    for d, tokens in enumerate(DOCUMENTS):
        padded = np.zeros((1, 30), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(apply(params, CFG, padded, np.ones_like(padded), np.arange(30)[None])[0], np.float64)
        for t in range(len(tokens) - 1):
            nats[d] += np.log(np.exp(logits[t]).sum()) - logits[t, tokens[t + 1]]
    counts = np.array([len(tokens) - 1 for tokens in DOCUMENTS])
    np.testing.assert_allclose(scores.nats_by_document, nats, rtol=1e-5)
    np.testing.assert_array_equal(scores.tokens_by_document, counts)
    assert scores.tokens == counts.sum() and scores.documents == 7 and scores.bytes == BYTES.sum()
    assert scores.loss == pytest.approx(nats.sum() / counts.sum(), rel=1e-5)


@pytest.mark.parametrize("mesh, rows, order", [((2, 2, 2), 8, (5, 2, 0, 1, 6, 4, 3)), ((8, 1, 1), 16, ORDER)], ids=str)
def test_batch_size_order_and_devices_change_nothing(params, scores, mesh, rows, order):
    other = Evaluator(CFG, Layout(make_mesh(*mesh))).score(params, batches(rows, order=order), BYTES)
    np.testing.assert_allclose(other.nats_by_document, scores.nats_by_document, rtol=1e-5)
    np.testing.assert_array_equal(other.tokens_by_document, scores.tokens_by_document)
    assert other.loss_se == pytest.approx(scores.loss_se, rel=1e-4)


def test_standard_error_is_that_of_resampled_documents():
    sizes = rng.integers(20, 400, 300)
    nats = sizes * (3 + 0.3 * rng.normal(size=300)) + np.sqrt(sizes) * rng.normal(size=300)
    ours = Scores(nats, sizes).loss_se
    picks = rng.integers(0, 300, (4000, 300))
    resampled = nats[picks].sum(1) / sizes[picks].sum(1)
    assert ours == pytest.approx(resampled.std(), rel=0.06)
    # A document without scored tokens is no cluster.
    padded = Scores(np.append(nats, np.zeros(50)), np.append(sizes, np.zeros(50, int)))
    assert padded.loss_se == ours and padded.documents == 300
    assert math.isnan(Scores(np.array([3.0]), np.array([2])).loss_se)


def test_nothing_to_score_is_an_error(params):
    (first, *_) = batches(8)
    first["mask_BT"][:] = 0
    for none in ([], [first]):
        with pytest.raises(UserError, match="nothing to score"):
            Evaluator(CFG, Layout(make_mesh())).score(params, none)
