"""The landscape of a corpus in numbers, and what its subsets can reach."""

import numpy as np
import pandas as pd
import pytest
from tiny_scores import CHUNK, rows

from cptlaw.selection import landscape
from cptlaw.selection.landscape import LandscapeError


def test_the_landscape_in_numbers():
    table = rows()
    whole = landscape.whole(table, CHUNK)
    log = landscape.values(whole, "log-perplexity")
    np.testing.assert_allclose(landscape.values(whole, "perplexity"), np.exp(log))
    np.testing.assert_allclose(landscape.values(whole, "bits-per-byte"), log / np.log(2) / 4)
    clipped, cap, share = landscape.winsorise(log, 0.99)
    assert share == pytest.approx(0.01, abs=1e-3) and clipped.max() == cap
    lines = landscape.summary(log, (whole["document"] % 2).to_numpy()).set_index("group")
    assert lines.loc["all", "mean"] == pytest.approx(log.mean()) and lines.loc["all", "p50"] == np.median(log)
    assert lines.loc["0", "chunks"] + lines.loc["1", "chunks"] == len(log)
    assert landscape.length_classes(np.array([1, 3, 4, 15, 16, 64])).tolist() == [1, 1, 4, 4, 16, 64]
    with pytest.raises(LandscapeError, match="no document holds a whole chunk of 500"):
        landscape.whole(table, 500)


def test_copies_are_seen_at_the_low_end():
    table = pd.DataFrame({"document": np.arange(40), "chunk": 0, "tokens": 16, "bytes": 16, "nats": 1.0})
    rng = np.random.default_rng(0)
    texts = rng.integers(0, 1000, (40, 17))
    texts[3] = texts[5] = texts[7]
    x = rng.random(40) + 1
    x[[3, 5, 7]] = 0.1, 0.2, 0.9
    found = landscape.examples(table, x, lambda document, chunk: texts[document], each=4, among=20)
    assert found[found["end"] == "low"]["document"].tolist()[:3] == [3, 5, 7]
    assert found[found["end"] == "low"]["duplicate"].tolist() == [1, 1, 1, 0]
    assert (found[found["end"] == "high"]["duplicate"] == 0).all()


def test_the_region_holds_every_subset_and_its_corners_are_subsets(pool):
    region = pool.region(0.2)
    rng = np.random.default_rng(0)
    for power in rng.normal(0, 2, (20, 2)):
        z = (pool.first - pool.moments()[0]) / pool.moments()[1]
        order = np.argsort(-(power[0] * z + power[1] * z**2 + rng.gumbel(size=z.size)))
        some = order[pool.count[order].cumsum() <= 0.2 * pool.count.sum()]
        assert region.holds(*pool.moments(some), slack=-0.02)
    mean, std = pool.moments()
    assert region.holds(mean, std) and not region.holds(mean + 3 * std, std) and not region.holds(mean, 3 * std)
