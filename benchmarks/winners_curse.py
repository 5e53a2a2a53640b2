"""The winner's curse: what the best of many predicted mixes promises, and what it is found to be.

    python -m benchmarks.winners_curse                # five minutes on an idle core

A few runs of a table are fitted; of all other measured mixes the one predicted best is taken, and its measured loss
compared with the prediction. Tables: mixes of five domains at four sizes (10 runs known), and RegMix's 1M-parameter
runs (24 and 60 known; the 256 test mixes to choose from). "promised", "corrected", "found": mean losses of the choice;
"miss": mean of found less promised (above 0: promised too much); "after": the same with the correction of `cptlaw plan
mixture`; "|miss|", "|after|": mean absolute ones; "regret": of the choice, against the best there was; "factor": the
part of the draws' own optimism that was missing, which `planning.mixture.CURSE` is. The rival is the law alone.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cptlaw import fitting
from cptlaw.planning.mixture import CURSE
from cptlaw.planning.numbers import losses

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TARGETS = ("pile_cc", "github", "stackexchange", "wikipedia_en")
Question = tuple[str, pd.DataFrame, np.ndarray, pd.DataFrame, np.ndarray]


def regmix(split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shares and losses, a row a run."""
    mixes, found = (pd.read_csv(DATA / "regmix" / f"{split}_{what}_1m.csv", index_col="index")
                    for what in ("mixture", "pile_loss"))  # fmt: skip
    mixes.columns = ["w_" + name.removeprefix("train_the_pile_") for name in mixes]
    found.columns = [name.removeprefix("metric/the_pile_").removesuffix("_val_loss") for name in found]
    return mixes.div(mixes.sum(axis=1), axis=0), found.loc[mixes.index]


def questions(repeats: int) -> Iterator[Question]:
    """(name, known mixes, their losses, mixes to choose from, theirs)."""
    (mixes, found), (menu, truth) = regmix("train"), regmix("test")
    domains = pd.concat(
        pd.read_csv(DATA / "scalebench" / f"domain_mixture_scaling_law__{split}.csv") for split in ("train", "test")
    )
    shares = {f"proportion_domain_{k}": f"w_d{k}" for k in range(1, 6)}
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        for _, rows in domains.groupby("group"):
            order = rng.permutation(len(rows))
            mix = rows[list(shares)].rename(columns=shares)
            mix, loss = mix.div(mix.sum(axis=1), axis=0), rows[f"loss_domain_{rng.integers(1, 6)}"].to_numpy()
            known, rest = order[:10], order[10:]
            yield "five domains, 10 runs", mix.iloc[known], loss[known], mix.iloc[rest], loss[rest]
        target = TARGETS[repeat % len(TARGETS)]
        for count in (24, 60):
            known = rng.permutation(len(mixes))[:count]
            loss = found[target].to_numpy()[known]
            yield f"RegMix, {count} runs", mixes.iloc[known], loss, menu, truth[target].to_numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=6)
    args = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    rows = []
    for name, mix, loss, menu, truth in questions(args.repeats):
        table = mix.assign(run=[f"r{i}" for i in range(len(mix))], eval="x", loss=loss).reset_index(drop=True)
        fit = fitting.fit(
            table, "mixing", "x", bootstrap=60, starts=8, hold_out=np.zeros(len(table), bool), try_remedies=False
        )
        for how, one in (("prediction", fit), ("law alone", fit.alone())):
            drawn = losses(one, {column: menu[column].to_numpy() for column in menu})
            drawn = drawn[np.isfinite(drawn).all(axis=1)]
            own, draws = drawn[1:].argmin(axis=1), np.arange(1, len(drawn))
            pick, optimism = int(drawn[0].argmin()), float(np.mean(drawn[0, own] - drawn[draws, own]))
            miss = truth[pick] - drawn[0, pick]
            after = miss - CURSE * optimism
            rows.append({
                "table": name, "by": how, "promised": drawn[0, pick], "corrected": drawn[0, pick] + CURSE * optimism,
                "found": truth[pick], "miss": miss, "after": after, "|miss|": abs(miss), "|after|": abs(after),
                "regret": truth[pick] - truth.min(), "factor": optimism,
            })  # fmt: skip
    found = pd.DataFrame(rows).groupby(["table", "by"]).mean()
    found["factor"] = found["miss"] / found["factor"]
    print(found.round(4).to_string())


if __name__ == "__main__":
    main()
