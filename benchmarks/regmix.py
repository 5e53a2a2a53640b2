"""RegMix: laws fitted to 512 runs of 1M parameters, judged on runs of 60M and 1B that they never saw, beside LightGBM.

    python benchmarks/regmix.py                              # our law
    python benchmarks/regmix.py --peer-python PEER/bin/python  # and LightGBM, from an environment that has it

Spearman x 100 of every corpus's predicted and measured losses, and the regret of the recommended mix: of the measured
1B runs, the one predicted best, against the one that is; nats. A pick at random has the regret of the last column.
LightGBM is the authors' notebook's (1000 rounds, learning rate 0.01, seed 42) without its early stopping on the test
set; the data's own page gives 98.96 (1M), 98.41 (60M), 94.84 (1B) for it, and 84.45, 84.28, 73.36 for a linear model
of log loss.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "regmix"
SETS = ("train_1m", "test_1m", "test_60m", "test_1B")


def read(which: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shares (runs, corpora), normalised, and losses (runs, corpora)."""
    split, size = which.split("_")
    mixture = pd.read_csv(DATA / f"{split}_mixture_{size}.csv", index_col="index")
    loss = pd.read_csv(DATA / f"{split}_pile_loss_{size}.csv", index_col="index").loc[mixture.index]
    mixture.columns = ["w_" + c.removeprefix("train_the_pile_") for c in mixture]
    loss.columns = [c.removeprefix("metric/the_pile_").removesuffix("_val_loss") for c in loss]
    return mixture.div(mixture.sum(axis=1), axis=0), loss


def of_law(law: str, starts: int, corpora: list[str] | None = None) -> dict[str, dict[str, list[float]]]:
    """Test set -> corpus -> predicted losses."""
    from cptlaw import cache, fitting, runs

    cache.keep_compiled()
    mixture, losses = read("train_1m")
    tests = {which: read(which)[0] for which in SETS[1:]}
    found: dict = {which: {} for which in tests}
    for corpus in corpora or losses:
        table = mixture.assign(run=mixture.index.astype(str), eval=corpus, loss=losses[corpus])
        fit = fitting.fit(table, law, bootstrap=0, starts=starts, hold_out=np.zeros(len(table), bool))
        for which, test in tests.items():
            shares = {name: test[f"w_{name}"].to_numpy() for name in runs.corpora(test)}
            found[which][corpus] = fit.predict(shares=shares, target="law").point.tolist()
    return found


def of_lightgbm() -> dict[str, dict[str, list[float]]]:
    """The same of gradient-boosted trees."""
    import lightgbm

    mixture, losses = read("train_1m")
    found: dict = {which: {} for which in SETS[1:]}
    settings = {"objective": "regression", "metric": ["l1", "l2"], "seed": 42, "learning_rate": 1e-2}
    settings |= {"verbosity": -1, "num_threads": 1}
    for corpus in losses:
        data = lightgbm.Dataset(mixture.to_numpy(), losses[corpus].to_numpy())
        trees = lightgbm.train(settings, data, num_boost_round=1000)
        for which in SETS[1:]:
            found[which][corpus] = trees.predict(read(which)[0].to_numpy()).tolist()
    return found


def judge(found: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """A row a corpus, and their mean loss: rank correlations, and the regret of the 1B run predicted best."""
    lines = {}
    for corpus in [*found["test_1B"], "mean loss"]:
        line = {}
        for which in SETS[1:]:
            truth, guess = read(which)[1], pd.DataFrame(found[which], index=read(which)[1].index)
            truth, guess = ({**frame, "mean loss": frame.mean(axis=1)} for frame in (truth[guess.columns], guess))
            line[which] = 100 * truth[corpus].rank().corr(guess[corpus].rank())
        measured, predicted = truth[corpus], guess[corpus]  # of the 1B runs, the last set
        line["regret at 1B"] = measured[predicted.idxmin()] - measured.min()
        line["of a random run"] = measured.mean() - measured.min()
        lines[corpus] = line
    return pd.DataFrame(lines).T


def scores(law: str, corpora: list[str] | None = None, starts: int = 8) -> pd.DataFrame:
    """Rank correlations of a law's predictions for these corpora (all)."""
    return judge(of_law(law, starts, corpora)).drop(index="mean loss")[list(SETS[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--law", default="mixing")
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--peer-python", metavar="PYTHON", help="of an environment with lightgbm and pandas")
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer:
        json.dump(of_lightgbm(), sys.stdout)
        return
    begin = time.time()
    found = {args.law: of_law(args.law, args.starts)}
    print(f"{len(found[args.law]['test_1B'])} fits of {args.law} in {time.time() - begin:.0f} s")
    if args.peer_python:
        done = subprocess.run([args.peer_python, __file__, "--peer"], capture_output=True, text=True, check=True)
        found["lightgbm"] = json.loads(done.stdout)
    for name, predictions in found.items():
        table = judge(predictions)
        corpora = table.drop(index="mean loss")
        print(f"\n{name}\n{table.round(4).to_string()}\nmean of {len(corpora)}: {corpora.mean().round(4).to_dict()}")


if __name__ == "__main__":
    main()
