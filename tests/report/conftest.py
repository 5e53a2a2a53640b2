"""A small study with everything a report shows: three sizes, repeats, held-out rows, a decision, a confirming run."""

import json
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from cptlaw import fitting, laws
from cptlaw.planning.tradeoff import trade_off

NAMES = ("E", "A", "alpha", "B", "beta", "eta", "C", "gamma", "eps")
TRUE = {
    "general": dict(zip(NAMES, (2.4, 0.012, 0.45, 0.004, 0.3, 1.3, 0.55, 0.42, 0.06))),
    "code": dict(zip(NAMES, (1.2, 0.02, 0.4, 0.006, 0.3, 1.4, 0.75, 0.35, 0.09))),
}


def rows(run, params, tokens, share, error):
    for corpus, theta in TRUE.items():
        x = {
            "params": params,
            "tokens": max(tokens, 5e4),
            "ratio": np.asarray(share if corpus == "code" else 1 - share),
        }
        loss = float(laws.get("dcpt").predict(theta, x)) + error[corpus]
        shares = {"w_general": 1 - share, "w_code": share}
        yield {"run": run, "params": params, "tokens": tokens, **shares, "eval": corpus, "loss": loss}


@pytest.fixture(scope="session")
def study():
    """table, fits, decision, confirm."""
    rng = np.random.default_rng(0)

    def error():
        return {corpus: rng.normal(0, 0.003) for corpus in TRUE}

    table = []
    for params in (5e4, 2e5, 8e5):
        table += rows(f"base-{params:g}", params, 0, 0.0, error())
        for share, seed in [(s, 0) for s in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)] + [(0.25, 1)]:
            common = error()
            for tokens in (1e5, 3e5, 1e6):
                table += rows(f"n{params:g}-s{share:g}-{seed}", params, tokens, share, common)
    table = pd.DataFrame(table)
    fits = {
        corpus: fitting.fit(table, "dcpt", corpus, bootstrap=40, starts=16, hold_out="params > 4e5 and tokens > 4e5")
        for corpus in TRUE
    }
    base = table[(table["params"] == 8e5) & (table["tokens"] == 0) & (table["eval"] == "general")]["loss"].iloc[0]
    decision = trade_off(fits["general"], fits["code"], params=8e5, tokens=1e6, base_loss=base, tolerance=0.05)
    share = round(decision.point["share"], 3)
    return table, fits, decision, pd.DataFrame(rows("confirm", 8e5, 1e6, share, error()))


@pytest.fixture(scope="session")
def node():
    """Runs JavaScript in one process of node; what it prints, as JSON. Skips where there is no node."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node on PATH")

    def run(script):
        done = subprocess.run([program, "-"], input=script, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
