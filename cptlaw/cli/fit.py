"""`cptlaw fit`, `predict`, `compare` and `laws`: a table of losses becomes a law with intervals."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cptlaw.cli import domains, tables
from cptlaw.errors import UserError


def add_parsers(subparsers: Any) -> None:
    """Registers the four commands."""
    fit = subparsers.add_parser("fit", help="fit a law to a runs table", description="Fit a law to a runs table.")
    _table_arguments(fit)
    fit.add_argument("--law", default="dcpt", help="NAME, NAME:option=value, FILE.py:NAME, or auto (default dcpt)")
    fit.add_argument("--out", type=Path, metavar="FIT.json", help="save the fit for predict and plan")
    fit.add_argument("--bootstrap", type=int, default=1000, metavar="S", help="resamples; 0 for none (default 1000)")
    fit.add_argument(
        "--resample", help="runs, domains, rows, residuals or parametric (default runs; of --by-domain with K, domains)"
    )
    fit.add_argument("--hold-out", metavar="QUERY", help="score on these rows, never fitted: 'params > 1e9'")
    fit.add_argument("--fix", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="hold a parameter")
    fit.add_argument("--starts", type=int, default=64, help="starts of the solver (default 64)")
    fit.add_argument("--influence", action="store_true", help="list the runs that move the fit most")
    no_remedies(fit)
    fit.add_argument(
        "--plot", type=Path, metavar="PATH",
        help="draw the fit: its curves as FILE.png, .svg or .pdf, or every figure of it as PNG into a folder",
    )  # fmt: skip
    fit.add_argument("--plot-width", type=tables.number, metavar="IN", help="of --plot: inches (a paper's column: 3.3)")
    fit.add_argument("--plot-font", default="", metavar="FAMILY", help="of --plot: serif, sans-serif or a font's name")
    fit.add_argument("--plot-size", type=tables.number, default=9.0, metavar="PT", help="of --plot: text (default 9)")
    fit.set_defaults(run=_fit)

    predict = subparsers.add_parser("predict", help="predict losses from a saved fit")
    predict.add_argument("fit", type=Path, metavar="FIT.json", help="a fit that `cptlaw fit --out` saved")
    for name in ("params", "tokens", "ratio"):
        predict.add_argument(f"--{name}", type=tables.numbers, metavar="X[,X...]", help="one value or several")
    predict.add_argument(
        "--at", type=tables.at, action="append", default=[], metavar="COLUMN=X", help="any other column, or the factor"
    )
    predict.add_argument("--eval", help="which corpus, for a joint fit")
    predict.add_argument("--level", type=tables.number, default=0.9, help="confidence of the interval (default 0.9)")
    predict.add_argument(
        "--target",
        choices=("run", "mean", "base", "law"),
        help="what the interval is of: one new run (default), the mean of runs, a run from a new base model, or the "
        "law's own mean with its bootstrap",
    )
    domains.asking(predict)
    domains.learnability(predict)
    predict.add_argument("--of-run", metavar="RUN", help="a run of the table, taken further: its own effect is known")
    predict.add_argument("--method", help="how the law's own interval is made: percentile or bca (for --target law)")
    predict.add_argument("--law", metavar="FILE.py:NAME", help="the user's law that the fit is by; this runs FILE")
    predict.add_argument("--json", action="store_true", help="print JSON")
    predict.set_defaults(run=_predict)

    compare = subparsers.add_parser(
        "compare",
        help="rank laws, alone and corrected, auto, and rules without a law on rows beyond those fitted",
        description="Ranks what you can choose between on forward questions of the table: larger sizes, more tokens, "
        "both, new mixes, from origins that roll. Each law is asked alone and corrected by how it missed, beside auto "
        "and the rules without a law (with the extra lightgbm, boosted trees too).",
    )
    _table_arguments(compare)
    compare.add_argument(
        "--laws", metavar="A,B,...", help="laws to rank, or 'all' (default: those that auto chooses between)"
    )
    compare.add_argument(
        "--no-auto",
        action="store_true",
        help="leave out auto, which chooses its law anew for every question and takes most of the time",
    )
    compare.add_argument(
        "--fold", help="rank laws alone on rows left out instead: forward, size, ratio, tokens, run, ..."
    )
    compare.set_defaults(run=_compare)

    listing = subparsers.add_parser("laws", help="list the laws with equation, columns and source")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_laws)


def _table_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "table", type=Path, metavar="TABLE", help="runs table: CSV, JSONL, Parquet, ...; docs/tables.md"
    )
    tables.add_arguments(parser, eval=False)
    parser.add_argument(
        "--eval", help="evaluated corpus, or several (a,b) for a joint fit; the name of a table's only corpus"
    )
    parser.add_argument(
        "--shared", default="", metavar="P,Q", help="parameters common to all corpora of a joint fit, or all"
    )
    parser.add_argument("--factor", metavar="COLUMN", help=tables.FACTOR)
    parser.add_argument(
        "--thin", type=tables.number, metavar="RATE", help="keep a run's i-th checkpoint with exp(-RATE i): 0.02"
    )
    parser.add_argument(
        "--rebase", type=tables.named, metavar="CORPUS=PARAMS",
        help="take the losses of a corpus as if every run had started from the base model of this size, by the rows at "
        "zero tokens: what a ceiling on the general loss at one planned size is best asked of (plan trade-off)",
    )  # fmt: skip
    parser.add_argument(
        "--size-by-base", metavar="CORPUS",
        help="take a model for as large as its base model's loss of this corpus tells, by the rows at zero tokens: for "
        "base models that were not all trained alike; `cptlaw plan --params N` then asks of the model of N",
    )  # fmt: skip
    domains.pooling(parser)
    parser.add_argument("--objective", default="huber", help="huber, huber_scale, squared, squared_loss, asymmetric")
    parser.add_argument("--delta", type=tables.number, default=1e-3, help="Huber threshold (default 1e-3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of starts and resamples (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def no_remedies(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of commands that try what may help a law which its table rejects."""
    parser.add_argument(
        "--no-remedies", action="store_true",
        help="where the table rejects the law, do not try what may help (which takes up to a minute a corpus)",
    )  # fmt: skip


