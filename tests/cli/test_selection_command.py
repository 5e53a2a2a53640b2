"""`cptlaw landscape` and `cptlaw select` on a scored corpus."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cptlaw import cli
from cptlaw.data.store import TokenStore, Writer

CHUNK = 16


@pytest.fixture
def scores(tmp_path):
    """A token store of 200 documents, and scores of it as launch/score.py leaves them."""
    rng = np.random.default_rng(0)
    facts = {"source": "here", "vocabulary": {"kind": "bytes", "size": 259}}
    with Writer(tmp_path / "tiny" / "train", 259) as writer:
        for _ in range(200):
            writer.add(np.append(rng.integers(3, 259, rng.integers(20, 90)), 1), 80)
        store = writer.finish("tiny", "train", facts)
    lengths = np.diff(store.offsets) - 1
    count = -(-lengths // CHUNK)
    document = np.repeat(np.arange(200), count)
    number = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
    tokens = np.minimum(CHUNK, lengths[document] - number * CHUNK)
    rows = pd.DataFrame({"document": document, "chunk": number, "tokens": tokens, "bytes": tokens})
    folder = tmp_path / "scores"
    folder.mkdir()
    for name, shift in (("scores", 0.0), ("reference", 0.5)):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        loss = 3 + 0.3 * np.random.default_rng(1).normal(size=len(rows)) + shift * (document % 2)
        rows.assign(nats=tokens * loss).to_parquet(folder / "shard-00000.parquet")
        meta = {
            "format": 1,
            "name": "tiny",
            "split": "train",
            "tokens_sha256": store.ledger["tokens_sha256"],
            "chunk": CHUNK,
            "shards": 1,
        }
        (folder / "scores.json").write_text(json.dumps(meta))
    return tmp_path / "scores"


def test_the_landscape_and_what_can_be_reached(scores, tmp_path, capsys):
    words = ["landscape", str(scores), "--by", "chunk", "--fraction", "0.3", "--reachable", str(tmp_path / "pairs.csv")]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "log-perplexity of chunks of 16 tokens" in out and "subsets of 30%, by chunk: mean 2.6" in out
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    assert list(pairs) == ["mean", "spread", "text"] and len(pairs) > 100
    assert list(pairs.index[pairs["text"] == "random text"]) == [len(pairs) - 1], "the pool's own line"


def test_a_store_that_was_not_scored_is_refused_before_anything_is_written(scores, tmp_path, capsys):
    meta = json.loads((scores / "scores.json").read_text())
    (scores / "scores.json").write_text(json.dumps(meta | {"tokens_sha256": "of other tokens"}))
    words = ["select", str(scores), "--method", "low", "--out", str(tmp_path / "list.parquet")]
    words += ["--store", str(tmp_path / "tiny" / "train"), "--store-out", str(tmp_path / "part")]
    assert cli.main(words) == 2
    assert "not the tokens that" in capsys.readouterr().err and not (tmp_path / "list.parquet").exists()


def test_a_selection_is_a_list_and_a_store(scores, tmp_path, capsys):
    words = ["select", str(scores), "--mean", "2.9", "--std", "0.3", "--by", "chunk", "--fraction", "0.3"]
    words += ["--out", str(tmp_path / "list.parquet"), "--store", str(tmp_path / "tiny" / "train")]
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "vocabulary" / "vocabulary.json").write_text(json.dumps({"kind": "bytes"}))
    words += ["--store-out", str(tmp_path / "part"), "--text-out", str(tmp_path / "part.jsonl")]
    assert cli.main([*words, "--by-length"]) == 0
    assert "subset   mean 2.9   std 0.3" in capsys.readouterr().out
    spans = pd.read_parquet(tmp_path / "list.parquet")
    assert (spans["end"] - spans["begin"] == CHUNK + 1).all()
    assert len((tmp_path / "part.jsonl").read_text().splitlines()) == len(spans)
    assert len(TokenStore.open(tmp_path / "part").tokens) == len(spans) * (CHUNK + 1)


def test_sources_keep_their_shares_and_excess_loss_chooses(scores, tmp_path):
    pd.DataFrame({"document": range(200), "source": ["a", "b", "b", "b"] * 50}).to_csv(tmp_path / "s.csv", index=False)
    words = ["select", str(scores), "--method", "high", "--fraction", "0.25", "--out", str(tmp_path / "list.parquet")]
    assert cli.main([*words, "--sources", str(tmp_path / "s.csv"), "--by", "chunk"]) == 0
    spans = pd.read_parquet(tmp_path / "list.parquet")
    rows = pd.read_parquet(scores / "shard-00000.parquet")
    whole = rows[rows["tokens"] == CHUNK]
    assert (spans["document"] % 4 == 0).mean() == pytest.approx((whole["document"] % 4 == 0).mean(), abs=0.01)
    assert cli.main([*words, "--reference", str(tmp_path / "reference")]) == 0
    assert (pd.read_parquet(tmp_path / "list.parquet")["document"] % 2 == 0).all()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--mean", "2.9"], "--mean, --std: give both"),
        (["--mean", "9", "--std", "0.3"], "the nearest that has: mean"),
        (["--method", "random", "--store", "x"], "--store, --store-out"),
        (["--method", "random", "--sources", "none.csv"], "none.csv: no such file"),
    ],
)
def test_what_cannot_be_done_is_said(scores, tmp_path, capsys, words, message):
    assert cli.main(["select", str(scores), "--out", str(tmp_path / "list.parquet"), *words]) == 2
    assert message in capsys.readouterr().err


def test_scores_that_are_not_there_are_named(tmp_path, capsys):
    assert cli.main(["landscape", str(tmp_path)]) == 2
    assert "no scores here" in capsys.readouterr().err


def test_a_list_says_all_it_was_chosen_by(scores, tmp_path):
    out = tmp_path / "list.parquet"
    words = ["select", str(scores), "--method", "band", "--band", "0.1", "0.9", "--winsor", "0.9", "--by-length"]
    assert cli.main([*words, "--out", str(out)]) == 0
    said = json.loads(pq.read_schema(out).metadata[b"cptlaw"])
    assert said["band"] == [0.1, 0.9] and said["winsor"] == 0.9 and said["by"] == "document" and said["by_length"]
    assert said["scores"]["chunk"] == CHUNK and said["sources"] is None


def test_documents_that_tell_good_models_from_bad_are_chosen(scores, tmp_path, capsys):
    """Four models, the better the lower their loss on odd documents; on even ones it is the other way round."""
    rows = pd.read_parquet(scores / "shard-00000.parquet")
    odd = rows["document"] % 2 == 1
    for i in range(4):
        folder = tmp_path / f"model-{i}"
        folder.mkdir()
        (folder / "scores.json").write_text((scores / "scores.json").read_text())
        nats = rows["nats"] * np.where(odd, 1 - 0.1 * i, 1 + 0.1 * i)
        rows.assign(nats=nats).to_parquet(folder / "shard-00000.parquet")
    table, out = tmp_path / "models.csv", tmp_path / "list.parquet"
    pd.DataFrame({"scores": [f"model-{i}" for i in range(4)], "quality": range(4)}).to_csv(table, index=False)
    words = ["select", str(scores), "--method", "high", "--models", str(table), "--winsor", "1", "--out", str(out)]
    assert cli.main(words) == 0
    chosen = pd.read_parquet(out)
    assert (chosen["document"] % 2 == 1).all() and (chosen["x"] == 1).all()
    assert json.loads(pq.read_schema(out).metadata[b"cptlaw"])["unit"] == "perplexity correlation"
    sources = tmp_path / "sources.csv"
    pd.DataFrame({"document": range(200), "source": np.arange(200) % 2}).to_csv(sources, index=False)
    assert cli.main([*words, "--sources", str(sources)]) == 0
    assert (pd.read_parquet(out)["document"] % 2 == 1).all(), "sources are correlated, and keep no share"
    models = [f"model-{i}" for i in range(4)]
    pd.DataFrame({"scores": models, "quality": [0, 1, None, 3]}).to_csv(table, index=False)
    assert cli.main(words) == 2
    assert "row 3: quality is no number" in capsys.readouterr().err
    pd.DataFrame({"scores": ["model-0"], "quality": [1]}).to_csv(table, index=False)
    assert cli.main(words) == 2
    assert "give at least three" in capsys.readouterr().err


def test_a_corpus_that_does_not_fit_into_memory_is_chosen_shard_by_shard(scores, tmp_path, capsys, monkeypatch):
    from cptlaw.selection import shards

    words = ["select", str(scores), "--by", "chunk", "--mean", "3.05", "--std", "0.28", "--by-length"]
    words += ["--out", str(tmp_path / "list.parquet")]
    words += ["--store", str(tmp_path / "tiny" / "train"), "--store-out", str(tmp_path / "chosen")]
    monkeypatch.setattr(shards, "IN_MEMORY", 500)
    assert cli.main(words) == 0
    said = capsys.readouterr()
    assert "chosen shard by shard" in said.err
    assert "subset   mean 3.05   std 0.2" in said.out
    chosen = pd.read_parquet(tmp_path / "list.parquet")
    assert len(TokenStore.open(tmp_path / "chosen").doc_bytes) == len(chosen) and f"{len(chosen)} chunks" in said.out
    assert cli.main([*words[:-4], "--reference", str(tmp_path / "reference")]) == 2
    assert "--reference: needs all chunks in memory" in capsys.readouterr().err
    assert cli.main(["landscape", str(scores)]) == 0
    assert "of every 2th shard" in capsys.readouterr().out
