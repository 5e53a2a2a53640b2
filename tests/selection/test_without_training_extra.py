"""Documents are looked at and chosen where only the core is installed: no JAX, TensorFlow, seqio, Flax or Orbax."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

CHUNK = 16
DOCUMENTS = 60
FORBIDDEN = ("jax", "jaxlib", "tensorflow", "tensorflow_datasets", "seqio", "flax", "orbax", "sentencepiece")

# An import of what is forbidden fails as it would where it is not installed.
RUN = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import json
from cptlaw import cli
codes = []
for words in json.loads(sys.argv[1]):
    codes.append(cli.main(words))
print("codes", codes)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scores under five models, the token store that was scored, and tables of sources and models."""
    from cptlaw.data.store import Writer

    root = tmp_path_factory.mktemp("core")
    rng = np.random.default_rng(0)
    with Writer(root / "data" / "tiny" / "train", 259) as writer:
        for _ in range(DOCUMENTS):
            writer.add(np.append(rng.integers(3, 259, rng.integers(20, 90)), 1), 80)
        store = writer.finish("tiny", "train", {"source": "here", "vocabulary": {"kind": "bytes", "size": 259}})
    lengths = np.diff(store.offsets) - 1
    chunks = -(-lengths // CHUNK)
    document = np.repeat(np.arange(DOCUMENTS), chunks)
    number = np.arange(chunks.sum()) - np.repeat(chunks.cumsum() - chunks, chunks)
    tokens = np.minimum(CHUNK, lengths[document] - number * CHUNK)
    about = {"format": 1, "name": "tiny", "split": "train", "chunk": CHUNK, "shards": 1}
    about["tokens_sha256"] = store.ledger["tokens_sha256"]
    for name in ("base", "reference", "m0", "m1", "m2"):
        (root / name).mkdir()
        nats = tokens * (3 + 0.3 * rng.normal(size=len(tokens)))
        rows = {"document": document, "chunk": number, "tokens": tokens, "bytes": tokens, "nats": nats}
        pd.DataFrame(rows).to_parquet(root / name / "shard-00000.parquet")
        (root / name / "scores.json").write_text(json.dumps(about))
    pd.DataFrame({"document": range(DOCUMENTS), "source": ["a", "b"] * (DOCUMENTS // 2)}).to_csv(root / "sources.csv")
    pd.DataFrame({"scores": ["m0", "m1", "m2"], "quality": [1, 2, 3]}).to_csv(root / "models.csv")
    (root / "data" / "vocabulary").mkdir()
    (root / "data" / "vocabulary" / "vocabulary.json").write_text('{"kind": "bytes"}')
    return root


def run(folder, *commands):
    """(exit codes, standard output, standard error) of commands of `cptlaw`, in one process without the extra."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)], capture_output=True, text=True, cwd=folder, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    *said, codes = done.stdout.splitlines()
    return json.loads(codes.removeprefix("codes ").replace("None", "null")), said, done.stderr


def test_everything_but_the_text_needs_the_core_alone(folder):
    select = ["select", "base", "--fraction", "0.3", "--out", "list.parquet"]
    high = [*select, "--method", "high"]
    aimed = [*select, "--mean", "3", "--std", "0.25", "--by", "chunk"]
    store = ["--store", "data/tiny/train", "--store-out", "part", "--text-out", "part.jsonl"]
    commands = [
        ["landscape", "base"],
        ["landscape", "base", "--by", "chunk", "--unit", "perplexity", "--reachable", "pairs.csv"],
        aimed,
        [*aimed, "--method", "swaps", "--by-length"],
        [*aimed, "--method", "dos_greedy"],
        [*high, "--sources", "sources.csv", "--by-length"],
        [*high, "--reference", "reference"],
        [*high, "--models", "models.csv"],
        [*high, "--models", "models.csv", "--sources", "sources.csv"],
        [*select, "--method", "band", "--band", "0.2", "0.9"],
        [*aimed, *store],
    ]
    codes, said, errors = run(folder, *commands)
    assert codes == [0] * len(commands), errors
    assert any("log-perplexity of chunks of 16 tokens" in line for line in said)
    assert len((folder / "part.jsonl").read_text().splitlines()) > 5


def test_a_vocabulary_that_needs_a_package_names_it_before_anything_is_chosen(folder, tmp_path):
    made = {"kind": "sentencepiece", "size": 259}
    record = folder / "data" / "vocabulary" / "vocabulary.json"
    before = record.read_text()
    record.write_text(json.dumps(made))
    (record.parent / "sentencepiece.model").write_bytes(b"")
    words = ["select", "base", "--method", "low", "--out", str(tmp_path / "list.parquet"), "--store", "data/tiny/train"]
    try:
        codes, _, errors = run(folder, [*words, "--text-out", str(tmp_path / "part.jsonl")])
    finally:
        record.write_text(before)
    assert codes == [2] and "--text-out: the vocabulary needs sentencepiece" in errors and "cptlaw[train]" in errors
    assert not list(tmp_path.iterdir())
