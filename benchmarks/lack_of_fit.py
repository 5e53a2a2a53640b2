"""What the tests of lack of fit say of each real table, and what `compare` ranks first there.

    python -m benchmarks.lack_of_fit                          # every public table at hand, under its family's law
    python -m benchmarks.lack_of_fit --runs runs/demo/runs.csv
    python -m benchmarks.lack_of_fit --contest                # and which prediction wins on its forward questions
    python -m benchmarks.lack_of_fit --nominal 200            # how often a right law is rejected, of known truths
    python -m benchmarks.lack_of_fit --markdown FILE          # the tables as Markdown

The public tables lie in `../shared/data` beside the checkout. Ctrl-C prints what is known so far.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.forward import series
from cptlaw import atomic, cache, fitting, laws
from cptlaw.errors import UserError
from cptlaw.fitting import estimate, lack_of_fit, verdicts
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.rows import collect
from cptlaw.fitting.verdicts import LackOfFit

STARTS = 16
TRUTH = {"E": 1.4, "A": 0.45, "alpha": 0.35, "B": 0.12, "beta": 0.4, "eta": 1.4, "C": 0.8, "gamma": 0.5, "eps": 0.12}
# What runs and checkpoints scatter by, drift of a step, bases, checkpoints of a run, settings repeated.
DESIGNS = {
    "run effects .01, checkpoints .0005": {"checkpoint": 5e-4},
    "run effects .01, drift .002 a checkpoint": {"drift": 0.002},
    "one row a run, .01": {"tokens": 1},
    "one setting repeated, once": {"repeated": 1},
    "no repeats": {"repeated": 0},
    "no repeats, drift .005": {"repeated": 0, "drift": 0.005},
    "no repeats, bases .01": {"repeated": 0, "base": 0.01},
    "wrong by .004 along tokens": {"wrong": 0.004},
    "wrong by .004 along tokens, no repeats": {"wrong": 0.004, "repeated": 0},
}


def examined(table: pd.DataFrame, name: str) -> tuple[LackOfFit, int]:
    """The tests of the law's ordinary fit to a table of one corpus, and how many runs it has."""
    law = laws.for_table(name, table)
    (corpus,) = table["eval"].unique()
    rows = collect(table, law, (corpus,))
    problem = estimate.pose(rows, law, Objective(), {})
    best = estimate.optimise(problem, rows.weights, STARTS)
    return lack_of_fit.examine(problem, rows, best.theta)[corpus], len(np.unique(rows.run))


def line(one: series.Series, contest: bool) -> dict[str, object]:
    """What is said of one table."""
    table = one.rows()
    shown: dict[str, object] = {"table": one.name, "law": one.law, "rows": len(table)}
    try:
        found, runs = examined(table, one.law)
    except UserError as error:
        return shown | {"runs": table["run"].nunique(), "verdict": str(error)}
    repeats = f"{found.settings} by {found.runs}" if found.settings else "none"
    shown |= {"runs": runs, "settings repeated": repeats}
    shown |= {"verdict": "rejected" if found.rejected else "not rejected" if found.tests else "no test"}
    shown |= {"p": verdicts.shown(found.p), "because": dataclasses.replace(found, notes=()).words()}
    if contest:
        try:
            ranked = fitting.contest(table, [one.law], auto=False)
            shown |= {"on forward questions": ranked.headline()}
        except UserError as error:
            shown |= {"on forward questions": str(error)}
    return shown


def simulated(
    seed: int,
    run: float = 0.01,
    checkpoint: float = 1e-3,
    drift: float = 0.0,
    base: float = 0.0,
    tokens: int = 6,
    repeated: int = 3,
    wrong: float = 0.0,
) -> pd.DataFrame:
    """D-CPT on 3 sizes and 5 shares; `repeated` settings a size are run three times, wrong along tokens by `wrong`."""
    rng, rows, law = np.random.default_rng(seed), [], laws.get("dcpt")
    for size in (0.1e9, 0.3e9, 1e9):
        effect = base * rng.standard_normal()
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            again = (repeated > 1 and share in (0.1, 0.5, 0.9)) or (repeated == 1 and (size, share) == (0.3e9, 0.5))
            for repeat in range((3 if repeated > 1 else 2) if again else 1):
                d = np.geomspace(0.5e9, 20e9, 6)[-tokens:]
                off = effect + run * rng.standard_normal() + checkpoint * rng.standard_normal(tokens)
                off = off + np.cumsum(drift * rng.standard_normal(tokens)) + wrong * np.sin(1.5 * np.log(d / 1e9))
                x = {"params": size, "tokens": d, "ratio": np.full(tokens, share)}
                loss = np.asarray(law.predict(TRUTH, x)) * np.exp(off)
                rows += [(f"{size:g}-{share}-{repeat}", size, t, share, 1 - share, "code", y) for t, y in zip(d, loss)]
    return pd.DataFrame(rows, columns=["run", "params", "tokens", "w_code", "w_web", "eval", "loss"])


def nominal(count: int) -> Iterator[dict[str, object]]:
    """How often `count` tables of each known truth reject the law that made them (or one that is wrong, if it says so).

    The law is fitted to each from where it came from, so a rejection is none of a fit that went astray.
    """
    for name, design in DESIGNS.items():
        found = []
        for seed in range(count):
            table = simulated(seed, **design)
            law = laws.for_table("dcpt:constrained=false", table)
            rows = collect(table, law, ("code",))
            problem = estimate.pose(rows, law, Objective(), {})
            start = np.array([[TRUTH[parameter] for parameter in problem.free]])
            best = estimate.optimise(problem, rows.weights, start)
            found.append(lack_of_fit.examine(problem, rows, best.theta)["code"])
        by = {
            f"p < .05, {what}": f"{np.mean([t.p < 0.05 for one in found for t in one.tests if t.what == what]):.3f}"
            for what in dict.fromkeys(t.what for one in found for t in one.tests)
        }
        yield {"truth": name, "tables": count, "rejected": f"{np.mean([one.rejected for one in found]):.3f}", **by}


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(table), ["---"] * len(table.columns), *table.fillna("").astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="a runs table beside the public ones (runs/demo/runs.csv)")
    parser.add_argument("--contest", action="store_true", help="rank the law on the table's forward questions too")
    parser.add_argument("--nominal", type=int, default=0, metavar="TABLES", help="tables of each known truth, alone")
    parser.add_argument("--markdown", type=Path, help="write the table in Markdown")
    args = parser.parse_args()
    cache.keep_compiled()
    wanted = [] if args.nominal else [*series.public(), *(series.given(args.runs) if args.runs else [])]
    lines = []
    try:
        for found in nominal(args.nominal) if args.nominal else (line(one, args.contest) for one in wanted):
            lines.append(found)
            print(*found.values(), sep=" | ", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    text = markdown(pd.DataFrame(lines))
    print(text)
    if args.markdown:
        atomic.write_text(args.markdown, text + "\n")


if __name__ == "__main__":
    main()
