"""Do intervals of a law's parameters hold? Expanded bootstrap, BCa, and jackknife-t over runs, on known truths.

    python -m benchmarks.parameters [--tables 60]

Tables of the Chinchilla law and of the D-CPT Law (3 or 5 sizes, a run effect of sd `noise` nats, a third of it a
checkpoint). For each parameter: how often the 90% interval holds the truth, and its median width over the truth. The
jackknife takes the fit's own influences (parameters less those without a run), on the logarithm of parameters that are
above 0, with Student's t of runs - 1 degrees of freedom.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks import planning
from cptlaw import fitting, laws
from cptlaw.fitting import Fit, intervals

LEVEL, DRAWS, STARTS = 0.9, 200, 16
CHINCHILLA = {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}


def chinchilla(sizes: int, noise: float, rng: np.random.Generator) -> pd.DataFrame:
    """Two runs a size, five checkpoints a run."""
    law, rows = laws.get("chinchilla"), []
    for size in np.geomspace(0.1e9, 1.6e9, sizes):
        for seed in range(2):
            effect = noise * rng.standard_normal()
            for tokens in np.geomspace(1e9, 32e9, 5):
                loss = float(law.predict(CHINCHILLA, {"params": size, "tokens": tokens}))
                loss += effect + noise / 3 * rng.standard_normal()
                rows.append({"run": f"{size:g}-{seed}", "params": size, "tokens": tokens, "loss": loss, "eval": "web"})
    return pd.DataFrame(rows)


def dcpt(runs: int, noise: float, rng: np.random.Generator) -> pd.DataFrame:
    """The general loss of `benchmarks/planning.py`: three sizes, shares spread over each."""
    rows = []
    for i, size in enumerate(planning.SIZES):
        count = runs // 3 + (i < runs % 3)
        for j, share in enumerate(np.linspace(0, 0.9, count)):
            effect = noise * rng.standard_normal()
            for tokens in np.geomspace(1e5, 1e6, 5):
                x = {"params": size, "tokens": tokens, "ratio": 1 - share}
                loss = float(planning.LAW.predict(planning.TRUE["general"], x))
                loss += effect + noise / 3 * rng.standard_normal()
                rows.append({"run": f"{size:g}-{j}", "params": size, "tokens": tokens, "w_general": 1 - share,
                             "w_code": share, "loss": loss, "eval": "general"})  # fmt: skip
    return pd.DataFrame(rows)


def jackknife(fit: Fit, name: str) -> tuple[float, float]:
    """The 90% interval of a parameter from what each run moves it by."""
    value = fit.params[name]
    without = np.array([value - move.get(name, 0.0) for move in fit.influence.values()])
    logged = fit.law[name].low >= 0 and value > 0 and (without > 0).all()
    point, each = (np.log(value), np.log(without)) if logged else (value, without)
    count = len(each)
    half = intervals.student(LEVEL, count - 1) * np.sqrt((count - 1) / count * np.sum((each - each.mean()) ** 2))
    low, high = point - half, point + half
    return (float(np.exp(low)), float(np.exp(high))) if logged else (float(low), float(high))


def lines(law: str, truth: dict[str, float], table: pd.DataFrame, seed: int) -> Iterator[dict]:
    fit = fitting.fit(table, law, bootstrap=DRAWS, starts=STARTS, seed=seed, hold_out=np.zeros(len(table), bool))
    for name in truth:
        if name not in fit.law.names or fit.law[name].low == truth[name]:
            continue
        found = {method: fit.interval(name, LEVEL, method) for method in ("percentile", "bca")}
        for method, (low, high) in {**found, "jackknife": jackknife(fit, name)}.items():
            held = low <= truth[name] <= high
            yield {"parameter": name, "method": method, "cover": held, "width": (high - low) / abs(truth[name])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=60, help="tables of each setting (default 60)")
    args = parser.parse_args()
    settings = [
        ("chinchilla, 3 sizes, 6 runs, .005", "chinchilla", CHINCHILLA, lambda rng: chinchilla(3, 0.005, rng)),
        ("chinchilla, 5 sizes, 10 runs, .005", "chinchilla", CHINCHILLA, lambda rng: chinchilla(5, 0.005, rng)),
        ("chinchilla, 8 sizes, 16 runs, .005", "chinchilla", CHINCHILLA, lambda rng: chinchilla(8, 0.005, rng)),
        ("dcpt, 20 runs, .005", "dcpt:constrained=false", planning.TRUE["general"], lambda rng: dcpt(20, 0.005, rng)),
    ]
    for name, law, truth, make in settings:
        rows = pd.DataFrame(
            [line for seed in range(args.tables) for line in lines(law, truth, make(np.random.default_rng(seed)), seed)]
        )
        cover = rows.pivot_table(index="parameter", columns="method", values="cover", sort=False)
        width = rows.pivot_table(index="parameter", columns="method", values="width", aggfunc="median", sort=False)
        shown = cover.add_suffix(" cover").join(width.add_suffix(" width"))
        print(f"\n{name}, {args.tables} tables\n{shown.to_string(float_format=lambda v: f'{v:.3g}')}")
        print(f"all: {rows.groupby('method', sort=False)['cover'].mean().round(3).to_dict()}", flush=True)


if __name__ == "__main__":
    main()
