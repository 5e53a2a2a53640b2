"""`cptlaw plan gate` on real ladders: how often the interval held, and whether the right recipe was let through.

    python -m benchmarks.gate                 # about five minutes on one core

Ladders: of cpt8, mixes as recipes, sizes up to 323k to be asked at 755k (losses of wiki and of the domain); of 104
models trained on three web corpora (Gadre et al. 2024, arXiv 2403.08540), ladders up to 154M to be asked at 1.4B or
6.9B on seven validation sets. "held": the measured log ratio of the losses lies in the 90% interval, widened by the
noise of the two measured runs (`RUN`); "width" of it in per cent; "error": mean absolute error of the log ratio in per
cent, beside that of the ratio at the largest trained rung ("rival"); "right": the recipe that wins is the one told, of
pairs further apart than `RUN`; "sure": told with 90%, "sure wrong" those that lost.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cptlaw import fitting, tables
from cptlaw.planning.gate import gate, shared_rungs

MODELS = Path(__file__).resolve().parents[2] / "shared" / "data" / "mlfoundations_overtraining" / "models.csv"
RUN = {"cpt8": 0.003, "web corpora": 0.002}  # sd of the log loss between runs
Pair = tuple[str, pd.DataFrame, pd.DataFrame, dict[str, float], float]


def cpt8() -> Iterator[Pair]:
    """(name, the baseline's rows, the candidate's, the target, the measured log ratio)."""
    rows = tables.load("cpt8")
    rows = rows[(rows["lr"] > 0) & (rows["tokens"] <= 786432) & ~rows["run"].str.contains(r"-b\d")]
    rows = rows[rows["seed"] == 0]
    shares = [name for name in rows if name.startswith("w_")]
    keys = ["run", "params", "tokens", "eval", "loss"]
    for corpus in sorted(rows["eval"].unique()):
        own = rows[rows["eval"] == corpus]
        recipes = dict(iter(own[[*keys, *shares]].groupby(shares)))
        recipes = {m: p for m, p in recipes.items() if p["params"].nunique() >= 3 and (p["params"] > 7e5).any()}
        for one, other in itertools.combinations(recipes, 2):
            truth = [float(recipes[m].query("params > 7e5 and params < 1e6 and tokens == 786432")["loss"].iloc[0])
                     for m in (one, other)]  # fmt: skip
            small = [recipes[m][recipes[m]["params"] < 4e5] for m in (one, other)]
            yield "cpt8", *small, {"params": 754816, "tokens": 786432}, float(np.log(truth[1] / truth[0]))


def web_corpora() -> Iterator[Pair]:
    rows = pd.read_csv(MODELS)
    rows = rows.rename(columns={"name": "run", "params_no_embed": "nonembedding"})
    losses = [name for name in rows if name.startswith("loss:") and "openlm" not in name]
    for column in losses:
        table = rows[["run", "params", "tokens"]].assign(loss=rows[column], eval="text", of=rows["train_dataset"])
        table = table[np.isfinite(table["loss"])]
        ladders = dict(iter(table.groupby("of")))
        for one, other in itertools.combinations(sorted(ladders), 2):
            parts = [ladders[name] for name in (one, other)]
            large = [part[part["params"] > 1e9].set_index(["params", "tokens"])["loss"] for part in parts]
            for at in large[0].index.intersection(large[1].index):
                small = [part[part["params"] < 2e8].drop(columns="of") for part in parts]
                ratio = float(np.log(large[1][at] / large[0][at]))
                yield "web corpora", *small, {"params": at[0], "tokens": at[1]}, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=40, help="pairs of each source (default 40)")
    parser.add_argument("--law", default="chinchilla")
    args = parser.parse_args()
    found, fits = [], {}

    def fit(rows: pd.DataFrame) -> fitting.Fit:
        key = (rows["eval"].iloc[0], tuple(rows["loss"]))
        if key not in fits:
            fits[key] = fitting.fit(
                rows, args.law, bootstrap=100, starts=8, hold_out=np.zeros(len(rows), bool), try_remedies=False
            )
        return fits[key]

    for source in (cpt8, web_corpora):
        pairs = list(source())
        chosen = np.sort(np.random.default_rng(0).choice(len(pairs), min(args.most, len(pairs)), replace=False))
        for name, first, second, target, truth in (pairs[i] for i in chosen):
            one, other = fit(first), fit(second)
            said = gate(one, other, **target)
            low, high = np.log(said.interval["loss ratio"])
            middle, noise = np.log(said.point["loss ratio"]), RUN[name] * np.sqrt(2)
            half = (high - low) / 2
            wider = np.hypot(half, 1.645 * noise) - half
            rival = np.log(said.options[0].point["loss ratio"])
            wins = float((said.samples["loss ratio"] < 1).mean())
            apart = abs(truth) > noise
            found.append({
                "source": name, "rungs": len(shared_rungs(one, other)), "held": low - wider <= truth <= high + wider,
                "width": 100 * (high - low), "error": 100 * abs(middle - truth), "rival": 100 * abs(rival - truth),
                "right": ((wins > 0.5) == (truth < 0)) if apart else np.nan,
                "rival right": ((rival < 0) == (truth < 0)) if apart else np.nan,
                "sure": max(wins, 1 - wins) >= 0.9,
                "sure wrong": max(wins, 1 - wins) >= 0.9 and apart and (wins > 0.5) != (truth < 0),
                "saved width": np.diff(said.interval["compute saved"])[0],
            })  # fmt: skip
        own = pd.DataFrame(found).query("source == @name").drop(columns="source").astype(float)
        line = own.mean().round(3).to_dict() | {"median width": round(float(own["width"].median()), 3)}
        print(name, len(own), "of", len(pairs), line, flush=True)


if __name__ == "__main__":
    main()
