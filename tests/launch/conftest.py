"""The study that the launchers are tested on."""

import json

import numpy as np
import pytest

CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({{
        "name": "tiny",
        "corpora": {{"prose": {{"source": "{0}/prose.jsonl"}}, "code": {{"source": "{0}/code.jsonl"}}}},
        "general": "prose",
        "domains": ("code",),
        "vocabulary": {{"kind": "bytes"}},
        "validation_share": 0.2,
        "model": {{"layers": 1, "d_model": 8, "heads": 1, "kv_heads": 1, "d_ff": 16}},
        "sizes": {{"small": {{}}, "large": {{"d_model": 16}}}},
        "base": {{"tokens": 640, "peak_lr": 1e-2, "warmup_tokens": 64}},
        "cpt": {{"tokens": 256, "peak_lr": 1e-2, "warmup_tokens": 64}},
        "eval_tokens": (128, 256),
        "grid": {{"small": {{"domain_shares": (0.5,)}}, "large": {{"domain_shares": (0.5,)}}}},
        "held_out": {{"size": "large", "tokens": 128}},
        "seq_len": 8,
        "batch_size": 8,
        "workers": 2,
    }})
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    rng = np.random.default_rng(0)
    for name in ("prose", "code"):
        lines = [json.dumps({"text": f"{name} {i} " + "".join(rng.choice(list("abc de"), 60))}) for i in range(40)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "config.py").write_text(CONFIG.format(folder))
    return folder / "config.py"
