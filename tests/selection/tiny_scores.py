"""Scores of made-up documents, and the pools of them."""

import numpy as np
import pandas as pd
import pytest

from cptlaw.selection.pool import Pool

CHUNK = 32


def rows(documents=1000, seed=0):
    """Scores of documents of 1 to 12 chunks and a tail, whose loss differs by document and chunk."""
    rng = np.random.default_rng(seed)
    chunks = rng.integers(0, 12, documents) + 1
    document = np.repeat(np.arange(documents), chunks)
    number = np.arange(len(document)) - np.repeat(chunks.cumsum() - chunks, chunks)
    tokens = np.where(number == chunks[document] - 1, rng.integers(1, CHUNK, len(document)), CHUNK)
    loss = np.exp(rng.normal(1.2, 0.2, documents)[document] + rng.normal(0, 0.15, len(document)))
    return pd.DataFrame(
        {"document": document, "chunk": number, "tokens": tokens, "bytes": 4 * tokens, "nats": loss * tokens}
    )


@pytest.fixture(scope="module", params=["chunk", "document"])
def pool(request):
    return Pool.of(rows(), CHUNK, by=request.param)


@pytest.fixture(scope="module")
def target(pool):
    mean, std = pool.moments()
    return (mean + 0.15 * std, 0.9 * std)
