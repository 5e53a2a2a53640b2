"""Do predictions hold out of range, on real runs? Forward questions of public tables, and tables of a known truth.

    python -m benchmarks.calibration --runs runs/demo/runs.csv                 # all real tables at hand, and the demo's
    python -m benchmarks.calibration --runs runs/demo/runs.csv --simulated 60  # and so many tables of each known truth
    python -m benchmarks.calibration --real none --simulated 60                # those alone

The public tables lie in `../shared/data` beside the checkout; without them only the rest is asked. Each family of
tables is judged by the prior learned without it (`benchmarks/forward/learn.py`). Beside the predictive distribution
("process") stand the law's own bootstrap interval ("plain"), and the points of the law and of every rival. Ctrl-C
prints what is known so far.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.forward import asked, score, series, simulated
from benchmarks.forward.learn import SHIPPED
from cptlaw import atomic
from cptlaw.fitting import rivals
from cptlaw.fitting.prior import Prior


def priors() -> dict[str, Prior]:
    """Family -> the prior learned without it; "" -> the shipped one."""
    data = json.loads(SHIPPED.read_text())
    return {"": Prior.from_json(data), **{f: Prior.from_json(data | p) for f, p in data.get("left_out", {}).items()}}


def answers(question: asked.Asked, known: dict[str, Prior]) -> pd.DataFrame:
    """A line a row asked and method."""
    process = score.conditioned(question, known.get(question.family, known[""]))
    x = question.columns(question.test)
    # Where the process says that nothing can be said, that is its answer: no method is scored there.
    said = ~process.silent(x)
    found = process.predict(x, "run", question.test["run"].to_numpy())
    out = [
        score.of_predictive(question, "process", found),
        score.lines(question, "plain", question.point, *question.plain),
    ]
    nothing = np.full(len(question.test), np.nan)
    for name, point in rivals.predict(question.train, question.test).items():
        out.append(score.lines(question, name, point, nothing, nothing))
    return pd.concat([one.assign(said=said) for one in out])


def real(args: argparse.Namespace) -> pd.DataFrame:
    wanted = list(series.public()) if args.real == "all" else []
    if args.real == "all" and not wanted:
        print("no public tables beside this checkout: they are skipped", file=sys.stderr)
    wanted += list(series.given(args.runs)) if args.runs else []
    known, rows = priors(), []
    try:
        for i, question in enumerate(asked.ask(wanted), start=1):
            rows.append(answers(question, known))
            if i % 10 == 0:
                so_far = pd.concat(rows)
                cover = so_far[so_far["method"] == "process"]["cover"].mean()
                print(f"{i} questions, {len(so_far)} answers; process covers {cover:.1%}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"interrupted after {len(rows)} questions", file=sys.stderr)
    return pd.concat(rows) if rows else pd.DataFrame()


def of_intervals(rows: pd.DataFrame) -> pd.DataFrame:
    """By kind: cover, width and Winkler's score of the process and of the law's bootstrap, and their ratio."""
    made = score.balanced(rows[rows["method"].isin(["process", "plain"])], ("kind", "method"))
    plain = made[made["method"] == "plain"].groupby("kind")["winkler"].min()
    made["of plain"] = made["winkler"] / made["kind"].map(plain)
    return made[["kind", "method", "cover", "width", "winkler", "of plain", "rows", "questions", "families"]]


def of_points(rows: pd.DataFrame) -> pd.DataFrame:
    """By (kind, family): the process's point error beside the law's, the best rival's and the better of them."""
    answered = rows.groupby(["kind", "family", "series", "what", "method"])["error"].mean().reset_index()
    cells = answered.groupby(["kind", "family", "method"])["error"].agg(["mean", "size"]).reset_index()
    out = []
    for (kind, family), cell in cells.groupby(["kind", "family"], sort=False):
        whole = cell[cell["size"] == cell["size"].max()].set_index("method")["mean"]
        others = whole.drop(["process", "plain"])
        best = others.idxmin()
        line = {"kind": kind, "family": family, "questions": int(cell["size"].max())}
        line |= {"process": whole["process"], "law": whole["plain"], "best rival": others[best], "which": best}
        out.append(line | {"of the best": whole["process"] / min(whole["plain"], others[best])})
    return pd.DataFrame(out)


def show(title: str, table: pd.DataFrame) -> None:
    with pd.option_context("display.width", 200, "display.max_rows", 500, "display.max_columns", 30):
        print(f"\n{title}\n{table.to_string(index=False, float_format=lambda v: f'{v:.4g}')}")


def report(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every table that is shown, by title."""
    own = rows[rows["method"] == "process"]
    steps = pd.concat(
        own[(own["step"] > a) & (own["step"] <= b)].assign(times=f"{a:g} to {b:g}") for a, b in score.STEPS
    )
    size = np.where(own["rows"] < 20, "under 20 rows", "20 rows or more")
    shown = ["cover", "width", "winkler", "error", "rows", "questions", "families"]
    points = of_points(rows)
    means = (
        points.groupby("kind", sort=False)["of the best"].agg(lambda v: float(np.exp(np.log(v).mean()))).reset_index()
    )
    law = np.exp(np.log(points["process"] / points["law"]).mean())
    total = {"kind": "all", "of the best": np.exp(np.log(points["of the best"]).mean())}
    rivals_by_kind = score.balanced(rows, ("kind", "method"))
    return {
        "90% intervals, by kind (losses relative; balanced over families)": of_intervals(rows),
        "the process, by how many times out": score.balanced(steps, ("kind", "times"))[["kind", "times", *shown]],
        "the process, by rows fitted": score.balanced(own.assign(fitted=size), ("kind", "fitted"))[
            ["kind", "fitted", *shown]
        ],
        "the process, by kind and family": score.balanced(own, ("kind", "family"))[["kind", "family", *shown]],
        "mean error of points, by kind (a rival counts the questions that it can answer)": rivals_by_kind[
            ["kind", "method", "error", "questions", "families"]
        ].sort_values(["kind", "error"]),
        "point error of the process beside the law's and the best rival's, in hindsight": points,
        f"the same as geometric means; of the law's alone {law:.3f}": pd.concat([means, pd.DataFrame([total])]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="a runs table beside the public ones (runs/demo/runs.csv)")
    parser.add_argument("--real", choices=("all", "none"), default="all")
    parser.add_argument("--simulated", type=int, default=0, metavar="TABLES", help="tables of each known truth")
    parser.add_argument("--json", type=Path, help="write every table shown")
    args = parser.parse_args()
    tables: dict[str, pd.DataFrame] = {}
    if len(rows := real(args)):
        kept = rows[rows["said"]]
        unsaid = (~rows["said"] & (rows["method"] == "process")).sum()
        print(f"{unsaid} rows are left out: no corpus dropped, no size or tokens so far out, was measured")
        tables |= report(kept)
    if args.simulated:
        made = []
        try:
            for setting in simulated.SETTINGS:
                made += list(simulated.study(setting, args.simulated))
                print(f"simulated: {setting.name}", file=sys.stderr)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
        title = "known truth: cover (of the safe share: how often it breaches), width (share, or nats), mean error"
        tables[title] = simulated.summary(pd.concat(made)) if made else pd.DataFrame()
    for title, table in tables.items():
        show(title, table)
    if args.json:
        whole = {
            title: json.loads(table.to_json(orient="records", double_precision=5)) for title, table in tables.items()
        }
        atomic.write_text(args.json, json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
