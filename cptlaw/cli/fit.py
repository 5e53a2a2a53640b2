"""`cptlaw fit`, `predict`, `compare` and `laws`: a table of losses becomes a law with intervals."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cptlaw.errors import UserError


def add_parsers(subparsers: Any) -> None:
    """Registers the four commands."""
    fit = subparsers.add_parser("fit", help="fit a law to a runs table", description="Fit a law to a runs table.")
    _table_arguments(fit)
    fit.add_argument("--law", default="dcpt", help="NAME, NAME:option=value, FILE.py:NAME, or auto (default dcpt)")
    fit.add_argument("--out", type=Path, metavar="FIT.json", help="save the fit for predict and plan")
    fit.add_argument("--bootstrap", type=int, default=1000, metavar="S", help="resamples; 0 for none (default 1000)")
    fit.add_argument("--resample", default="runs", help="runs, rows, residuals or parametric (default runs)")
    fit.add_argument("--hold-out", metavar="QUERY", help="score on these rows, never fitted: 'params > 1e9'")
    fit.add_argument("--fix", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="hold a parameter")
    fit.add_argument("--starts", type=int, default=64, help="starts of the solver (default 64)")
    fit.add_argument("--influence", action="store_true", help="list the runs that move the fit most")
    fit.add_argument("--plot", type=Path, metavar="DIR", help="write figures of the fit into DIR")
    fit.set_defaults(run=_fit)

    predict = subparsers.add_parser("predict", help="predict losses from a saved fit")
    predict.add_argument("fit", type=Path, metavar="FIT.json")
    for name in ("params", "tokens", "ratio"):
        predict.add_argument(f"--{name}", type=_numbers, metavar="X[,X...]", help="one value or several")
    predict.add_argument("--at", type=_pair, action="append", default=[], metavar="COLUMN=X", help="any other column")
    predict.add_argument("--eval", help="which corpus, for a joint fit")
    predict.add_argument("--level", type=float, default=0.9, help="confidence of the interval (default 0.9)")
    predict.add_argument(
        "--target",
        choices=("run", "mean", "base", "law"),
        help="what the interval is of: one new run (default), the mean of runs, a run from a new base model, or the law's "
        "own mean with its bootstrap",
    )
    predict.add_argument("--of-run", metavar="RUN", help="a run of the table, taken further: its own effect is known")
    predict.add_argument("--method", help="of the law's own interval: percentile or bca (asks for --target law)")
    predict.add_argument("--json", action="store_true", help="print JSON")
    predict.set_defaults(run=_predict)

    compare = subparsers.add_parser("compare", help="rank laws on rows left out")
    _table_arguments(compare)
    compare.add_argument("--laws", default="dcpt", metavar="A,B,...", help="laws to rank, or 'all'")
    compare.add_argument("--fold", default="forward", help="forward, size, ratio, tokens, run, ... (default forward)")
    compare.set_defaults(run=_compare)

    listing = subparsers.add_parser("laws", help="list the laws with equation, columns and source")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_laws)


def _table_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", type=Path, metavar="TABLE", help="runs table: .csv, .parquet or .jsonl")
    parser.add_argument("--eval", help="evaluated corpus; several (a,b) make a joint fit")
    parser.add_argument(
        "--shared", default="", metavar="P,Q", help="parameters common to all corpora of a joint fit, or all"
    )
    parser.add_argument(
        "--columns", default="", metavar="OURS=THEIRS,...", help="map foreign headers: params=N,loss=val"
    )
    parser.add_argument("--where", metavar="QUERY", help="use only these rows")
    parser.add_argument(
        "--thin", type=float, metavar="RATE", help="keep a run's i-th checkpoint with exp(-RATE i): 0.02"
    )
    parser.add_argument(
        "--learnability",
        type=_numbers,
        metavar="T0,T1[,T2]",
        help="measure k1, k2, k3 of each corpus for cross_domain, from its smallest run's losses at these tokens",
    )
    parser.add_argument("--objective", default="huber", help="huber, huber_scale, squared, squared_loss, asymmetric")
    parser.add_argument("--delta", type=float, default=1e-3, help="Huber threshold (default 1e-3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _pair(text: str) -> tuple[str, list[float]]:
    name, equals, values = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    return name, _numbers(values)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor numbers separated by commas") from None


def _list(text: str | None) -> list[str]:
    return [part for part in (text or "").split(",") if part]


def _read(args: argparse.Namespace) -> Any:
    from cptlaw import cache, runs

    cache.keep_compiled()
    columns = {}
    for pair in _list(args.columns):
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise UserError(f"--columns {pair}: write OURS=THEIRS, e.g. params=N")
        columns[ours] = theirs
    table = runs.read(args.table, columns, args.where)
    if args.learnability:
        table = runs.learnability(table, args.learnability)
    return table if args.thin is None else runs.thin(table, args.thin, args.seed)


def _eval(args: argparse.Namespace) -> Any:
    names = _list(args.eval)
    return names[0] if len(names) == 1 else names or None


def _fit(args: argparse.Namespace) -> None:
    if args.bootstrap < 0 or args.starts < 1:
        raise UserError("--bootstrap must be 0 or more and --starts 1 or more")
    table = _read(args)
    from cptlaw import fitting

    fit = fitting.fit(
        table,
        args.law,
        _eval(args),
        shared=_list(args.shared),
        fixed={name: values[0] for name, values in args.fix},
        objective=args.objective,
        delta=args.delta,
        bootstrap=args.bootstrap,
        resample=args.resample,
        hold_out=args.hold_out,
        starts=args.starts,
        seed=args.seed,
        progress=True,
    )
    if args.out:
        fit.save(args.out)
    if args.plot:
        from cptlaw.fitting import plots

        for path in plots.write(fit, args.plot):
            print(f"wrote {path}", file=sys.stderr)
    if args.json:
        print(json.dumps(fit.summary(), allow_nan=False))
        return
    print(_headline(fit))
    if "auto" in fit.scores:
        print(_chosen(fit.scores["auto"]))
    print(f"{fit.law.title}   L = {fit.law.equation}")
    corpora = fit.eval if isinstance(fit.eval, str) else ", ".join(fit.eval)
    print(f"eval {corpora}: {fit.n_rows} rows, {len(fit.residuals['run'].unique())} runs\n")
    for name, value in fit.params.items():
        low, high = fit.interval(name) if name in fit.samples and len(fit.samples[name]) else (None, None)
        print(f"  {name:14} {value:12.5g}" + ("" if low is None else f"   90% [{low:.5g}, {high:.5g}]"))
    quality = fit.scores["fit"]
    print(f"\nfit       mean error {quality['mean_log']:.3%}   R2 {quality['r2']:.4f}", end="   ")
    print(f"{args.objective} {quality['objective']:.6g}")
    held = fit.scores["held_out"]
    if held["n"]:
        print(f"held out  {held['what']}, {held['n']} rows: mean error of")
        named = {k: v for k, v in held.items() if isinstance(v, dict) and "mean_log" in v}
        for name, scored in sorted(named.items(), key=lambda item: item[1]["mean_log"]):
            shown = {"law": fit.law.name, "process": f"{fit.law.name}, corrected"}.get(name, name)
            same = "".join(f" = {twin}" for twin in held["alike"].get(name, ()))
            print(f"  {scored['mean_log']:8.3%}  {shown}{same}")
    print("starts    " + ", ".join(f"{n} {code}" for code, n in fit.codes["starts"].items()))
    if "resamples" in fit.codes:
        print("resamples " + ", ".join(f"{n} {code}" for code, n in fit.codes["resamples"].items()))
    if args.influence:
        print("\nruns that move the fit most (what each changes of the loss at the largest fitted size and tokens)")
        for run, move in fit.moves()[:10]:
            print(f"  {run:30} {move:+.3%}")
    for warning in fit.warnings:
        print(f"\nwarning: {warning}")
    if args.out:
        print(f"\nsaved {args.out}; cptlaw predict {args.out} --help")


def _headline(fit: Any) -> str:
    """What the law is worth where it was not fitted, beside the best rule that knows no law."""
    held = fit.scores["held_out"]
    if not held["n"]:
        return f"No row could be held out ({held['what']}): nothing says what this law is worth out of range.\n"
    rows = f"{held['n']} rows of {held['runs']} run{'s' * (held['runs'] > 1)}"
    rivals = {k: v["mean_log"] for k, v in held.items() if isinstance(v, dict) and "mean_log" in v}
    own, corrected = rivals.pop("law"), rivals.pop("process", None)
    best = min(rivals, key=lambda name: rivals[name])
    ours = own if corrected is None else corrected
    words = f"corrected by how it missed {corrected:.2%}, " if corrected is not None else ""
    verdict = "beats" if ours < rivals[best] else "loses to"
    return (
        f"Held out ({held['what']}, {rows}): the law errs by {own:.2%}, {words}the best rule without a law, {best}, by "
        f"{rivals[best]:.2%}: the prediction {verdict} it.\n"
    )


def _chosen(auto: dict[str, Any]) -> str:
    """Which law `auto` took, how clearly, and where it loses to a part of it or to a rule without a law."""
    weights = ", ".join(f"{name} {weight:.0%}" for name, weight in auto["weights"].items())
    lines = [f"auto: {auto['law']} (weights by the table's own forward questions: {weights})"]
    for row in auto["table"]:
        if row["method"] == f"process on {auto['law']}":
            lines.append(
                f"  {row['kind']:8} errs by {row['error']:.2%} ({row['questions']} questions, {row['rows']} rows)"
            )
    return "\n".join([*lines, *(f"  loses on {note}" for note in auto["lost"])]) + "\n"


def _predict(args: argparse.Namespace) -> None:
    import numpy as np

    from cptlaw.fitting import Fit
    from cptlaw.fitting.result import LAW, TARGETS

    fit = Fit.load(args.fit)
    given = {name: getattr(args, name) for name in ("params", "tokens", "ratio") if getattr(args, name) is not None}
    given |= dict(args.at)
    lengths = {len(v) for v in given.values() if len(v) > 1}
    if len(lengths) > 1:
        raise UserError("give one value or the same number of values for every column")
    given = {name: v if len(v) > 1 else v * max(lengths, default=1) for name, v in given.items()}
    found = fit.predict(
        level=args.level, target=args.target, run=args.of_run, method=args.method, eval=args.eval, **given
    )
    rows: list[dict[str, Any]] = []
    for i, point in enumerate(found.point):
        row = {name: values[i] for name, values in given.items()}
        sure = bool(np.isfinite(found.low[i]))
        bounds = {"low": float(found.low[i]), "high": float(found.high[i])} if sure else {}
        parts = (
            {"parts": {name: round(float(v[i]), 4) for name, v in found.parts.items()}} if sure and found.parts else {}
        )
        rows.append({**row, "loss": float(point), **bounds, **parts})
    if args.json:
        level = args.level if any("low" in row for row in rows) else None
        print(json.dumps({"level": level, "target": found.target, "predictions": rows, "notes": list(found.notes)}))
        return
    print(f"{args.level:.0%} intervals are of {(TARGETS | {LAW: 'the mean of the law, taken as true'})[found.target]}")
    for row in rows:
        where = " ".join(f"{name}={row[name]:g}" for name in given)
        nothing = "no interval" + ("" if found.parts else " (fit without bootstrap)")
        interval = f"{args.level:.0%} [{row['low']:.4f}, {row['high']:.4f}]" if "low" in row else nothing
        print(f"{where}   loss {row['loss']:.4f}   {interval}")
        if "parts" in row:
            largest = sorted(row["parts"].items(), key=lambda item: -item[1])
            print("    its width comes from " + ", ".join(f"{name} {v:.0%}" for name, v in largest if v >= 0.01))
    for note in (*found.notes, *fit.extrapolation(**given)):
        print(f"warning: {note}")


def _compare(args: argparse.Namespace) -> None:
    table = _read(args)
    from cptlaw import fitting, laws

    found = fitting.compare(
        table,
        laws.names() if args.laws == "all" else _list(args.laws),
        _eval(args),
        fold=args.fold,
        shared=_list(args.shared),
        objective=args.objective,
        delta=args.delta,
        seed=args.seed,
        progress=True,
    )
    if args.json:
        rows = json.loads(found.table.to_json(orient="records"))
        print(json.dumps({"folds": found.folds, "ranking": rows, "refused": found.refused}))
        return
    print(
        f"held out: {'; '.join(found.folds[:4])}"
        + (f"; and {len(found.folds) - 4} more" if len(found.folds) > 4 else "")
    )
    print(f"{'':20} {'par.':>4} {'mean error':>10} {'R2':>8}   behind the best, 90%")
    for row in found.table.itertuples():
        gap = "" if row.Index == 0 else f"{row.behind:.3%} [{row.behind_low:.3%}, {row.behind_high:.3%}]"
        print(f"{row.name:20} {row.parameters or '':>4} {row.mean_log:>10.3%} {row.r2:>8.4f}   {gap}")
    for name, reason in found.refused.items():
        print(f"\nnot fitted: {name}: {reason}")


def _laws(args: argparse.Namespace) -> None:
    from cptlaw import laws

    made = [laws.example(name) for name in laws.names()]
    if args.json:
        keys = ("name", "title", "equation", "source", "columns", "names")
        print(json.dumps([{key: getattr(law, key) for key in keys} for law in made]))
        return
    for law in made:
        options = ", ".join(f"{k}={v}" for k, v in laws.options_of(law.name).items())
        print(f"{law.name}: {law.title}\n  L = {law.equation}\n  parameters  {', '.join(law.names)}")
        print(f"  columns     {', '.join(law.columns)}")
        print(f"  options     {options}\n" * bool(options) + f"  source      {law.source}\n")