def _pair(text: str) -> tuple[str, list[float]]:
    name, equals, values = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=VALUE")
    return name, tables.numbers(values)


def _list(text: str | None) -> list[str]:
    return [part for part in (text or "").split(",") if part]


def _fixed(pairs: list[tuple[str, list[float]]]) -> dict[str, float]:
    fixed: dict[str, float] = {}
    for name, values in pairs:
        if len(values) != 1 or name in fixed:
            raise UserError(f"--fix {name}: give one value, once")
        fixed[name] = values[0]
    return fixed


def _read(args: argparse.Namespace) -> Any:
    from cptlaw import cache, runs

    cache.keep_compiled()
    named = tables.names(args.eval)
    table = tables.read(args, args.table, eval=named[0] if len(named) == 1 else None)
    reading = table.attrs["reading"]
    if args.by_domain:
        table = runs.by_domain(table, args.by_domain, args.learnability)
    elif args.learnability:
        table = runs.learnability(table, args.learnability)
    if args.size_by_base:
        table = runs.sized_by_base(table, args.size_by_base)
    for name, params in (args.rebase or {}).items():
        if name not in set(table["eval"]):
            raise UserError(f"--rebase {name}: no such corpus; the table evaluates {', '.join(table['eval'].unique())}")
        table = runs.rebased(table, name, params)
    if args.thin is not None:
        table = runs.thin(table, args.thin, args.seed)
    table.attrs["reading"] = reading  # of the file, whatever was made of its rows
    return table


def _eval(args: argparse.Namespace, table: Any) -> Any:
    names = tables.names(args.eval, table["eval"])
    return names[0] if len(names) == 1 else names or None


def _fit(args: argparse.Namespace) -> None:
    table = _read(args)
    from cptlaw import fitting

    fit = fitting.fit(
        table,
        args.law,
        _eval(args, table),
        shared=_list(args.shared),
        factor=args.factor,
        fixed=_fixed(args.fix),
        objective=args.objective,
        delta=args.delta,
        bootstrap=args.bootstrap,
        resample=args.resample,
        hold_out=args.hold_out,
        starts=args.starts,
        seed=args.seed,
        try_remedies=not args.no_remedies,
        progress=True,
    )
    if args.out:
        fit.save(args.out)
    if args.plot:
        from cptlaw import report

        look = {"width": args.plot_width, "font": args.plot_font, "size": args.plot_size}
        for path in report.write_figures(fit, args.plot, **look):
            print(f"wrote {path}", file=sys.stderr)
    if args.json:
        print(json.dumps(fit.summary(), allow_nan=False))
        return
    _tell(fit)
    if args.influence:
        print("\nruns that move the fit most (what each changes of the loss at the largest fitted size and tokens)")
        for run, move in fit.moves()[:10]:
            print(f"  {run:30} {move:+.3%}")
    for warning in fit.warnings:
        print(f"\nwarning: {warning}")
    if args.out:
        print(f"\nsaved {args.out}; cptlaw predict {args.out} --help")


