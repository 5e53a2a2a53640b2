"""Scores are those of an unbatched float64 model, whatever they are batched with, and survive a kill."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tiny_run import CFG

from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.scoring import chunks as score_lib
from cptlaw.scoring.chunks import ScoreError
from cptlaw.selection import scores

CHUNK = 16
rng = np.random.default_rng(0)
LENGTHS = [1, 2, 17, 33, 9, 40, 16, 18, 5, 64, 3, 30, 12, 21, 7, 50]


def store(order=None):
    order = range(len(LENGTHS)) if order is None else order
    documents = [np.random.default_rng(d).integers(0, 64, LENGTHS[d]) for d in order]
    return types.SimpleNamespace(
        tokens=np.concatenate(documents).astype(np.uint16),
        offsets=np.concatenate([[0], np.cumsum([len(d) for d in documents])]),
        doc_bytes=np.array([3 * LENGTHS[d] + 1 for d in order]),
        ledger={"name": "tiny", "split": "train", "tokens_sha256": str(list(order)), "vocabulary": {"size": 64}},
    )


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: 2 * x, transformer.init(jax.random.key(0), CFG))


def scored(params, directory, what=None, mesh=(8, 1, 1), devices=None, **options):
    options = {"chunk": CHUNK, "model": {"run": "tiny"}, "batch_tokens": 128, "shard_tokens": 100} | options
    layout = Layout(make_mesh(*mesh, devices=devices))
    score_lib.score(params, CFG, what or store(), directory, layout=layout, **options)
    return scores.read(directory)


@pytest.fixture(scope="module")
def rows(params, tmp_path_factory):
    return scored(params, tmp_path_factory.mktemp("scores") / "a")


def test_sums_equal_chunks_scored_alone_in_float64(params, rows):
    """The reference runs in float64, one chunk at a time, without padding or packing."""
    corpus = store()
    wanted = []
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
        for d in range(len(LENGTHS)):
            tokens = corpus.tokens[corpus.offsets[d] : corpus.offsets[d + 1]].astype(np.int64)
            for number, begin in enumerate(range(0, len(tokens) - 1, CHUNK)):
                window = tokens[begin : begin + CHUNK + 1]
                inputs = np.zeros((1, CHUNK), np.int32)  # one shape: what lies behind a token cannot reach it
                inputs[0, : len(window) - 1] = window[:-1]
                logits = np.asarray(reference(exact, inputs))[: len(window) - 1]
                nll = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(window) - 1), window[1:]]
                wanted.append((d, number, len(window) - 1, nll.sum()))
    wanted = pd.DataFrame(wanted, columns=["document", "chunk", "tokens", "nats"])
    pd.testing.assert_frame_equal(rows[["document", "chunk", "tokens"]], wanted.iloc[:, :3], check_dtype=False)
    np.testing.assert_allclose(rows["nats"], wanted["nats"], rtol=1e-5)


@jax.jit
def reference(params, tokens_BT):
    """CFG's equations again, in the dtype of the parameters: a decoder as a textbook writes it."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return _reference(params, tokens_BT)


