"""The launcher that scores, as a shell runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_corpus_is_scored_under_a_base_and_wrong_flags_are_named(config, tmp_path):
    def launch(*flags):
        words = [sys.executable, "-m", "launch.score", f"--config={config}", f"--workdir={tmp_path}"]
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