def _tell(fit: Any) -> None:
    """Prints a fit: what it is worth out of range, the law, its parameters and how good it is."""
    from cptlaw.fitting import rivals, verdicts

    if fit.rejection:
        print("\n".join([*fit.rejection, ""]))
    print(f"{verdicts.headline(fit.scores['held_out'])}\n")
    if "auto" in fit.settings:
        print(_chosen(fit.settings["auto"]))
    print(f"{fit.law.title}   L = {fit.law.equation}")
    corpora = fit.eval if isinstance(fit.eval, str) else ", ".join(fit.eval)
    print(f"eval {corpora}: {fit.n_rows} rows, {len(fit.residuals['run'].unique())} runs\n")
    loose = {name: column for column, names in fit.rests.items() for name in names}
    fixed = {*fit.settings["fixed"], *fit.law.fixed}
    for name, value in fit.params.items():
        told = ""
        if name in loose:
            told = f"   not determined: {loose[name]} never varied"
        elif name in fixed:
            told = "   held"
        elif name in fit.samples and len(fit.samples[name]):
            told = "   90% [{:.5g}, {:.5g}]".format(*fit.interval(name))
        print(f"  {name:14} {value:12.5g}{told}")
    if fit.law.billions:
        print(f"  in which {', '.join(fit.law.billions)} count in billions (1e9), though tables hold counts")
    quality = fit.scores["fit"]
    print(f"\nfit       mean error {quality['mean_log']:.3%}   R2 {quality['r2']:.4f}", end="   ")
    print(f"{fit.settings['objective']} {quality['objective']:.6g}")
    held = fit.scores["held_out"]
    if held["n"]:
        print(f"held out  {held['what']}, {held['n']} rows: mean error of")
        named = {k: v for k, v in held.items() if isinstance(v, dict) and "mean_log" in v}
        for name, scored in sorted(named.items(), key=lambda item: item[1]["mean_log"]):
            ours = {"law": fit.law.name, "process": f"{fit.law.name}, corrected by how it missed"}
            print(f"  {scored['mean_log']:8.3%}  {ours.get(name) or rivals.shown(name, held.get('alike', ()))}")
    for corpus, tested in fit.lack_of_fit.items():
        if not tested.rejected:
            print(f"the law   on {corpus}: {tested.words()}")
    if fit.settings.get("loss_se"):
        print(f"loss_se   {fit.settings['loss_se']}")
    if not fit.codes:
        print("every parameter is held: nothing was fitted, so there are no intervals")
    for what, counts in fit.codes.items():
        print(f"{what:9} " + ", ".join(f"{n} {code}" for code, n in counts.items()))


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


def own_law(args: argparse.Namespace) -> str | None:
    """The user's law named with --law, which a saved fit may be by: the file that is read never chooses what is run."""
    return args.law if ".py:" in args.law else None


def _predict(args: argparse.Namespace) -> None:
    import numpy as np

    from cptlaw.fitting import Fit
    from cptlaw.fitting.result import LAW, TARGETS

    fit = Fit.load(args.fit, args.law)
    if args.law is not None and fit.law.sha256 is None:
        raise UserError(f"--law {args.law}: {args.fit} is by the built-in law {fit.law.name}; leave --law out")
    fit, at = tables.at_level(domains.about(args, fit), args.at)
    given = _columns(args, at)
    if "params" in given:
        given["params"] = [fit.size(params) for params in given["params"]]
    found = fit.predict(
        level=args.level, target=args.target, run=args.of_run, method=args.method, eval=args.eval, **given
    )
    notes = [*found.notes, *fit.extrapolation(**given), *_reach(fit)]
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
        print(json.dumps({"level": level, "target": found.target, "predictions": rows, "warnings": notes}))
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
    for note in notes:
        print(f"warning: {note}")


def _columns(args: argparse.Namespace, at: list[tuple[str, str]]) -> dict[str, Any]:
    """The columns that a question gives, all of one length; `at` are those without a flag of their own."""
    named = [(name, getattr(args, name)) for name in ("params", "tokens", "ratio") if getattr(args, name) is not None]
    given: dict[str, list[float]] = {}
    for name, values in (*named, *(_other(name, text) for name, text in at)):
        if name in given:
            raise UserError(f"{name} is given twice")
        given[name] = values
    lengths = {len(values) for values in given.values() if len(values) > 1}
    if len(lengths) > 1:
        raise UserError("give one value or the same number of values for every column")
    count = max(lengths, default=1)
    return {name: values if len(values) > 1 else values * count for name, values in given.items()}


