"""A runs table of any length for every built-in law, on which the law is nearly but not quite right.

Runs are drawn at random over sizes, mixes and what else the law reads; each has `CHECKPOINTS` rows. Loss is the law's,
times a miss that is smooth along the tokens (0.5% at the ends), a run effect of 0.3% and checkpoint noise of 0.1%: a
law that is exactly right is easier to fit than any real table.
"""

import numpy as np
import pandas as pd

from cptlaw import laws
from cptlaw.laws import Law

CHECKPOINTS = 20
CORPORA = ("books", "code", "law", "math", "med", "news", "web")
SIZES = (0.1e9, 0.3e9, 0.7e9, 1.5e9, 3e9)
# A parameter that is not here is 0.5 if linear, else the middle of its start range; of a corpus, within the range.
TRUTH = {
    "dcpt": {"E": 1.2, "A": 0.6, "B": 0.2, "C": 1.4, "eta": 1.5, "eps": 0.1, "gamma": 0.35},
    "dcpt_l2": {"E": 1.2, "A": 0.6, "B": 0.3, "C": 0.8, "eta": 1.1},
    "cross_domain": {"E": 1.2, "A": 0.6, "B": 0.2, "C": 0.5, "F": 0.2, "w2": 1.0},
    "perplexity": {"E": 1.5, "D_c": 3.0, "a0": 0.2, "a1": -0.01, "b0": -0.1, "b1": 0.002},
    "perplexity_no_interaction": {"E": 1.5, "D_c": 3.0, "a0": 0.2, "b0": -0.1},
    "perplexity_quadratic": {"E": 1.5, "c1": 0.1, "c2": -0.05, "c3": 0.02, "c4": 0.01, "c5": 0.01, "D_c": 1.0},
    "repetition": {"E": 1.7, "A": 0.5, "B": 1.2, "alpha": 0.35, "beta": 0.35},
    "cmr": {"a": -0.4, "s": 0.2, "b": 1.9},
    "cmr_tokens": {"a1": 0.8, "s1": -0.4, "b1": 1.7},
    "cmr_general": {"a2": 0.05, "s2": 0.5, "a3": 0.3, "s3": -0.5, "b2": 2.0},
    "forgetting": {"L0": 2.2, "A": 0.05, "beta": 0.4, "B": 50.0, "alpha": 0.3},
    "dynamics": {"L0": 2.5, "A": 0.4, "alpha": 0.5, "C1": 0.3, "C2": 0.3, "B": 0.4, "E": 30.0, "beta": 0.2},
}


def of_law(name: str) -> Law:
    """A built-in law, of seven corpora where it takes any number."""
    return laws.get(name, **({"corpora": CORPORA} if "corpora" in laws.options_of(name) else {}))


def table(name: str, rows: int, seed: int = 0) -> pd.DataFrame:
    """`rows` rows of the law `name`, evaluated on code."""
    rng = np.random.default_rng(seed)
    law, runs = of_law(name), -(-rows // CHECKPOINTS)
    shares = rng.dirichlet(np.ones(len(CORPORA)), runs).round(3)
    shares[:, -1] = np.maximum(1 - shares[:, :-1].sum(axis=1), 0)
    mixed = {f"w_{c}": shares[:, i] for i, c in enumerate(CORPORA)}
    if not any(c.startswith("w_") for c in law.columns):
        share = rng.choice([0.05, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9], runs)
        mixed = {"w_code": share, "w_web": 1 - share}
    per_run = {
        **mixed, "params": rng.choice(SIZES, runs), "pretrain_tokens": rng.choice([20e9, 100e9, 500e9], runs),
        "unique_tokens": rng.choice([2e9, 8e9, 30e9], runs),
        "ppl_mean": rng.uniform(5, 40, runs), "ppl_std": rng.uniform(3, 20, runs), "k1": rng.uniform(1.5, 3, runs),
        "k2": rng.uniform(0.1, 0.6, runs), "k3": rng.uniform(0.05, 0.2, runs),
        "lr_sum_pretrain": rng.uniform(3, 6, runs), "lr_anneal_pretrain": rng.uniform(0.05, 0.3, runs),
    }  # fmt: skip
    frame = pd.DataFrame({"run": [f"r{i:05}" for i in range(runs)], **per_run, "last": rng.choice([10e9, 30e9], runs)})
    frame = frame.loc[frame.index.repeat(CHECKPOINTS)].reset_index(drop=True).iloc[:rows].copy()
    progress = (np.arange(len(frame)) % CHECKPOINTS + 1) / CHECKPOINTS
    frame["tokens"] = progress * frame.pop("last")
    frame["lr_sum"], frame["lr_anneal"] = frame["tokens"] / 1e10, 0.2 * progress**2
    x = {c: frame[c].to_numpy(float) if c != "ratio" else frame["w_code"].to_numpy(float) for c in law.columns}
    theta = _truth(law) | {k: find(x) for k, find in law.fixed.items()}
    miss = 5e-3 * (2 * np.abs(progress - 0.5) - 0.5)
    run = 3e-3 * rng.standard_normal(runs)[np.repeat(np.arange(runs), CHECKPOINTS)[:rows]]
    loss = np.asarray(law.predict(theta, x), float) * np.exp(miss + run + 1e-3 * rng.standard_normal(len(frame)))
    kept = [c for c in frame if c in ("run", "params", "tokens") or c.startswith("w_") or c in law.columns]
    return frame[kept].assign(eval="code", loss=loss)


def _truth(law: Law) -> dict[str, float]:
    """The law's parameters."""
    found = {}
    for p in law.params:
        stem, _, corpus = p.name.rstrip("]").partition("[")
        along = (CORPORA.index(corpus) + 1) / (len(CORPORA) + 1) if corpus else 0.5
        middle = p.start[0] + along * (p.start[1] - p.start[0])
        found[p.name] = TRUTH.get(law.name, {}).get(stem, 0.5 if p.linear else middle)
    return found
