"""The D-CPT paper's evaluation (Que et al. 2024, arXiv 2406.01375) on the shipped table of continual pre-training.

    python -m benchmarks.paper                      # every protocol on cpt8, in minutes on 2 cores
    python -m benchmarks.paper --table runs.csv --general prose --learnability 1e5,4e5
    python -m benchmarks.paper --only domains       # one of: all, size, tokens, ratio_pairs, largest, domains

Laws L1 to L7 are fitted to each domain's own runs, for the general loss (G) and the domain loss (D); R2 and Huber (sum
over points of log errors, delta 1e-3, divided by the points) are means over domains. "L3 corrected" is L3 under the
predictive process. "largest", which the paper has not, leaves out the largest size alone, and there stands "auto" too:
the law that each table's own forward questions choose, under the process. The paper's figures, of six domains and
Qwen1.5 0.5B to 4B, stand beside.
"""

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cptlaw import atomic, cache, cores, laws, runs
from cptlaw.errors import UserError
from cptlaw.fitting import Fit, estimate, folds, unseen
from cptlaw.fitting.condition import condition
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.rows import Rows, bases, collect
from cptlaw.fitting.scores import score
from cptlaw.fitting.solver import draw_starts, solve

FORMS = {
    "L1": "dcpt_l1", "L2": "dcpt_l2", "L3": "dcpt:constrained=false", "L4": "dcpt_l4", "L5": "dcpt_l5",
    "L6": "dcpt_l6", "L7": "dcpt_l7",
}  # fmt: skip
PROTOCOLS = ("all", "size", "tokens", "ratio_pairs", "largest")
STARTS = 24
ROWS = 64  # tables are filled up to a whole number of these, so that those of nearly one length are one program
CORRECTED = "L3 corrected"
# Table of the paper for fits on all points: Huber G, Huber D, R2 G, R2 D; other forms have no figures there.
PAPER = {
    "L1": (0.0064, 0.0169, 0.9945, 0.9767), "L2": (0.0050, 0.0166, 0.9965, 0.9783),
    "L3": (0.0048, 0.0157, 0.9968, 0.9796), "L4": (0.0066, 0.0160, 0.9936, 0.9784),
    "L5": (0.0328, 0.0438, 0.9496, 0.9512),
}  # fmt: skip


def read(args: argparse.Namespace) -> pd.DataFrame:
    """The table, its domains pooled; rows that end a cool-down are another series, and are left out."""
    if args.table is None:
        from cptlaw import tables

        table = tables.load("cpt8")
    else:
        table = runs.read(args.table)
    table = constant_rate(table)
    pooled = runs.by_domain(table[table["tokens"] > 0], args.general, args.learnability)
    if args.largest:
        pooled = pooled[pooled["params"] <= args.largest]
    return pooled.reset_index(drop=True)


