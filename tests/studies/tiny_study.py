"""A tiny study whose token stores are made without TensorFlow."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from cptlaw.data.store import Writer
from cptlaw.execution.rundir import RunDir
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid

VOCAB = 32


def minimal(**changes) -> ConfigDict:
    """The smallest valid config, with changes at `outer__inner` paths."""
    config = ConfigDict(
        {
            "name": "tiny",
            "corpora": {"prose": "prose.jsonl", "code": "code.jsonl"},
            "general": "prose",
            "domains": ("code",),
            "model": {"layers": 1, "d_model": 8, "heads": 1, "kv_heads": 1, "d_ff": 16},
            "sizes": {"small": {}, "large": {"d_model": 16}},
            "base": {"tokens": 256, "peak_lr": 1e-2, "warmup_tokens": 64},
            "cpt": {"tokens": 256, "peak_lr": 1e-2, "warmup_tokens": 64},
            "eval_tokens": (128, 256),
            "grid": {"small": {"domain_shares": (0.0, 0.5)}, "large": {"domain_shares": (0.5,)}},
            "held_out": {"size": "large", "tokens": 128},
            "seq_len": 8,
            "batch_size": 8,
            "workers": 2,
        }
    )
    with config.unlocked():
        for path, value in changes.items():
            node = config
            *parents, leaf = path.split("__")
            for name in parents:
                node = node[name]
            node[leaf] = value
    return config


@pytest.fixture
def make_config():
    return minimal


@pytest.fixture
def workdir(tmp_path):
    """A workdir with token stores of two corpora."""
    for seed, name in enumerate(("prose", "code")):
        rng = np.random.default_rng(seed)
        for split, documents in (("train", 40), ("validation", 8)):
            with Writer(tmp_path / "data" / name / split, VOCAB) as writer:
                for _ in range(documents):
                    tokens = rng.integers(2, VOCAB, size=rng.integers(5, 20))
                    writer.add(np.append(tokens, 1), text_bytes=3 * tokens.size)
                writer.finish(name, split, {})
    return tmp_path


@pytest.fixture
def forget(workdir):
    """A function of runs: it leaves of them what a run has before it is trained."""

    def forget(runs):
        for run in runs:
            directory = RunDir(workdir, run)
            directory.retry()
            directory.rows_path.unlink()
            directory.drop_checkpoints()

    return forget


@pytest.fixture
def study():
    return config_lib.parse(minimal())


@pytest.fixture
def runs(study):
    """The study's five runs: two bases, two small mixes, one large."""
    return grid.plan(study, VOCAB, {"prose": "p", "code": "c"})
