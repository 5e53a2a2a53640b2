"""Are the planner's intervals honest, and does it choose experiments better than chance? On tables of a known truth.

    python benchmarks/planning.py coverage --tables 300    # share of 90% intervals that hold the true best share
    python benchmarks/planning.py next --tables 40 --bootstrap 8    # regret against cost: `next_runs` and others
    python benchmarks/planning.py next --tables 40 --bootstrap 8 --large 0.25    # with one large run to begin with
    python benchmarks/planning.py speed                    # seconds a decision

The truth is a D-CPT law (L3) a corpus; a table is a grid of runs whose checkpoints share a run effect of `--noise` nats
and have a third of it each. One JSON line a table goes to stdout; the summary to stderr.
"""

import argparse
import json
import sys
import time

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from cptlaw import cache, fitting, laws
from cptlaw.planning.best_subset import best_subset
from cptlaw.planning.budget import budget
from cptlaw.planning.first_grid import first_grid
from cptlaw.planning.limited_data import limited_data
from cptlaw.planning.mixture import mixture
from cptlaw.planning.next_runs import check_candidates, choose, next_runs
from cptlaw.planning.pareto import pareto
from cptlaw.planning.posterior import posteriors
from cptlaw.planning.share_for_loss import share_for_loss
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


def decide(rows: list[dict], args: argparse.Namespace, bootstrap: int):
    """(decision, fits) from a table. Starts near the truth find the optimum that many more cold ones find."""
    table = pd.DataFrame(rows)
    near = np.exp(np.random.default_rng(0).normal(0, 0.1, (4, len(NAMES))))
    fits = []
    for corpus, theta in TRUE.items():
        starts = near * np.array([theta[name] for name in laws.parse(args.law).names])
        fits.append(
            fitting.fit(table, args.law, corpus, bootstrap=bootstrap, starts=starts, resample=args.resample,
                        hold_out=np.zeros(len(table), bool))
        )  # fmt: skip
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
        decision, _ = decide(rows, args, args.bootstrap)
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


def pick(strategy: str, step: int, decision, fits, candidates: pd.DataFrame, rng: np.random.Generator) -> int:
    """Index of the candidate a strategy runs next."""
    cost = candidates["cost"].to_numpy()
    if strategy == "random":
        return int(rng.integers(len(candidates)))
    if strategy == "grid":
        return step % len(candidates)
    known = posteriors(decision, fits, candidates)
    if strategy == "next":
        return choose(known, cost, 1)[0][0]
    return int(np.argmax(sum(one.information() for one in known).mean(axis=0)))


def following(args: argparse.Namespace) -> None:
    start = [(n, s) for n in SIZES[:2] for s in (0.0, 0.25, 0.5, 0.75, 1.0)] + [(SIZES[2], s) for s in args.large]
    mixes = pd.DataFrame({"w_general": np.linspace(1, 0, 9), "w_code": np.linspace(0, 1, 9)})
    sizes = pd.DataFrame({"params": SIZES, "tokens": TOKENS[-1]})
    candidates = check_candidates(sizes.merge(mixes, how="cross"))
    lines: list[dict] = []
    for seed in range(args.first, args.first + args.tables):
        for strategy in args.strategies:
            rng = np.random.default_rng(seed)
            rows = [r for n, s in start for r in run(f"{n:g}-{s}", n, s, args.noise, rng)]
            path, spent, chosen = [], 0.0, []
            while True:
                decision, fits = decide(rows, args, args.bootstrap if strategy == "next" else 2)
                path.append((round(spent, 4), regret(decision.point["share"])))
                if spent >= args.budget:
                    break
                row = candidates.iloc[pick(strategy, len(chosen), decision, fits, candidates, rng)]
                rows += run(f"step{len(chosen)}", row["params"], row["w_code"], args.noise, rng)
                chosen.append((row["params"], round(row["w_code"], 3)))
                spent += row["cost"] / (6 * TARGET["params"] * TARGET["tokens"])
            lines.append({"seed": seed, "strategy": strategy, "path": path, "chosen": chosen})
            print(json.dumps(lines[-1]), flush=True)
    compare(lines, args.budget)


def compare(lines: list[dict], budget: float) -> None:
    """Median regret against cost, and what each strategy pays, over what `next` does, to come as low."""
    at = np.arange(0, budget + 1e-9, 0.25)
    median = {}
    for strategy in dict.fromkeys(line["strategy"] for line in lines):
        found = []
        for line in (one for one in lines if one["strategy"] == strategy):
            spent, value = np.array(line["path"]).T
            found.append(value[np.searchsorted(spent, at + 1e-9) - 1])
        median[strategy] = np.median(found, axis=0)
        shown = " ".join(f"{1e3 * value:5.2f}" for value in median[strategy])
        print(f"{strategy:<10} {len(found):>3} tables, median regret in mnats: {shown}", file=sys.stderr)
    for strategy in median.keys() - {"next"}:
        for cost in (1.0, 2.0):
            level = median["next"][at == cost][0]
            ours, theirs = (first(at, median[name], level) for name in ("next", strategy))
            paid = f"{theirs / ours:.2f} times" if theirs < np.inf else f"over {budget / ours:.2f} times"
            print(f"{strategy:<10} pays {paid} what next does for {1e3 * level:.2f} mnats", file=sys.stderr)