def constant_rate(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a runs table that do not end a cool-down, where it tells."""
    if not {"lr", "lr_anneal"} <= set(table):
        return table
    constant = (table["tokens"] == 0) | (table["lr"] >= 0.99 * table["lr"].max())
    print(f"{(~constant).sum()} rows of cool-downs are left out", file=sys.stderr)
    return table[constant].reset_index(drop=True)


def left_out(law: laws.Law, rows: Rows, protocol: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Predictions (rows,) of rows that their fit did not see, and the masks of the folds; "all": of a fit of all."""
    masks, filled = folds_of(rows, protocol), -len(rows.y) % ROWS
    problem = estimate.pose(rows.take(np.r_[np.arange(len(rows.y)), np.zeros(filled, int)]), law, Objective(), {})
    begin = draw_starts(problem, STARTS, 0)
    total, count = np.zeros(len(rows.y)), np.zeros(len(rows.y))
    for mask in masks:
        weights = np.r_[(~mask).astype(float), np.zeros(filled)]
        found = solve(problem, begin, lambda i, w=weights: np.tile(w, (len(i), 1)), project=True)
        one = found.theta[np.where(np.isfinite(found.value), found.value, np.inf).argmin()]
        asked = ~mask if protocol == "all" else mask
        total[asked] += np.log(np.asarray(law.predict(problem.reported(one), rows.x), float)[asked])
        count[asked] += 1
    return np.exp(total / np.maximum(count, 1)), masks


def folds_of(rows: Rows, protocol: str) -> list[np.ndarray]:
    """The masks (rows,) of what is left out in turn; of "all", nothing."""
    if protocol == "all":
        return [np.zeros(len(rows.y), bool)]
    if protocol == "largest":
        return [(rows.frame["params"] == rows.frame["params"].max()).to_numpy()]
    return [mask for _, mask in folds.make(protocol, rows)]


def chosen(rows: Rows, corpus: str, masks: list[np.ndarray]) -> np.ndarray:
    """Predictions (rows,) of law auto, which sees none of the left-out rows when it is chosen."""
    (mask,) = masks
    frame = rows.frame.reset_index(drop=True)
    fit = estimate.fit(frame, "auto", corpus, bootstrap=0, hold_out=mask)
    return fit.predict(**law_columns(fit, frame)).point


def law_columns(fit: Fit, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """What the fit's law reads of rows of a runs table."""
    known = rows.assign(ratio=runs.ratio(rows, str(fit.eval)))
    return {name: known[name].to_numpy() for name in fit.law.columns}


def corrected(law: laws.Law, rows: Rows, masks: list[np.ndarray]) -> np.ndarray:
    """The same of the process on `law`, whose start is the fit of all: it moves the parameters itself."""
    problem = estimate.pose(rows, law, Objective(), {})
    total, count = np.zeros(len(rows.y)), np.zeros(len(rows.y))
    run, base = rows.frame["run"].astype(str).to_numpy(), bases(rows.frame)
    for mask in masks:
        left = replace(rows, held_out=mask)
        theta = problem.reported(estimate.optimise(problem, left.weights, 4, 0).theta)
        process = condition(
            law, {k: float(v) for k, v in theta.items()}, {k: v[~mask] for k, v in rows.x.items()}, rows.y[~mask],
            run[~mask].tolist(), None if base is None else [b for b, out in zip(base, mask) if not out],
        )  # fmt: skip
        total[mask] += process.predict({k: v[mask] for k, v in rows.x.items()}, "run", run[mask]).mean
        count[mask] += 1
    return np.exp(total / np.maximum(count, 1))


def protocol(own: pd.DataFrame, general: str, name: str, domain: str) -> list[dict]:
    """A line a loss and law, of one domain's rows."""
    cache.keep_compiled()
    lines = []
    for letter, corpus in (("G", general), ("D", runs.DOMAIN)):
        for form, text in FORMS.items():
            law = laws.for_table(text, own)
            rows = collect(own.reset_index(drop=True), law, (corpus,))
            try:
                predicted, masks = left_out(law, rows, name)
            except UserError as error:
                print(f"{name}, {domain}, {letter}, {form}: {error}", file=sys.stderr)
                continue
            lines.append(_line(name, domain, letter, form, rows, predicted, masks))
            if form == "L3" and name != "all":
                lines.append(_line(name, domain, letter, CORRECTED, rows, corrected(law, rows, masks), masks))
            if form == "L3" and name == "largest":
                lines.append(_line(name, domain, letter, "auto", rows, chosen(rows, corpus, masks), masks))
    return lines


def left_out_domains(table: pd.DataFrame, corpus: str, tokens: list[float], leave: int) -> unseen.Unseen:
    """`unseen.leave_out` in a process of its own."""
    cache.keep_compiled()
    return unseen.leave_out(table, corpus, tokens=tokens, leave=leave)


def _line(name: str, domain: object, letter: str, form: str, rows: Rows, predicted: np.ndarray, masks: list) -> dict:
    seen = np.any(masks, axis=0) if name != "all" else np.ones(len(rows.y), bool)
    found = score(rows.y[seen], predicted[seen])
    about = {"protocol": name, "domain": domain, "loss": letter, "law": form, "folds": len(masks)}
    return {**about, "rows": int(seen.sum()), "huber": found["huber"] / seen.sum(), **{
        k: found[k] for k in ("mean_log", "r2")}}  # fmt: skip


def summary(lines: pd.DataFrame) -> pd.DataFrame:
    """A line a protocol and law: means over domains, the paper's figures beside."""
    wide = lines.pivot_table(index=["protocol", "law"], columns="loss", values=["huber", "r2", "mean_log"], sort=False)
    wide.columns = [f"{a} {b}" for a, b in wide.columns]
    out = wide[[f"{a} {b}" for a in ("huber", "r2", "mean_log") for b in "GD"]].reset_index()
    known = out["law"].map(PAPER).where(out["protocol"] == "all")
    for i, column in enumerate(("huber G", "huber D", "R2 G", "R2 D")):
        out[f"paper: {column}"] = [v[i] if isinstance(v, tuple) else np.nan for v in known]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="another runs table whose runs mix one domain each")
    parser.add_argument("--general", default="wiki", help="its general corpus (default wiki)")
    parser.add_argument(
        "--learnability", type=lambda t: [float(v) for v in t.split(",")], default=[98304.0, 196608.0, 393216.0],
        metavar="T0,T1,T2", help="tokens of the probe (default 98304,196608,393216)",
    )  # fmt: skip
    parser.add_argument("--largest", type=float, default=1e6, help="largest size fitted (default 1e6: 3m is held out)")
    parser.add_argument("--only", choices=(*PROTOCOLS, "domains"), action="append", help="only this; may be repeated")
    parser.add_argument("--leave", type=int, default=2, help="domains left out at a time, at most (default 2)")
    parser.add_argument("--json", type=Path, help="write every line")
    args = parser.parse_args()
    cache.keep_compiled()
    table = read(args)
    domains, wanted = sorted(set(table["mixed_in"])), args.only or [*PROTOCOLS, "domains"]
    print(f"{len(table)} rows of {table['run'].nunique()} runs, domains {', '.join(domains)}\n")
    lines: list[dict] = []
    made: dict[str, list] = {}
    begun = time.time()
    # A core has a process of its own; what is left out by domains takes longest, so it begins first.
    with ProcessPoolExecutor(cores.usable(), mp_context=multiprocessing.get_context("spawn")) as pool:
        losses = {"D": runs.DOMAIN, "G": args.general}
        apart = {
            (leave, letter): pool.submit(left_out_domains, table, corpus, args.learnability, leave)
            for leave in range(args.leave if "domains" in wanted else 0, 0, -1) for letter, corpus in losses.items()
        }  # fmt: skip
        asked = [
            pool.submit(protocol, own, args.general, name, domain)
            for name in PROTOCOLS if name in wanted for domain, own in table.groupby("mixed_in", sort=True)
        ]  # fmt: skip
        lines = [line for one in asked for line in one.result()]
        found = {key: one.result() for key, one in sorted(apart.items())}
    with pd.option_context("display.width", 220, "display.max_columns", 30, "display.max_rows", 500):
        if lines:
            print(summary(pd.DataFrame(lines)).to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep=""))
            made["laws"] = lines
        for (leave, letter), one in found.items():
            print(f"\nleave {leave} of {len(domains)} domains out, loss {letter}")
            print(one.summary().to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep=""))
            made[f"leave {leave} {letter}"] = json.loads(one.table.to_json(orient="records"))
    print(f"\n{time.time() - begun:.0f} s", file=sys.stderr)
    if args.json:
        atomic.write_text(args.json, json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
