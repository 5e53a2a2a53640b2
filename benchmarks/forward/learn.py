"""Learns the prior that `cptlaw/fitting/prior.json` ships, from forward questions of the public tables.

    python -m benchmarks.forward.learn --runs runs/demo/runs.csv              # searches, prints, changes nothing
    python -m benchmarks.forward.learn --runs runs/demo/runs.csv --write      # and writes prior.json

A coordinate search from the shipped prior, up and down in every scale, spread and length, for the largest mean log
score of the rows asked. The base's scale is not searched, since no table here repeats a base: it is set by what
`benchmarks/calibration.py --simulated` finds with and without base noise. A table's own scales are found again inside
every question, from its fitted rows alone. Means are over rows, questions, families, then kinds. For each family the
best setting without it is kept too: what judges the family. Settings tried are kept in `.cache/forward`, so an
interrupted search goes on.
"""

import argparse
import copy
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.forward import asked, score, series
from cptlaw import atomic
from cptlaw.fitting import kernels
from cptlaw.fitting.prior import Prior

SHIPPED = Path(series.ROOT) / "cptlaw" / "fitting" / "prior.json"
SPREADS = {
    "noise": ("checkpoint", "run", "drift"),
    "law": ("size", "tokens", "size x tokens"),
    "mix": ("mix", "mix x size", "mix x tokens"),
}
FLOOR = -4.0  # of a row's log score: one lost row must not outweigh a family
GAIN = 2e-3  # of the score, for a step to be worth taking
# Series that repeat another's runs on another loss teach less than they cost.
LEFT_OUT = ("gemstones dclm", "gemstones lower rate", "olmo pile", "overtraining rw_original c4")


def moves(setting: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every neighbour of a setting, named."""
    out: list[tuple[str, dict[str, Any]]] = []

    def vary(name: str, factor: float, change: Any) -> None:
        for word, by in (("up", factor), ("down", 1 / factor)):
            new = copy.deepcopy(setting)
            change(new, by)
            out.append((f"{name} {word}", new))

    for term in sorted(set(setting["scales"]) - {"base", *kernels.DOMAINS}, key=list(setting["scales"]).index):
        vary(term, 1.5, lambda s, by, t=term: s["scales"][t].__setitem__(0, round(s["scales"][t][0] * by, 6)))
    for group, terms in SPREADS.items():
        vary(f"spread {group}", 1.4, lambda s, by, ts=terms: [
            s["scales"][t].__setitem__(1, round(s["scales"][t][1] * by, 3)) for t in ts])  # fmt: skip
    for axis in setting["lengths"]:
        vary(f"length {axis}", 1.4, lambda s, by, a=axis: s["lengths"].__setitem__(a, round(s["lengths"][a] * by, 3)))
    vary("rows", 1.6, lambda s, by: s.__setitem__("rows", round(s["rows"] * by)))
    vary("offset", 2.5, lambda s, by: s.__setitem__("offset", round(s["offset"] * by, 5)))
    return out


def by_family(questions: Sequence[asked.Asked], setting: dict[str, Any], store: Path) -> pd.Series:
    """Score by (kind, family)."""
    known = {k: setting[k] for k in ("scales", "lengths", "offset", "rows", "df")}
    named = json.dumps([known, [(q.series, q.question.what) for q in questions]], sort_keys=True)
    kept = store / f"setting-{hashlib.sha256(named.encode()).hexdigest()[:20]}.json"
    if not kept.is_file():
        prior = Prior.from_json(setting)
        rows = pd.concat([score.of_predictive(q, "process", score.answered(q, prior)) for q in questions])
        rows["log_score"] = rows["log_score"].clip(lower=FLOOR)
        found = score.balanced(rows, ("kind", "family"))
        atomic.write_text(kept, found[["kind", "family", "log_score"]].to_json(orient="records"))
    return pd.DataFrame(json.loads(kept.read_text())).set_index(["kind", "family"])["log_score"]


def overall(scores: pd.Series, without: str | None = None) -> float:
    """Mean over families, then kinds."""
    left = scores[scores.index.get_level_values("family") != without]
    return float(left.groupby("kind").mean().mean())


def search(
    questions: Sequence[asked.Asked], start: dict[str, Any], sweeps: int, store: Path
) -> list[tuple[dict, pd.Series]]:
    """All settings tried with their scores, the best last."""
    tried = [(start, by_family(questions, start, store))]
    best, value = start, overall(tried[0][1])
    print(f"{'start':24} {value:.4f}", file=sys.stderr)
    for _ in range(sweeps):
        before, skip = value, ""
        for name, _ in moves(best):
            if name == skip:
                continue
            new = dict(moves(best))[name]
            scores = by_family(questions, new, store)
            tried.append((new, scores))
            if (now := overall(scores)) > value + GAIN:
                best, value = new, now
                skip = name.replace(" up", " down")
                print(f"{name:24} {value:.4f}", file=sys.stderr)
        if value - before < 2 * GAIN:
            break
    tried.append((best, by_family(questions, best, store)))
    return tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="runs table of the demo (runs/demo/runs.csv)")
    parser.add_argument("--sweeps", type=int, default=2)
    parser.add_argument("--most", type=int, default=2, help="questions of a kind and series (default 2)")
    parser.add_argument("--write", action="store_true", help="write cptlaw/fitting/prior.json")
    args = parser.parse_args()
    if series.PUBLIC is None:
        raise SystemExit("no public tables beside this checkout: nothing to learn from")
    wanted = [s for s in series.public() if s.name not in LEFT_OUT] + (
        list(series.given(args.runs)) if args.runs else []
    )
    questions = list(asked.ask(wanted, most=args.most))
    shipped = json.loads(SHIPPED.read_text())
    tried = search(
        questions, {k: shipped[k] for k in ("scales", "lengths", "offset", "rows", "df")}, args.sweeps, asked.STORE
    )
    best, scores = tried[-1]
    families = sorted(set(scores.index.get_level_values("family")))
    left_out = {f: max(tried, key=lambda one, f=f: overall(one[1], f))[0] for f in families}
    rows = sum(len(q.test) for q in questions)
    made = {
        **best,
        "left_out": left_out,
        "provenance": {
            "command": "python -m benchmarks.forward.learn --runs runs/demo/runs.csv --write",
            "what": "coordinate search for the largest mean log score of forward questions of public tables",
            "questions": len(questions), "rows": rows, "families": families, "settings": len(tried),
            "base": "set by the simulated tables: no public table repeats a base",
            "df": "set with the widening of few runs, by the cover of forward questions and simulated shares",
            "score": round(overall(scores), 4),
            "score_without_its_family": {f: round(overall(scores, f), 4) for f in families},
        },
    }  # fmt: skip
    for name, (middle, wide) in best["scales"].items():
        print(f"{name:16} {middle:.4f} {wide:.2f}")
    print(f"{best['lengths']} offset {best['offset']} rows {best['rows']}: {overall(scores):.4f} on {len(questions)}")
    for family, setting in left_out.items():
        print(f"without {family:18} {'the same' if setting == best else 'another setting'}")
    print(scores.unstack("kind").round(3).to_string())
    if args.write:
        atomic.write_text(SHIPPED, json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
