"""The verdicts that the header of configs/usages.py registered, read from the workdir of its study.

    cptlaw study configs/usages.py:share --workdir runs/usages
    python -m benchmarks.usages --workdir runs/usages

The workdir holds the answer of the question that was asked last; the study of another question of the same grid trains
nothing but its confirming runs, so each is asked again in seconds.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.registered import GENERAL, crossing
from cptlaw import runs
from cptlaw.planning.decision import Decision

POINTS, WITHIN = 0.10, 0.01


def share_of(rows: pd.DataFrame, corpus: str, share: float) -> float:
    """The loss at a share, straight between the measured ones."""
    mean = rows[rows["eval"] == corpus].groupby(f"w_{corpus}")["loss"].mean()
    return float(np.interp(share, mean.index, mean))


def share(grid: pd.DataFrame, confirmed: pd.DataFrame, domain: str, decision: Decision) -> str:
    """Passes if the mean general loss is under the ceiling, and the share within 10 points of the measured crossing."""
    ceiling, said = decision.inputs["ceiling"], decision.point["share"]
    at = grid[(grid["params"] == decision.inputs["params"]) & (grid["tokens"] == decision.inputs["tokens"])]
    general = at[at["eval"] == GENERAL].groupby(f"w_{domain}")["loss"].mean()
    wanted = crossing(general.index.to_numpy(), general.to_numpy(), ceiling)
    loss = confirmed.loc[confirmed["eval"] == GENERAL, "loss"]
    passes = loss.mean() <= ceiling and abs(said - wanted) <= POINTS
    return (
        f"share {said:.3f}, the ceiling of {ceiling:.4f} is crossed at {wanted:.3f} by shares "
        f"{', '.join(f'{x:g}' for x in general.index)}; general loss {loss.mean():.4f} of {len(loss)} runs: "
        + ("passes" if passes else "fails")
    )


def budget(grid: pd.DataFrame, confirmed: pd.DataFrame, domain: str, decision: Decision) -> str:
    """Passes if the domain loss is at most 1% above the best size's at the same FLOPs, as far as the grid goes."""
    flops, share = decision.inputs["flops"], decision.inputs["share"]
    loss, others = confirmed.loc[confirmed["eval"] == domain, "loss"].mean(), {}
    for size, rows in grid[grid["tokens"] > 0].groupby("params"):
        tokens = sorted(rows["tokens"].unique())
        at = [share_of(rows[rows["tokens"] == n], domain, share) for n in tokens]
        bought = flops / (6 * size)
        beyond = "" if bought <= tokens[-1] else f" at {tokens[-1] / bought:.0%} of its tokens, the most there are"
        others[f"{size:.3g}"] = float(np.interp(np.log(bought), np.log(tokens), at)), beyond
    best = min(value for value, _ in others.values())
    listed = "; ".join(f"{size} parameters {value:.4f}{beyond}" for size, (value, beyond) in others.items())
    verdict = "passes" if loss <= (1 + WITHIN) * best else "fails"
    return f"size {decision.point['params']:.3g}, domain loss {loss:.4f}; by the grid: {listed}: {verdict}"


def limited(grid: pd.DataFrame, confirmed: pd.DataFrame, domain: str, decision: Decision) -> str:
    """Passes if the domain loss is at most 1% above the best of the shares that the planned size was trained at."""
    at = grid[(grid["params"] == decision.inputs["params"]) & (grid["tokens"] == grid["tokens"].max())]
    trained = at[at["eval"] == domain].groupby(f"w_{domain}")["loss"].mean()
    loss = confirmed.loc[confirmed["eval"] == domain, "loss"].mean()
    listed = ", ".join(f"{value:.4f} at {x:g}" for x, value in trained.items())
    verdict = "passes" if loss <= (1 + WITHIN) * trained.min() else "fails"
    return f"share {decision.point['share']:.3f}, domain loss {loss:.4f}; trained: {listed}: {verdict}"


ASKED = {"trade-off": share, "budget": budget, "limited-data": limited}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    args = parser.parse_args()
    grid = runs.read(args.workdir / "runs.csv")
    for path in sorted(args.workdir.glob("answer-*.json")):
        domain, decision = path.stem.removeprefix("answer-"), Decision.load(path)
        if not (path := args.workdir / f"confirm-{domain}.csv").is_file():
            print(f"{decision.kind}, {domain}: not confirmed yet")
            continue
        confirmed = runs.read(path)
        confirmed = confirmed[confirmed["tokens"] == confirmed["tokens"].max()]
        own = runs.of_mixes(grid, (GENERAL, domain), (GENERAL, domain))
        print(f"{decision.kind}, {domain}: {ASKED[decision.kind](own, confirmed, domain, decision)}")
        for corpus, said in decision.losses.items():
            measured = confirmed.loc[confirmed["eval"] == corpus, "loss"]
            if len(measured):
                low, high = said["low"], said["high"]
                inside = int(((low <= measured) & (measured <= high)).sum())
                print(f"    {corpus}: predicted {said['point']:.4f} ({low:.4f} to {high:.4f}), measured "
                      f"{measured.mean():.4f}: {inside} of {len(measured)} inside")  # fmt: skip


if __name__ == "__main__":
    main()
