"""Does `next` choose experiments better than chance on real tables? Runs of a table are shown one by one, as chosen.

    python benchmarks/replay.py gemstones      # L(N, D) of 22 models, 50M to 2B: the loss of the dearest run
    python benchmarks/replay.py scalebench     # five-domain mixes: the loss of a test mix, five domains, four sizes
    python benchmarks/replay.py regmix         # seventeen corpora, 1M parameters: Pile-CC's loss on test mixes

A few runs are known at first (the cheapest; of mixes of one cost, random ones). The error is that of the target's
predicted loss, relative, in the median over targets and over `--repeats` random beginnings or orders. One JSON line a
path goes to stdout, the errors against the cost to stderr.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cptlaw import cache, fitting
from cptlaw.planning.next_runs import choose
from cptlaw.planning.posterior import posteriors

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STRATEGIES = ("next", "random", "d_optimal", "grid")


def gemstones() -> Iterator[tuple[str, pd.DataFrame, dict, float]]:
    """(law, table of the other runs, target run, its loss)."""
    rows = pd.read_csv(DATA / "gemstones" / "wandb_df_for_fitting_hot.csv")
    rows = rows.rename(columns={"run_name": "run", "params_active_precise": "params", "final_loss": "loss"})
    rows = rows[["run", "params", "tokens", "loss"]].assign(eval="loss")
    rows["cost"] = 6.0 * rows["params"] * rows.groupby("run")["tokens"].transform("max")
    for run in rows[rows["params"] > 1e9]["run"].unique():
        last = rows[rows["run"] == run].sort_values("tokens").iloc[-1]
        smaller = rows[rows["cost"] < 0.6 * last["cost"]]
        yield "chinchilla", smaller, {"params": last["params"], "tokens": last["tokens"]}, last["loss"]


def scalebench() -> Iterator[tuple[str, pd.DataFrame, dict, float]]:
    names = ("train", "test")
    train, test = (pd.read_csv(DATA / "scalebench" / f"domain_mixture_scaling_law__{name}.csv") for name in names)
    shares = {f"proportion_domain_{i}": f"w_d{i}" for i in range(1, 6)}
    for group, rows in train.groupby("group"):
        for i in range(1, 6):
            table = rows.rename(columns=shares)[list(shares.values())]
            table = table.assign(run=[f"r{j}" for j in range(len(rows))], cost=1.0, eval=f"d{i}")
            for _, row in test[test["group"] == group].iloc[:2].iterrows():
                target = {new: row[old] for old, new in shares.items()}
                yield "mixing", table.assign(loss=rows[f"loss_domain_{i}"]), target, row[f"loss_domain_{i}"]


def regmix() -> Iterator[tuple[str, pd.DataFrame, dict, float]]:
    from regmix import read

    (mixture, losses), (tests, truth) = read("train_1m"), read("test_1m")
    table = mixture.assign(run=mixture.index.astype(str), cost=1.0, eval="pile_cc", loss=losses["pile_cc"]).iloc[:150]
    for label in tests.index[:8]:
        yield "mixing", table, tests.loc[label].to_dict(), truth.loc[label, "pile_cc"]


def fit(table: pd.DataFrame, law: str, bootstrap: int):
    return fitting.fit(
        table.drop(columns="cost"), law, bootstrap=bootstrap, starts=8, hold_out=np.zeros(len(table), bool)
    )


def path(
    strategy: str, law: str, table: pd.DataFrame, target: dict, truth: float, begin: int, steps: int, seed: int
) -> list[tuple[float, float]]:
    """(cost added, relative error) as runs are added."""
    rng = np.random.default_rng(seed)
    runs = table.drop_duplicates("run", keep="last").sort_values("tokens" if "tokens" in table else "run")
    order = runs.assign(tie=rng.permutation(len(runs))).sort_values(["cost", "tie"])["run"].tolist()
    seen, spent, out = order[:begin], 0.0, []
    while True:
        now = fit(table[table["run"].isin(seen)], law, 8 if strategy == "next" else 2)
        shares = {name[2:]: value for name, value in target.items() if name.startswith("w_")}
        others = {name: value for name, value in target.items() if not name.startswith("w_")}
        out.append((spent, abs(float(now.predict(**others, shares=shares, target="law").point) / truth - 1)))
        left = table[~table["run"].isin(seen)]
        left = left.loc[left.groupby("run")["tokens"].idxmax()] if "tokens" in left else left
        left = left.reset_index(drop=True)
        if len(out) > steps or left.empty:
            return out
        cost = left["cost"].to_numpy()
        if strategy in ("next", "d_optimal"):
            known = posteriors(target, [now], left)
            told = np.mean([one.information() for one in known], axis=(0, 1))
            pick = choose(known, cost, 1)[0][0] if strategy == "next" else int(np.argmax(told))
        else:
            pick = int(rng.integers(len(left))) if strategy == "random" else 0
        seen, spent = [*seen, left["run"][pick]], spent + cost[pick]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("gemstones", "scalebench", "regmix"))
    parser.add_argument("--begin", type=int, help="runs known at first")
    parser.add_argument("--steps", type=int, default=6, help="runs added")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    cache.keep_compiled()
    begin = args.begin or {"gemstones": 4, "scalebench": 8, "regmix": 24}[args.table]
    found: dict[str, list] = {name: [] for name in STRATEGIES}
    for number, (law, table, target, truth) in enumerate(globals()[args.table]()):
        for repeat in range(args.repeats):
            for name in STRATEGIES:
                found[name].append(path(name, law, table, target, truth, begin, args.steps, 100 * number + repeat))
                print(json.dumps({"target": number, "strategy": name, "path": found[name][-1]}), flush=True)
    summarise(found)


def summarise(found: dict[str, list[list[tuple[float, float]]]]) -> None:
    """Median error of each strategy once a cost is spent, up to the cost that every path reaches."""
    most = min(one[-1][0] for paths in found.values() for one in paths)
    at = np.linspace(0, most, 6)
    print("cost       " + "  ".join(f"{c:8.3g}" for c in at), file=sys.stderr)
    for name, paths in found.items():
        errors = []
        for one in paths:
            spent, error = np.array(one).T
            errors.append(error[np.searchsorted(spent, at * (1 + 1e-9), side="right") - 1])
        print(f"{name:<10} " + "  ".join(f"{100 * e:7.3f}%" for e in np.median(errors, axis=0)), file=sys.stderr)


if __name__ == "__main__":
    main()
