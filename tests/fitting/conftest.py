"""Small tables with a known truth, and fits of them that several files ask."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from known_laws import CHINCHILLA, TRUTH

from cptlaw import fitting, laws


@pytest.fixture(scope="session")
def dcpt_table():
    """4 sizes x 5 ratios x 6 checkpoints, two evaluated corpora, a little noise by run and row."""
    law, rng, rows = laws.get("dcpt"), np.random.default_rng(0), []
    for size in (0.1e9, 0.3e9, 1e9, 3e9):
        for ratio in (0.1, 0.25, 0.5, 0.75, 0.9):
            effect = rng.normal(scale=5e-4)
            for tokens in np.geomspace(0.5e9, 20e9, 6):
                for name, share in (("code", ratio), ("web", 1 - ratio)):
                    loss = law.predict(TRUTH, {"params": size, "tokens": tokens, "ratio": np.array(share)})
                    loss *= np.exp(effect + rng.normal(scale=3e-4))
                    rows.append((f"{size:g}-{ratio}", size, tokens, ratio, 1 - ratio, name, float(loss)))
    return pd.DataFrame(rows, columns=["run", "params", "tokens", "w_code", "w_web", "eval", "loss"])


@pytest.fixture(scope="session")
def chinchilla_table():
    """5 sizes x 6 token counts, a run each, 0.1% noise."""
    law, rng = laws.get("chinchilla"), np.random.default_rng(1)
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(0.05e9, 3e9, 5), np.geomspace(1e9, 60e9, 6), indexing="ij"))
    loss = law.predict(CHINCHILLA, {"params": n, "tokens": d}) * np.exp(1e-3 * rng.normal(size=30))
    return pd.DataFrame({"run": [f"r{i:02}" for i in range(30)], "params": n, "tokens": d, "eval": "web", "loss": loss})


@pytest.fixture(scope="session")
def code(dcpt_table):
    """D-CPT fitted to the code losses of `dcpt_table`."""
    return fitting.fit(dcpt_table, "dcpt", "code", bootstrap=40, starts=16)


@pytest.fixture(scope="session")
def web(chinchilla_table):
    """Chinchilla fitted to `chinchilla_table`."""
    return fitting.fit(chinchilla_table, "chinchilla", bootstrap=60, starts=16)


@pytest.fixture(scope="session")
def mixes_table():
    """24 mixes of three corpora, the losses of one, on the mixing law with 0.1% noise."""
    rng = np.random.default_rng(2)
    web, code, math = rng.dirichlet(np.ones(3), 24).T
    loss = (1.5 + 0.4 * np.exp(-1.2 * web + 0.5 * code)) * np.exp(1e-3 * rng.standard_normal(24))
    return pd.DataFrame(
        {
            "run": [f"m{i:02}" for i in range(24)],
            "w_web": web,
            "w_code": code,
            "w_math": math,
            "eval": "web",
            "loss": loss,
        }
    )
