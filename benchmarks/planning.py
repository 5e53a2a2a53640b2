"""Are the planner's intervals honest, and does it choose experiments better than chance? On tables of a known truth.

    python benchmarks/planning.py coverage --tables 300    # share of 90% intervals that hold the true best share
    python benchmarks/planning.py next --tables 30         # regret against cost: `next_runs`, random, in grid order

The truth is a D-CPT law (L3) a corpus; a table is a grid of runs whose checkpoints share a run effect of `--noise` nats
and have a third of it each. One JSON line a table goes to stdout; the summary to stderr.
"""

import argparse
import json
import sys

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from cptlaw import cache, fitting, laws
from cptlaw.planning.experiments import default_candidates, next_runs
from cptlaw.planning.tradeoff import trade_off

NAMES = ("E", "A", "alpha", "B", "beta", "eta", "C", "gamma", "eps")
TRUE = {
    "general": dict(zip(NAMES, (2.4, 0.012, 0.45, 0.004, 0.3, 1.3, 0.55, 0.42, 0.06))),
    "code": dict(zip(NAMES, (1.2, 0.02, 0.4, 0.006, 0.3, 1.4, 0.75, 0.35, 0.09))),
}
LAW = laws.get("dcpt", constrained=False)
SIZES, TOKENS, SHARES = (5e4, 2e5, 8e5), (1e5, 2e5, 4e5, 1e6), (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
TARGET = {"params": 8e5, "tokens": 1e6}


def truth(corpus: str, params: float, tokens: float, share: float) -> float:
    """True loss at a domain share."""
    x = {"params": params, "tokens": tokens, "ratio": np.asarray(share if corpus == "code" else 1 - share)}
    return float(LAW.predict(TRUE[corpus], x))


BASE = truth("general", 8e5, 3e5, 0.0)
CEILING = 1.03 * BASE
BEST = brentq(lambda share: truth("general", **TARGET, share=share) - CEILING, 0, 1)


def run(name: str, params: float, share: float, noise: float, rng: np.random.Generator) -> list[dict]:
    """Rows of one run."""
    rows = []
    effect = dict(zip(TRUE, rng.normal(0, noise, len(TRUE))))
    for tokens in TOKENS:
        for corpus in TRUE:
            loss = truth(corpus, params, tokens, share) + effect[corpus] + rng.normal(0, noise / 3)
            shares = {"w_general": 1 - share, "w_code": share}
            rows.append({"run": name, "params": params, "tokens": tokens, **shares, "eval": corpus, "loss": loss})
    return rows


def decide(rows: list[dict], args: argparse.Namespace):
    """(decision, fits) from a table."""
    table = pd.DataFrame(rows)
    fits = [
        fitting.fit(table, args.law, corpus, bootstrap=args.bootstrap, starts=16, resample=args.resample,
                    hold_out=np.zeros(len(table), bool))
        for corpus in TRUE
    ]  # fmt: skip
    return trade_off(*fits, **TARGET, base_loss=BASE), fits


def regret(share: float) -> float:
    """True price of a share, as `trade_off` counts it."""
    given_up = truth("code", **TARGET, share=share) - truth("code", **TARGET, share=BEST)
    return max(given_up, 0.0) + max(truth("general", **TARGET, share=share) - CEILING, 0.0)


def coverage(args: argparse.Namespace) -> None:
    inside, widths = [], []
    for seed in range(args.tables):
        rng = np.random.default_rng(seed)
        sizes = SIZES if args.whole else SIZES[:-1]
        rows = [r for n in sizes for s in SHARES for r in run(f"{n:g}-{s}", n, s, args.noise, rng)]
        if not args.whole:  # the largest size with three shares only, as a team would have it
            rows += [r for s in (0.25, 0.5, 0.75) for r in run(f"8e5-{s}", 8e5, s, args.noise, rng)]
        decision, _ = decide(rows, args)
        low, high = decision.interval["share"]
        inside.append(bool(low <= BEST <= high))
        widths.append(high - low)
        line = {
            "seed": seed,
            "low": low,
            "high": high,
            "point": decision.point["share"],
            "best": BEST,
            "inside": inside[-1],
        }
        print(json.dumps(line), flush=True)
        if (seed + 1) % 10 == 0:
            print(
                f"{seed + 1} tables: {np.mean(inside):.1%} inside, median width {np.median(widths):.4f}",
                file=sys.stderr,
            )


def following(args: argparse.Namespace) -> None:
    start = [(n, s) for n in SIZES[:2] for s in (0.0, 0.25, 0.5, 0.75, 1.0)] + [(8e5, 0.25)]
    for seed in range(args.tables):
        for strategy in ("next", "random", "grid"):
            rng = np.random.default_rng(seed)
            rows = [r for n, s in start for r in run(f"{n:g}-{s}", n, s, args.noise, rng)]
            decision, fits = decide(rows, args)
            path, spent, step = [(0.0, regret(decision.point["share"]))], 0.0, 0
            while spent < args.budget:
                candidates = default_candidates(fits)
                if strategy == "next":
                    chosen = next_runs(decision, *fits, candidates=candidates).rows[0]
                else:
                    order = rng.integers(len(candidates)) if strategy == "random" else step % len(candidates)
                    chosen = candidates.iloc[int(order)]
                step += 1
                rows += run(f"step{step}", chosen["params"], chosen["w_code"], args.noise, rng)
                spent += chosen["cost"] / (6 * TARGET["params"] * TARGET["tokens"])
                decision, fits = decide(rows, args)
                path.append((spent, regret(decision.point["share"])))
            print(json.dumps({"seed": seed, "strategy": strategy, "path": path}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coverage", "next"))
    parser.add_argument("--tables", type=int, default=300)
    parser.add_argument("--noise", type=float, default=0.003, help="run effect, nats")
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--resample", default="runs")
    parser.add_argument("--law", default="dcpt:constrained=false")
    parser.add_argument("--whole", action="store_true", help="coverage: every share at every size")
    parser.add_argument("--budget", type=float, default=3.0, help="next: cost in runs of the largest size")
    args = parser.parse_args()
    cache.keep_compiled()
    (coverage if args.what == "coverage" else following)(args)


if __name__ == "__main__":
    main()