def first(at: np.ndarray, value: np.ndarray, level: float) -> float:
    """Least cost at which the median regret is at most `level`; inf if it never is."""
    return float(at[np.argmax(value <= level)]) if (value <= level).any() else np.inf


def speed(args: argparse.Namespace) -> None:
    """Seconds of every decision, the second time it is asked, on 200 rows a corpus and 1000 resamples."""
    rng = np.random.default_rng(0)
    rows = [r for n in SIZES for s in np.linspace(0, 1, 17)[:16] for r in run(f"{n:g}-{s}", n, s, args.noise, rng)]
    rows += [r for s in (0.3, 0.6) for r in run(f"again-{s}", 8e5, s, args.noise, rng)]
    _, (general, code) = decide(rows, args, 1000)
    x = np.exp(rng.uniform(-0.5, 0.5, (200, 2))) * (20.0, 15.0)
    table = pd.DataFrame({"run": [f"s{i // 4}" for i in range(200)], "tokens": np.tile(TOKENS, 50), "eval": "code"})
    table = table.assign(ppl_mean=x[:, 0], ppl_std=x[:, 1], loss=0.0)
    table["loss"] = 2 + 0.01 * rng.normal(size=200) + 0.1 * np.log(x[:, 0]) - 0.02 * np.log(table["tokens"] / 1e5)
    chosen = fitting.fit(table, "perplexity", "code", bootstrap=1000, hold_out=np.zeros(200, bool))
    decision = trade_off(general, code, **TARGET, base_loss=BASE)
    given = {name: code.params[name] for name in code.law.names}
    grid = {"sizes": SIZES, "tokens": TOKENS}
    questions = {
        "trade-off": lambda: trade_off(general, code, **TARGET, base_loss=BASE),
        "share": lambda: share_for_loss(general, loss=CEILING, **TARGET),
        "limited-data": lambda: limited_data(code, params=8e5, domain_tokens=2e5, tokens=1e6, max_epochs=4),
        "budget, share given": lambda: budget(code, flops=4.8e12, share=0.5),
        "budget, all free": lambda: budget(code, general, flops=4.8e12, ceiling=CEILING),
        "budget, served": lambda: budget(code, flops=4.8e12, inference_tokens=1e6),
        "budget, menu": lambda: budget(code, general, flops=4.8e12, ceiling=CEILING, sizes=SIZES),
        "mixture, sum": lambda: mixture(general, code, **TARGET),
        "mixture, ceiling": lambda: mixture(general, code, **TARGET, ceilings={"general": CEILING}),
        "mixture, worst": lambda: mixture(general, code, **TARGET, worst=True, weights={"general": 1, "code": 1.4}),
        "pareto": lambda: pareto(general, code, **TARGET),
        "subset": lambda: best_subset(chosen, tokens=1e6),
        "next": lambda: next_runs(decision, general, code, k=5),
        "design": lambda: first_grid(code.law, given, at={**TARGET, "ratio": 0.5}, precision=0.01, **grid),
    }  # fmt: skip
    for name, ask in questions.items():
        ask()
        wall, cpu = time.perf_counter(), time.process_time()
        ask()
        print(f"{name:<20} {time.perf_counter() - wall:6.2f} s wall {time.process_time() - cpu:6.2f} s CPU", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("coverage", "next", "speed"))
    parser.add_argument("--tables", type=int, default=300)
    parser.add_argument("--noise", type=float, default=0.003, help="run effect, nats")
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--resample", default="runs")
    parser.add_argument("--law", default="dcpt:constrained=false")
    parser.add_argument("--whole", action="store_true", help="coverage: every share at every size")
    parser.add_argument("--strategies", nargs="+", default=["next", "random", "d_optimal", "grid"])
    parser.add_argument(
        "--large", type=float, nargs="*", default=[], help="next: shares run at the largest size at first"
    )
    parser.add_argument("--first", type=int, default=0, help="next: the first table's seed")
    parser.add_argument("--budget", type=float, default=3.0, help="next: cost in runs of the largest size")
    args = parser.parse_args()
    cache.keep_compiled()
    {"coverage": coverage, "next": following, "speed": speed}[args.what](args)


if __name__ == "__main__":
    main()
