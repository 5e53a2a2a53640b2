"""Fits made by hand: decisions are tested against laws whose answers are known, without fitting anything."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import laws
from cptlaw.fitting import Fit

GENERAL = {
    "E": 2.4,
    "A": 0.012,
    "alpha": 0.45,
    "B": 0.004,
    "beta": 0.3,
    "eta": 1.3,
    "C": 0.55,
    "gamma": 0.42,
    "eps": 0.06,
}
CODE = {"E": 1.2, "A": 0.02, "alpha": 0.4, "B": 0.006, "beta": 0.3, "eta": 1.4, "C": 0.75, "gamma": 0.35, "eps": 0.09}


SCORES = {"fit": {"rms_log": 0.001, "mean_log": 0.001}, "held_out": {"n": 0, "what": "nothing"}}
SETTINGS = {"seed": 0, "resample": "runs", "fixed": {}, "shared": [], "objective": "huber", "delta": 1e-3}


def make(eval, params, spread=0.006, resamples=200, seed=0, law="dcpt", sizes=(5e4, 2e5, 8e5), **changes):
    """A Fit whose resamples are its parameters times lognormal noise, with rows that lie on the law."""
    rng = np.random.default_rng(seed)
    law = laws.get(law, **({"constrained": False} if law == "dcpt" else {}))
    samples = {name: value * np.exp(rng.normal(0, spread, resamples)) for name, value in params.items()}
    grid = [(n, d, s) for n in sizes for s in (0.0, 0.25, 0.5, 0.75, 1.0) for d in (1e5, 1e6)]
    rows = pd.DataFrame(grid, columns=["params", "tokens", f"w_{eval}"])
    rows["run"] = [f"n{n:g}-s{s:g}" for n, _, s in grid]
    x = {
        "params": rows["params"].to_numpy(),
        "tokens": rows["tokens"].to_numpy(),
        "ratio": rows[f"w_{eval}"].to_numpy(),
    }
    predicted = law.predict(params, x)
    rows = rows.assign(
        predicted=predicted, observed=predicted + rng.normal(0, 0.003, len(rows)), held_out=rows["params"] > 4e5
    )
    rows = rows.assign(eval=eval, loss=rows["observed"])
    influence = {
        run: {name: value * rng.normal(0, spread) / 5 for name, value in params.items()} for run in rows["run"].unique()
    }
    fields = {
        "law": law, "eval": eval, "params": dict(params), "samples": samples, "codes": {}, "influence": influence,
        "scores": SCORES, "residuals": rows, "n_rows": int((~rows["held_out"]).sum()),
        "ranges": {"params": (min(sizes), max(sizes)), "tokens": (1e5, 1e6), "ratio": (0.0, 1.0)},
        "digest": "table", "settings": dict(SETTINGS),
    }  # fmt: skip
    return Fit(**fields | changes)


@pytest.fixture(scope="session")
def general():
    return make("general", GENERAL, seed=1)


@pytest.fixture(scope="session")
def code():
    return make("code", CODE, seed=2)
