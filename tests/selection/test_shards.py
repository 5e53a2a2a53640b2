"""Choosing shard by shard: as from memory, with the moments asked for, in the memory of a sample."""

import itertools
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tiny_scores import CHUNK, rows

from cptlaw.selection import choose, landscape, shards
from cptlaw.selection.landscape import LandscapeError
from cptlaw.selection.pool import Pool, SubsetError
from cptlaw.selection.shards import Shards

ROWS = rows(4000)
EDGES = (0, 10, 1200, 1201, 2500, 4000)  # documents of five shards


def written(folder, rows=ROWS, edges=EDGES):
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        mine = rows[rows["document"].between(first, last - 1)]
        mine.to_parquet(folder / f"shard-{number:05}.parquet", index=False)
    (folder / "scores.json").write_text(json.dumps({"shards": len(edges) - 1, "chunk": CHUNK}))
    return folder


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return written(tmp_path_factory.mktemp("scores"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A sample of an eighth of the chunks, so that what is found from it has to be corrected."""
    monkeypatch.setattr(shards, "SAMPLE", 3000)


def by_length(rows, pool):
    return landscape.length_classes(rows.groupby("document")["tokens"].sum().loc[pool.spans["document"]].to_numpy())


@pytest.mark.parametrize("labels", [None, by_length], ids=["", "by length"])
@pytest.mark.parametrize("by", ["chunk", "document"])
def test_a_tilt_has_the_moments_that_are_asked_for(scores, tmp_path, by, labels):
    whole = Pool.of(ROWS, CHUNK, by=by)
    mean, std = whole.moments()
    target = (mean + 0.15 * std, 0.9 * std)
    source = Shards(scores, by, labels=labels)
    found = shards.select(source, tmp_path / "list.parquet", {"a": 1}, fraction=0.3, target=target)
    chosen = pd.read_parquet(tmp_path / "list.parquet")
    assert list(chosen) == ["document", "begin", "end", "x"] and len(chosen) == found.units
    assert json.loads(pq.read_metadata(tmp_path / "list.parquet").metadata[b"cptlaw"]) == {"a": 1}
    # In memory the same units have the same moments: the cap of a sample is not quite that of all.
    spans = whole.spans.assign(unit=np.arange(len(whole.count)))
    mine = spans.merge(chosen, on=["document", "begin", "end"])["unit"].to_numpy()
    assert len(mine) == found.units, "units of the pool, each once"
    np.testing.assert_allclose(whole.moments(mine), target, atol=0.01 * std)
    np.testing.assert_allclose(found.subset, target, atol=0.002 * std)
    assert abs(whole.count[mine].sum() / whole.count.sum() - 0.3) < 0.002
    assert found.tokens == (chosen["end"] - chosen["begin"]).sum()
    if labels is not None:
        names = by_length(ROWS, whole)
        for name in np.unique(names):
            of = names == name
            assert abs(whole.count[mine][of[mine]].sum() / whole.count[of].sum() - 0.3) < 0.02


@pytest.mark.parametrize("method", ["low", "mid", "high", "band", "random"])
def test_controls_take_what_they_take_from_memory(scores, tmp_path, method):
    band = (0.3, 0.7) if method == "band" else None
    found = shards.select(Shards(scores, "chunk"), tmp_path / "list.parquet", {}, method, fraction=0.25, band=band)
    chosen = pd.read_parquet(tmp_path / "list.parquet")
    whole = Pool.of(ROWS, CHUNK, by="chunk")
    theirs = whole.spans.iloc[choose.select(whole, method, fraction=0.25, band=band)]
    assert abs(len(chosen) / len(theirs) - 1) < 0.01
    if band is None and method != "random":
        both = len(chosen.merge(theirs, on=["document", "begin", "end"]))
        assert both > 0.9 * len(theirs), "its edges are quantiles of a sample"
    else:
        np.testing.assert_allclose(found.subset, whole.moments(theirs.index.to_numpy()), rtol=0.05)


def test_a_seed_names_a_subset(scores, tmp_path):
    lists = []
    for number, seed in enumerate((3, 3, 4)):
        shards.select(Shards(scores, "chunk"), tmp_path / f"{number}", {}, "random", fraction=0.2, seed=seed)
        lists.append(set(zip(*pd.read_parquet(tmp_path / f"{number}")[["document", "begin"]].to_numpy().T)))
    assert lists[0] == lists[1] and 0.1 < len(lists[0] & lists[2]) / len(lists[0]) < 0.3


def test_what_cannot_be_is_said_before_a_list_is_written(scores, tmp_path):
    out = tmp_path / "list.parquet"
    mean, std = Pool.of(ROWS, CHUNK).moments()
    with pytest.raises(SubsetError, match=r"no subset of 30\.0% of this pool"):
        shards.select(Shards(scores), out, {}, fraction=0.3, target=(mean + 3 * std, std))
    with pytest.raises(SubsetError, match="'swaps': needs all chunks in memory"):
        shards.select(Shards(scores), out, {}, "swaps", fraction=0.3, target=(mean, std))
    short = tmp_path / "short"
    short.mkdir()
    written(short, ROWS[ROWS["tokens"] < CHUNK].drop_duplicates("document").assign(chunk=0))
    with pytest.raises(LandscapeError, match="no document holds a whole chunk of 32 tokens"):
        shards.select(Shards(short), out, {}, "low", fraction=0.3)
    assert not out.exists()
