"""Does a factor covariate help? Forward questions on real tables whose rows differ in a learning-rate schedule.

    python -m benchmarks.factor DATA      # DATA: gemstones/, resolving_discrepancies/, scalebench/ (their own files)

Each question (`cptlaw.fitting.forward`) is answered by three fits of Chinchilla under the process, on the same test
rows: all rows as if they were alike ("mixed"), all with the factor, and each level from its own rows only ("apart").
"few" keeps a tenth of the rows of all but the most frequent level, as a team has that decays few of its runs.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cptlaw import laws
from cptlaw.errors import UserError
from cptlaw.fitting import estimate, forward
from cptlaw.fitting.condition import condition
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.rows import Rows, collect, with_factor
from cptlaw.laws import Law

GEMSTONES = {"constant": "hot", "cooled": "cool_end", "half rate": "lr_ablation_hot"}


def gemstones(data: Path, *levels: str) -> pd.DataFrame:
    """The ladder's runs at a constant rate, after a cool-down, and at half the rate."""
    found = []
    for level in levels:
        t = pd.read_csv(data / "gemstones" / f"wandb_df_for_fitting_{GEMSTONES[level]}.csv")
        found.append(t.assign(run=t["run_name"] + " " + level, knob=level))
    table = pd.concat(found, ignore_index=True)
    return table.rename(columns={"params_active_precise": "params", "final_loss": "loss"})


def discrepancies(data: Path) -> pd.DataFrame:
    """RefinedWeb: long and short warm-up, decay over the run's own length, a tuned constant rate."""
    t = pd.read_csv(data / "resolving_discrepancies" / "isoflop_points.csv")
    t = t[(t["dataset"] == "rw") & (t["param_count"] == "standard") & (t["val"] == "val")].reset_index(drop=True)
    t = t.assign(run=[f"r{i:04}" for i in range(len(t))], knob=t["hparams"] + " " + t["warmup"] + " " + t["decay"])
    return t.rename(columns={"n": "params", "t": "tokens"})


def rates(data: Path) -> pd.DataFrame:
    """Learning rates in four bins, batch sizes as they come."""
    t = pd.read_csv(data / "scalebench" / "lr_bsz_scaling_law__train.csv")
    t = t.assign(run=[f"r{i:04}" for i in range(len(t))], knob=pd.qcut(t["lr"], 4, labels=["a", "b", "c", "d"]))
    t = t.rename(columns={"non_embedding_param_size": "params", "data_size": "tokens", "lm_loss": "loss"})
    return t.astype({"knob": str})


def tables(data: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    for name, table in (
        ("gemstones, cooled", gemstones(data, "constant", "cooled")),
        ("gemstones, half rate", gemstones(data, "constant", "half rate")),
        ("discrepancies, schedules", discrepancies(data)),
        ("scalebench, rate bins", rates(data)),
    ):
        table = table[["run", "params", "tokens", "knob", "loss"]].assign(eval="web")
        yield name, table
        most = table["knob"].mode()[0]
        kept = (table["knob"] == most) | (np.random.default_rng(0).random(len(table)) < 0.1)
        yield f"{name}, few", table.assign(few=~kept)


def answer(law: Law, rows: Rows, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Absolute log error of the test rows under the process, and whether the 90% interval held."""
    left = replace(rows, held_out=~train)
    problem = estimate.pose(left, law, Objective(), {})
    theta = problem.reported(estimate.optimise(problem, left.weights, estimate.FOLD_STARTS).theta)
    ids = rows.frame["run"].to_numpy()
    process = condition(law, {k: float(v) for k, v in theta.items()}, {k: v[train] for k, v in rows.x.items()},
                        rows.y[train], ids[train].tolist())  # fmt: skip
    found = process.predict({k: v[test] for k, v in rows.x.items()}, "run", ids[test])
    low, high = found.interval(0.9)
    return np.abs(found.mean - np.log(rows.y[test])), (rows.y[test] >= low) & (rows.y[test] <= high)


def ask(table: pd.DataFrame, question: forward.Question) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What each fit makes of one question, on the rows of levels that every fit knows."""
    law = laws.get("chinchilla")
    knob = table["knob"].to_numpy()
    train = question.train & ~table.get("few", pd.Series(False, table.index)).to_numpy()
    known = [k for k in np.unique(knob[question.test]) if (train & (knob == k)).sum() > len(law.params)]
    if "few" in table:
        known = [k for k in known if k != table["knob"].mode()[0]]
    test = question.test & np.isin(knob, known)
    if not test.any():
        return {}
    rows = collect(table, law, ("web",))
    out = {"mixed": answer(law, rows, train, test)}
    factored = with_factor(law, table[train], "knob", ("web",))
    level_known = table["knob"].isin(factored.factor.levels).to_numpy()
    seen = table[level_known]
    out["factor"] = answer(factored, collect(seen, factored, ("web",)), train[level_known], test[level_known])
    error, held = np.empty(len(table)), np.empty(len(table), bool)
    for k in known:
        own = knob == k
        error[test & own], held[test & own] = answer(law, rows, train & own, test & own)
    return out | {"apart": (error[test], held[test])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    args = parser.parse_args()
    print("| table | kind | questions, rows | mixed | factor | apart |\n|---|---|---|---|---|---|")
    for name, table in tables(args.data):
        for kind in ("size", "tokens", "both"):
            found = []
            for question in forward.questions(table, (kind,), 2):
                try:
                    found.append(ask(table, question))
                except UserError as error:
                    print(f"{name}: {question.what}: {error}")
            if not (found := [f for f in found if f]):
                continue
            cells = []
            for way in found[0]:
                error = float(np.mean([f[way][0].mean() for f in found]))
                cells.append(f"{error:.2%}, {np.mean(np.concatenate([f[way][1] for f in found])):.0%}")
            rows = sum(len(f["mixed"][0]) for f in found)
            print(f"| {name} | {kind} | {len(found)}, {rows} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