def _reference(params, tokens_BT):
    C, K, H = CFG.head_dim, CFG.kv_heads, CFG.heads
    T = tokens_BT.shape[1]
    x = params["embed"][tokens_BT[0]]

    def norm(x, scale):
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + CFG.norm_eps) * scale

    angle = jnp.arange(T)[:, None] * CFG.rope_theta ** (-jnp.arange(0, C, 2) / C)

    def rotate(x):
        a, b = x[..., : C // 2], x[..., C // 2 :]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    for layer in range(CFG.layers):
        p = jax.tree.map(lambda w, i=layer: w[i], params["layers"])
        y = norm(x, p["attention_norm"])
        heads = []
        for h in range(H):
            k, g = divmod(h, H // K)
            q_TC, k_TC = rotate(y @ p["attention"]["q"][:, k, g]), rotate(y @ p["attention"]["k"][:, k])
            scores = jnp.where(jnp.tril(jnp.ones((T, T), bool)), q_TC @ k_TC.T / jnp.sqrt(C), -jnp.inf)
            heads.append(jax.nn.softmax(scores) @ (y @ p["attention"]["v"][:, k]) @ p["attention"]["o"][k, g])
        x = x + sum(heads)
        y = norm(x, p["mlp_norm"])
        x = x + (jax.nn.silu(y @ p["mlp"]["gate"]) * (y @ p["mlp"]["up"])) @ p["mlp"]["down"]
    return norm(x, params["final_norm"]) @ params["embed"].T


@pytest.mark.parametrize(
    "options",
    [
        {"batch_tokens": 1024, "shard_tokens": 1 << 20},
        {"mesh": (1, 1, 1), "devices": jax.devices()[:1], "batch_tokens": 48},
        {"mesh": (2, 2, 2)},
    ],
    ids=["one large batch", "one device, small batches", "mixed mesh"],
)
def test_batches_shards_and_devices_change_nothing(params, rows, tmp_path, options):
    other = scored(params, tmp_path, **options)
    pd.testing.assert_frame_equal(other.drop(columns="nats"), rows.drop(columns="nats"))
    np.testing.assert_allclose(other["nats"], rows["nats"], rtol=1e-5)


def test_short_chunks_in_narrow_rows_score_the_same(params, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(score_lib, "LEAST_ROW", 4)
    shapes = set()
    batch = score_lib._batch
    monkeypatch.setattr(score_lib, "_batch", lambda *args: shapes.add(args[-2:]) or batch(*args))
    other = scored(params, tmp_path)
    assert shapes == {(8, 16), (16, 8), (32, 4)}
    np.testing.assert_allclose(other["nats"], rows["nats"], rtol=1e-5)


def test_order_changes_nothing(params, rows, tmp_path):
    order = np.random.default_rng(3).permutation(len(LENGTHS))
    other = scored(params, tmp_path, store(order))
    other["document"] = order[other["document"]]
    other = other.sort_values(["document", "chunk"], ignore_index=True)
    pd.testing.assert_frame_equal(other.drop(columns="nats"), rows.drop(columns="nats"))
    np.testing.assert_allclose(other["nats"], rows["nats"], rtol=1e-5)


def test_killed_and_continued_is_the_same_to_the_byte(params, tmp_path, monkeypatch):
    scored(params, tmp_path / "whole")
    write, calls = score_lib._write, []

    def dies(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(score_lib, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        scored(params, tmp_path / "killed")
    with pytest.raises(ScoreError, match=r"of \d shards are missing"):
        scores.read(tmp_path / "killed")
    (tmp_path / "killed" / ".shard-00002.xyz.parquet").write_bytes(b"half a shard")
    monkeypatch.setattr(score_lib, "_write", write)
    scored(params, tmp_path / "killed")
    shards = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert len(shards) > 4
    for name in shards:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_finished_shards_are_not_scored_again(params, tmp_path, monkeypatch):
    scored(params, tmp_path)
    monkeypatch.setattr(score_lib._Scorer, "nats", lambda *args: pytest.fail("all of it is there"))
    scored(params, tmp_path)


def test_rows_add_up_to_their_documents(rows):
    corpus = store()
    documents = rows.groupby("document", as_index=False)[["tokens", "bytes", "nats"]].sum()
    lengths = np.array(LENGTHS)
    assert documents["document"].tolist() == np.flatnonzero(lengths > 1).tolist()
    np.testing.assert_array_equal(documents["tokens"], lengths[lengths > 1] - 1)
    np.testing.assert_array_equal(documents["bytes"], corpus.doc_bytes[lengths > 1])
    assert documents["nats"].sum() == pytest.approx(rows["nats"].sum(), rel=1e-12)


def test_bytes_of_chunks_are_those_of_their_tokens(params, tmp_path):
    sizes = np.arange(64) % 5
    corpus = store()
    rows = scored(params, tmp_path, token_bytes=sizes, shard_tokens=70)
    for row in rows.itertuples():
        begin = corpus.offsets[row.document] + row.chunk * CHUNK
        window = corpus.tokens[begin : begin + row.tokens + 1]
        assert row.bytes == sizes[window[row.chunk > 0 :]].sum()


@pytest.mark.parametrize("added", ["nothing", "a space", "more"])
def test_chunks_have_the_true_bytes_of_their_documents(params, tmp_path, added):
    """A ledger with `bytes_by_token` says that the documents' bytes are true."""
    sizes = np.arange(64) % 5 + 1
    corpus = store()
    counted = np.add.reduceat(sizes[corpus.tokens], corpus.offsets[:-1])
    corpus.doc_bytes = counted - {"nothing": 0, "a space": 1, "more": 7}[added]
    corpus.ledger["bytes_by_token"] = 0
    rows = scored(params, tmp_path, corpus, token_bytes=sizes, shard_tokens=70)
    documents = rows.groupby("document")["bytes"].sum()
    np.testing.assert_array_equal(documents, corpus.doc_bytes[documents.index])
    for row in rows.itertuples():
        begin = corpus.offsets[row.document] + row.chunk * CHUNK
        own = sizes[corpus.tokens[begin : begin + row.tokens + 1][row.chunk > 0 :]].sum()
        if added == "more":
            assert abs(row.bytes - own * corpus.doc_bytes[row.document] / counted[row.document]) <= 1
        else:
            assert row.bytes == own - (added == "a space" and row.chunk == 0)


def test_other_scores_are_refused(params, tmp_path):
    scored(params, tmp_path)
    for change in ({"chunk": 8}, {"model": {"run": "other"}}):
        with pytest.raises(ScoreError, match="holds other scores"):
            scored(params, tmp_path, **change)
    with pytest.raises(ScoreError, match="no scores here"):
        scores.read(tmp_path / "nowhere")
    wide = store()
    wide.ledger["vocabulary"]["size"] = 65
    with pytest.raises(ScoreError, match="65 token ids, the model 64"):
        scored(params, tmp_path / "wide", wide)


def test_packing_loses_nothing_and_wastes_little():
    lengths, widths = np.concatenate([rng.integers(1, 65, 3000), [64, 32, 16]]), [64, 32, 16]
    width, row, column = score_lib.pack(lengths, widths)
    cells = 0
    for index in np.unique(width):
        mine, columns = np.flatnonzero(width == index), widths[index]
        used = np.zeros((row[mine].max() + 1, columns), int)
        for item in mine:
            used[row[item], column[item] : column[item] + lengths[item]] += 1
        assert used.max() == 1 and used.any(axis=1).all()
        cells += used.size
    assert lengths.sum() > 0.98 * cells


def test_short_chunks_fill_what_long_ones_leave():
    width, row, column = score_lib.pack(np.array([40, 24, 24, 9]), [64, 32, 16])
    assert width.tolist() == [0, 0, 1, 2] and row.tolist() == [0, 0, 0, 0] and column.tolist() == [0, 40, 0, 0]


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "swapped", "column"])
def test_a_damaged_shard_is_named(params, tmp_path, damage):
    scored(params, tmp_path)
    path = tmp_path / "shard-00001.parquet"
    data = bytearray(path.read_bytes())
    if damage == "bit":
        column = pq.ParquetFile(path).metadata.row_group(0).column(4)
        data[column.data_page_offset + column.total_compressed_size // 2] ^= 4
    elif damage == "cut":
        data = data[:-20]
    elif damage == "empty":
        data = b""
    elif damage == "swapped":
        data = (tmp_path / "shard-00002.parquet").read_bytes()
    if damage == "column":
        pd.read_parquet(path).drop(columns="nats").to_parquet(path)
    else:
        path.write_bytes(data)
    where = "chunks are missing or out of order" if damage == "swapped" else r"shard-00001\.parquet: damaged"
    with pytest.raises(ScoreError, match=where):
        scores.read(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"shards": "2", "chunk": 8}', '{"shards": 2, "chunk": null}'])
def test_damaged_facts_of_scores_are_named(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(ScoreError, match=r"scores\.json: damaged: .*score again"):
        scores.read(tmp_path)


def test_shards_of_before_there_were_checksums_are_read(params, rows, tmp_path):
    scored(params, tmp_path)
    for path in tmp_path.glob("*.parquet"):
        pd.read_parquet(path).to_parquet(path)
    pd.testing.assert_frame_equal(scores.read(tmp_path), rows, check_dtype=False, rtol=1e-5)
