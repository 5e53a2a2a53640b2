"""launch/score.py, as a shell runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

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
        "sizes": {{"small": {{}}}},
        "base": {{"tokens": 640, "peak_lr": 1e-2, "warmup_tokens": 64}},
        "cpt": {{"tokens": 256, "peak_lr": 1e-2, "warmup_tokens": 64}},
        "eval_tokens": (128, 256),
        "grid": {{"small": {{"domain_shares": (0.5,)}}}},
        "held_out": {{"size": "small", "tokens": 128}},
        "seq_len": 8,
        "batch_size": 8,
    }})
"""


@pytest.mark.slow
def test_a_corpus_is_scored_under_a_base_and_wrong_flags_are_named(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("prose", "code"):
        lines = [json.dumps({"text": f"{name} {i} " + "".join(rng.choice(list("abc de"), 60))}) for i in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "config.py").write_text(CONFIG.format(tmp_path))

    def launch(*flags):
        words = [sys.executable, "-m", "launch.score", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/work"]
        environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
        done = subprocess.run([*words, *flags], capture_output=True, text=True, cwd=ROOT, env=environment)
        assert "Traceback" not in done.stderr
        return done

    done = launch("--corpus=code", "--size=small", "--chunk=16")
    assert done.returncode == 0, done.stderr
    assert "chunks" in done.stdout and "nats per token" in done.stdout
    again = launch("--corpus=code", "--size=small", "--chunk=16")
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    for flags, message in (
        (("--corpus=law", "--size=small"), "--corpus: no corpus 'law'; the study has prose, code"),
        (("--corpus=code",), "--size, --run: name the model by one of them"),
        (("--corpus=code", "--run=none"), "no run 'none'; there are base-small-"),
    ):
        done = launch(*flags)
        assert done.returncode == 2 and message in done.stderr
