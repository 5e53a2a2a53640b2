"""How often intervals cover the truth, on simulated tables.

    python -m benchmarks.coverage --tables 500
    python -m benchmarks.coverage --tables 500 --truth bend      # the law is wrong: what the process does

Each table: 4 sizes x 7 ratios, 8 checkpoints a run; a run effect (seed noise) and serially correlated checkpoint noise.
The law is fitted with a bootstrap over runs; the question is the loss at a size 2.5x the largest fitted.
"""

import argparse
import json
import time

import numpy as np
import pandas as pd

from cptlaw import fitting, laws

SIZES = np.array([0.1e9, 0.25e9, 0.6e9, 1.6e9])
RATIOS = np.array([0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0])
TOKENS = np.geomspace(0.5e9, 20e9, 8)
ASKED = {"params": 4e9, "tokens": 20e9, "ratio": np.array([0.2, 0.5, 0.9])}
TRUTH = {
    "E": 1.4, "A": 0.45, "alpha": 0.35, "B": 0.12, "beta": 0.40, "eta": 1.4, "C": 0.62, "gamma": 0.30, "eps": 0.08,
}  # fmt: skip
CORRELATION = 0.7  # of neighbouring checkpoints' noise


# What each truth adds to D-CPT, in nats, that no D-CPT law has.
TRUTHS = {
    "law": lambda x: 0.0,
    "interaction": lambda x: 0.003 * np.log(x["params"] / 1e9) * np.log(x["tokens"] / 5e9),
    "bend": lambda x: 0.005 * np.log(x["params"] / 0.4e9) ** 2,  # the power law of size is none
    "replay": lambda x: 0.1 * (1 - x["ratio"]) * (x["params"] / 1e9) ** -0.2,  # what size buys depends on the mix
}


def truth(kind: str, x: dict) -> np.ndarray:
    """Loss without noise."""
    return laws.get("dcpt", constrained=False).predict(TRUTH, x) + TRUTHS[kind](x)


def simulate(rng: np.random.Generator, run_noise: float, row_noise: float, kind: str = "law") -> pd.DataFrame:
    """One runs table; noises are standard deviations in nats."""
    rows = []
    for i, (size, ratio) in enumerate((s, r) for s in SIZES for r in RATIOS):
        noise = rng.normal(size=len(TOKENS))
        for k in range(1, len(noise)):
            noise[k] = CORRELATION * noise[k - 1] + np.sqrt(1 - CORRELATION**2) * noise[k]
        loss = truth(kind, {"params": size, "tokens": TOKENS, "ratio": ratio})
        loss = loss + run_noise * rng.normal() + row_noise * noise
        for tokens, value in zip(TOKENS, loss):
            rows.append((f"run{i:02}", size, tokens, ratio, 1 - ratio, "code", value))
    return pd.DataFrame(rows, columns=["run", "params", "tokens", "w_code", "w_web", "eval", "loss"])


def study(tables: int, run_noise: float, row_noise: float, kind: str, bootstrap: int, seed: int = 0) -> pd.DataFrame:
    """One line a table and question: truth, point and, for each way of making the interval, its bounds."""
    lines = []
    wanted = truth(kind, ASKED)
    ways = {"percentile": {"target": "law"}, "bca": {"method": "bca"}, "process": {"target": "mean"}}
    for i in range(tables):
        table = simulate(np.random.default_rng([seed, i]), run_noise, row_noise, kind)
        nothing = None if kind != "law" else np.zeros(len(table), bool)
        fit = fitting.fit(table, "dcpt:constrained=false", bootstrap=bootstrap, starts=16, hold_out=nothing, seed=i)
        for way, options in ways.items():
            found = fit.predict(**ASKED, **options)
            for q, ratio in enumerate(ASKED["ratio"]):
                lines.append(
                    {
                        "table": i, "way": way, "ratio": ratio, "truth": wanted[q], "point": found.point[q],
                        "low": found.low[q], "high": found.high[q], "sd": np.nanstd(found.samples[:, q]),
                    }
                )  # fmt: skip
    return pd.DataFrame(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=500)
    parser.add_argument("--run-noise", type=float, default=0.003, help="nats (default 0.003)")
    parser.add_argument("--row-noise", type=float, default=0.001, help="nats (default 0.001)")
    parser.add_argument("--truth", choices=TRUTHS, default="law")
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--out", help="write every interval to this CSV")
    args = parser.parse_args()
    begin = time.time()
    lines = study(args.tables, args.run_noise, args.row_noise, args.truth, args.bootstrap)
    if args.out:
        lines.to_csv(args.out, index=False)
    lines["covered"] = lines["truth"].between(lines["low"], lines["high"])
    lines["error"] = lines["point"] - lines["truth"]
    for way, part in lines.groupby("way", sort=False):
        print(
            json.dumps(
                {
                    "truth": args.truth, "way": way, "tables": args.tables, "coverage": part["covered"].mean(),
                    "by ratio": part.groupby("ratio")["covered"].mean().round(3).to_dict(),
                    "width": (part["high"] - part["low"]).median(), "bootstrap sd": part["sd"].median(),
                    "rms error": float(np.sqrt((part["error"] ** 2).mean())),
                }
            )
        )  # fmt: skip
    print(f"{time.time() - begin:.0f} s")


if __name__ == "__main__":
    main()
