"""Small tables with a known truth."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import laws

TRUTH = {"E": 1.4, "A": 0.45, "alpha": 0.35, "B": 0.12, "beta": 0.4, "eta": 1.4, "C": 0.8, "gamma": 0.5, "eps": 0.12}
CHINCHILLA = {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}


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