def _other(name: str, text: str) -> tuple[str, list[float]]:
    try:
        return name, tables.numbers(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--at {name}={text}: {error}") from None


def _reach(fit: Any) -> list[str]:
    """What the fit cannot say, whatever is asked."""
    return [
        f"{name} never varied in the fitted rows: this holds at {name} = {fit.ranges[name][1]:g} only"
        for name in fit.unmoved
    ]


def _compare(args: argparse.Namespace) -> None:
    table = _read(args)
    from cptlaw import fitting, laws
    from cptlaw.fitting import rivals
    from cptlaw.fitting.result import AUTO

    names = laws.names() if args.laws == "all" else _list(args.laws)
    eval = _eval(args, table)
    if args.fold is not None:
        _on_fold(args, table, names or ["dcpt"], eval)
        return
    if isinstance(eval, list):
        raise UserError("--eval: forward questions are asked of one corpus; name one, or rank joint fits with --fold")
    for flag, given in (("--shared", args.shared), ("--objective", args.objective != "huber")):
        if given:
            raise UserError(f"{flag}: forward questions are asked of laws as `fit` fits them; give --fold too")
    auto = not args.no_auto and (AUTO in names or args.laws in (None, "all"))
    wanted = [name for name in names if name != AUTO] or None
    found = fitting.contest(table, wanted, eval, auto=auto, seed=args.seed, progress=True)
    if args.json:
        rows = json.loads(found.table.to_json(orient="records"))
        about = {"asked": found.asked, "alike": found.alike, "refused": found.refused, "auto": found.chosen}
        print(json.dumps({"headline": found.headline(), "standing": found.standing, "ranking": rows, **about}))
        return
    print(f"{found.headline()}\n")
    for kind, about in found.asked.items():
        rests = f"{about['questions']} questions, {about['rows']} rows of {about['runs']} runs"
        print(f"{kind:8} {rests}: {'; '.join(about['what'])}")
    print(f"\nmean error  {'':34}" + "".join(f"{kind:>9}" for kind in found.asked) + "  questions  rows  runs")

    def shown(error: float, width: int) -> str:
        return f"{error:>{width}.2%}" if error == error else f"{'-':>{width}}"

    for row in found.table.to_dict("records"):
        by_kind = "".join(shown(row[kind], 9) for kind in found.asked)
        rests = f"{row['questions']:>9} {row['rows']:>5} {row['runs']:>5}"
        print(f"{shown(row['error'], 10)}  {rivals.shown(row['name'], found.alike):34}{by_kind}  {rests}")
    if found.chosen:
        chose = ", ".join(f"{name or 'none'} {found.chosen.count(name)}" for name in dict.fromkeys(found.chosen))
        print(f"\nauto chose, by question: {chose}")
    for name, reason in found.refused.items():
        print(f"\nnot fitted: {name}: {reason}")


def _on_fold(args: argparse.Namespace, table: Any, names: list[str], eval: Any) -> None:
    """Ranks laws alone, and the rules without a law, on the rows that the folds leave out."""
    from cptlaw import fitting
    from cptlaw.fitting import rivals

    found = fitting.compare(
        table,
        names,
        eval,
        fold=args.fold,
        shared=_list(args.shared),
        factor=args.factor,
        objective=args.objective,
        delta=args.delta,
        seed=args.seed,
        progress=True,
    )
    about = {"headline": found.headline(), "rows": found.scored, "runs": found.runs, "alike": found.alike}
    if args.json:
        rows = json.loads(found.table.to_json(orient="records"))
        print(json.dumps({"folds": found.folds, "ranking": rows, "refused": found.refused, **about}))
        return
    print(f"{found.headline()}\n")
    print(
        f"held out: {'; '.join(found.folds[:4])}"
        + (f"; and {len(found.folds) - 4} more" if len(found.folds) > 4 else "")
        + f": {found.scored} rows of {found.runs} runs"
    )
    print(f"{'':20} {'par.':>4} {'mean error':>10} {'R2':>8}   behind the best, 90%")
    for row in found.table.itertuples():
        gap = "" if row.Index == 0 else f"{row.behind:.3%} [{row.behind_low:.3%}, {row.behind_high:.3%}]"
        name = rivals.shown(row.name, found.alike)
        print(f"{name:20} {row.parameters or '':>4} {row.mean_log:>10.3%} {row.r2:>8.4f}   {gap}")
    for name, reason in found.refused.items():
        print(f"\nnot fitted: {name}: {reason}")


def _laws(args: argparse.Namespace) -> None:
    from cptlaw import laws

    made = [laws.example(name) for name in laws.names()]
    if args.json:
        keys = ("name", "title", "equation", "source", "columns", "billions", "names")
        print(json.dumps([{key: getattr(law, key) for key in keys} for law in made]))
        return
    for law in made:
        options = ", ".join(f"{k}={v}" for k, v in laws.options_of(law.name).items())
        print(f"{law.name}: {law.title}\n  L = {law.equation}\n  parameters  {', '.join(law.names)}")
        print(f"  columns     {', '.join(law.columns)}")
        print(f"  in billions {', '.join(law.billions)} (tables hold counts)\n" * bool(law.billions), end="")
        print(f"  options     {options}\n" * bool(options) + f"  source      {law.source}\n")
