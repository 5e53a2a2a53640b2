"""The end of real runs from their beginnings, beside rules without a model: errors, and how often the interval held.

    python -m benchmarks.prefix                    # cpt8 and Gemstones; about ten minutes on one core
    python -m benchmarks.prefix --most 15          # fewer runs a question

A question is one run, cut off at a share of its tokens; its last loss is asked. Earlier runs are those of smaller
models ("smaller"), of the same or smaller models on other domains ("other domains"), or none ("alone"). Errors are mean
absolute errors of the log loss; "held" is the share of 90% intervals that held, "width" the median interval over the
loss. Rivals: the last loss carried forward ("carried"), L = E + B t^-b by least squares through the run's own losses
("power law", where it has three), the run's last loss moved as the most similar earlier run moved ("shifted").
"settled" counts ceilings, one a run at the median final loss of its question's runs, of which was said broken or kept
with 90% at that share, and "wrong" those that ended otherwise.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from cptlaw import tables
from cptlaw.errors import UserError
from cptlaw.fitting.prefix import Curve, curves, ending

GEMSTONES = Path(__file__).resolve().parents[2] / "shared" / "data" / "gemstones"
PARTS = (0.125, 0.25, 0.5)
Earlier = Callable[[Curve], list[Curve]]


def cpt8() -> Iterator[tuple[str, list[Curve], Earlier]]:
    """(question, runs, the earlier runs of each)."""
    everything = curves(tables.load("cpt8"))
    for cooled in (False, True):
        all_of_them = [one for one in everything if one.cooled == cooled]
        for kind in ("general", "domain"):
            own = [one for one in all_of_them if (one.eval == "wiki") == (kind == "general")]
            for name, asked in {
                "": [one for one in own if one.tokens[-1] < 1e6],
                ", 3M tokens": [one for one in own if one.tokens[-1] > 2e6],
            }.items():
                words = f"cpt8 {kind}{', cooled' if cooled else name}"
                if not asked:
                    continue
                larger = [one for one in asked if one.params > 5e4]
                yield f"{words}: smaller", larger, lambda run, own=own: [k for k in own if k.params < 0.9 * run.params]
                if kind == "domain":
                    yield (
                        f"{words}: other domains",
                        asked,
                        lambda run, own=own: [k for k in own if k.params < 1.1 * run.params and k.eval != run.eval],
                    )
                if not cooled:
                    yield f"{words}: alone", asked, lambda run: []


def gemstones() -> Iterator[tuple[str, list[Curve], Earlier]]:
    """The same of pre-training at a constant rate, 22 shapes of 50M to 2B parameters, to 350B tokens and to 100B."""
    names = {"run_name": "run", "params_active_precise": "params"}
    for file, columns in (
        ("other_validation_losses.csv", ("fineweb_edu_loss", "fineweb_dclm_loss")),
        ("wandb_df_for_fitting_hot_100b+.csv", ("final_loss",)),
        ("wandb_df_for_fitting_lr_ablation_hot.csv", ("final_loss",)),
    ):
        rows = pd.read_csv(GEMSTONES / file).rename(columns=names)
        for column in columns:
            table = rows[["run", "params", "tokens"]].assign(loss=rows[column], eval=column)
            own = curves(table.drop_duplicates(["run", "tokens"]))
            words = f"gemstones {column}" + (", half rate" if "lr_ablation" in file else "")
            yield f"{words}: smaller", own, lambda run, own=own: [k for k in own if k.params < 0.95 * run.params]
            yield f"{words}: alone", own, lambda run: []


def power_law(curve: Curve, tokens: float) -> float:
    """E + B t^-b by least squares through a curve's points, at `tokens`; NaN with fewer than three."""
    if len(curve.tokens) < 3:
        return np.nan
    t, y = curve.tokens / curve.tokens[-1], curve.loss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = curve_fit(
                lambda t, e, b, p: e + b * t**-p, t, y, (0.8 * y[-1], 0.2 * y[-1], 0.3),
                bounds=([0, -np.inf, 0.01], [np.inf, np.inf, 3]), max_nfev=2000,
            )[0]  # fmt: skip
        except RuntimeError:
            return np.nan
    return float(found[0] + found[1] * (tokens / curve.tokens[-1]) ** -found[2])


def judge(asked: Sequence[Curve], earlier: Earlier, part: float, most: int) -> dict[str, float]:
    """A line of the table."""
    rng = np.random.default_rng(0)
    if len(asked) > most:
        asked = [asked[i] for i in sorted(rng.choice(len(asked), most, replace=False))]
    found = []
    for run in asked:
        so_far, end = run.until(part * run.tokens[-1]), float(run.tokens[-1])
        if not len(so_far.tokens):
            continue
        try:
            said = ending(so_far, end, earlier(run), cooled=run.cooled)
        except UserError:
            continue
        truth = float(run.loss[-1])
        rivals = {"carried": so_far.loss[-1], "power law": power_law(so_far, end), "shifted": said.nearest}
        found.append(
            {
                "prediction": abs(np.log(said.point / truth)),
                **{name: abs(np.log(max(value, 1e-9) / truth)) for name, value in rivals.items()},
                "held": float(said.low <= truth <= said.high),
                "width": (said.high - said.low) / truth,
                "truth": truth,
                "said": said,
            }
        )
    if not found:
        return {}
    rows = pd.DataFrame(found)
    ceiling = rows["truth"].median()
    broken = np.array([said.above(ceiling) for said in rows["said"]])
    sure = (broken > 0.9) | (broken < 0.1)
    wrong = sure & ((broken > 0.5) != (rows["truth"] > ceiling))
    means = rows.drop(columns=["truth", "said", "width"]).mean()
    return {"n": len(rows), **means, "width": rows["width"].median(), "settled": sure.sum(), "wrong": wrong.sum()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=40, help="runs a question (default 40)")
    parser.add_argument("--only", default="", help="questions whose name holds this")
    args = parser.parse_args()
    lines = []
    for questions in (cpt8(), gemstones()):
        for words, asked, earlier in questions:
            if args.only not in words:
                continue
            for part in PARTS:
                if line := judge(asked, earlier, part, args.most):
                    lines.append({"question": words, "seen": part, **line})
                    print(pd.DataFrame(lines[-1:]).round(4).to_string(header=len(lines) == 1, index=False), flush=True)
    print("\n" + pd.DataFrame(lines).round(4).to_string(index=False))


if __name__ == "__main__":
    main()
