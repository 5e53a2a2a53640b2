"""`cptlaw watch RUN`: how a run that still trains will end, and whether that will break a ceiling."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from cptlaw.cli import tables
from cptlaw.errors import UserError

SURE = 0.9  # probability at which a ceiling is said to be broken, or kept


def add_parsers(subparsers: Any) -> None:
    """Registers `watch`."""
    parser = subparsers.add_parser(
        "watch",
        help="the end of a run that still trains, from its evaluations so far",
        description="Predicts the losses at the end of a run that still trains, with intervals; says whether a ceiling "
        "will be broken, and since which evaluation the answer has not changed. RUN is a run's directory in a workdir, "
        "whose finished runs are the earlier ones, or a CSV or JSON Lines file that grows, with columns tokens and "
        "loss (or --columns, --loss, --tokens-per-step). A line that is still being written is left out.",
    )
    parser.add_argument("source", type=Path, metavar="RUN", help="WORKDIR/runs/ID, or a metrics file of any trainer")
    parser.add_argument("--tokens", type=tables.number, help="tokens at its end (default: the run's own)")
    parser.add_argument("--earlier", type=Path, metavar="TABLE", help="runs table of earlier runs")
    ceiling = parser.add_mutually_exclusive_group()
    ceiling.add_argument("--ceiling", type=tables.number, metavar="LOSS", help="most loss allowed at the end, nats")
    ceiling.add_argument(
        "--tolerance", type=tables.number, metavar="RISE", help="the same as a rise over the loss at zero tokens (3%%)"
    )
    parser.add_argument("--cooled", action="store_true", help="the learning rate will be cooled down at the end")
    parser.add_argument("--level", type=tables.number, default=0.9, help="confidence of the intervals (default 0.9)")
    parser.add_argument("--every", type=tables.number, metavar="SECONDS", help="look again until the run has ended")
    parser.add_argument("--json", action="store_true", help="print JSON, a line a look")
    tables.add_arguments(parser)
    parser.set_defaults(run=_watch)


def _watch(args: argparse.Namespace) -> None:
    if not 0 < args.level < 1:
        raise UserError(f"--level {args.level:g} is not between 0 and 1 (0.9 for 90% intervals)")
    if args.every is not None and not args.every > 0:
        raise UserError(f"--every {args.every:g}: give seconds, more than 0")
    if args.tokens is not None and not args.tokens > 0:
        raise UserError(f"--tokens {args.tokens:g}: give the tokens at the end of the run, a count")
    while True:
        found, ended = _look(args)
        print(json.dumps(found, allow_nan=False) if args.json else "\n".join(_words(args, one) for one in found))
        if ended or args.every is None:
            return
        time.sleep(args.every)


def _look(args: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """What is known now of each evaluated corpus, and whether the run has ended."""
    from cptlaw.fitting import prefix

    live, others, tokens, cooled = _run(args) if args.source.is_dir() else _file(args)
    if args.earlier is not None:
        others = [*others, *prefix.curves(tables.read(args, args.earlier))]
    watched = [one for one in prefix.curves(live) if args.eval in (None, one.eval)]
    if not watched:
        there = ", ".join(sorted(set(live["eval"])))
        raise UserError(f"{args.source}: no evaluation after zero tokens of {args.eval or 'any corpus'} yet ({there})")
    found = [_ending(args, one, tokens, others, cooled) for one in watched]
    return found, all(one["seen"] >= tokens for one in found)


def _ending(args: argparse.Namespace, curve: Any, tokens: float, others: Any, cooled: bool) -> dict[str, Any]:
    """One corpus's predicted end, its ceiling's fate, and since when that has been so."""
    from cptlaw.fitting import prefix

    said = prefix.ending(curve, tokens, others, cooled=cooled, level=args.level)
    out = {
        "run": curve.run, "eval": curve.eval, "seen": said.seen, "tokens": tokens, "loss": float(curve.loss[-1]),
        "point": said.point, "low": said.low, "high": said.high, "level": args.level, "earlier": said.earlier,
    }  # fmt: skip
    ceiling = args.ceiling
    if args.tolerance is not None:
        if not curve.base == curve.base:
            raise UserError(f"--tolerance: {args.source} has no loss of {curve.eval} at zero tokens; give --ceiling")
        ceiling = curve.base * (1 + args.tolerance)
    if ceiling is None:
        return out
    answer, since = _answer(said.above(ceiling)), said.seen
    for seen in curve.tokens[-2::-1]:  # what would have been said at each evaluation before
        try:
            before = prefix.ending(curve.until(float(seen)), tokens, others, cooled=cooled, level=args.level)
        except UserError:  # too early to say
            break
        if _answer(before.above(ceiling)) != answer:
            break
        since = float(seen)
    return out | {"ceiling": ceiling, "broken": said.above(ceiling), "answer": answer, "since": since}


def _answer(broken: float) -> str:
    return "broken" if broken >= SURE else "kept" if broken <= 1 - SURE else "open"


def _words(args: argparse.Namespace, found: dict[str, Any]) -> str:
    from cptlaw.words import count, percent

    learned = f"learned from {found['earlier']} earlier runs" if found["earlier"] else "from this run alone"
    lines = [
        f"{found['run']}, {found['eval']}: {found['loss']:.4f} after {percent(found['seen'] / found['tokens'])} of "
        f"{count(found['tokens'])} tokens; {found['point']:.4f} at the end, {found['level']:.0%} interval "
        f"{found['low']:.4f} to {found['high']:.4f} ({learned})"
    ]
    if "ceiling" in found:
        words = {
            "broken": "will be broken", "kept": "will be kept", "open": "may be broken or kept: too early to say"
        }  # fmt: skip
        since = f"; said so since {count(found['since'])} tokens" if found["answer"] != "open" else ""
        lines.append(
            f"  the ceiling of {found['ceiling']:.4f} {words[found['answer']]} (broken with a probability of "
            f"{found['broken']:.0%}{since})"
        )
    return "\n".join(lines)


def _file(args: argparse.Namespace) -> tuple[Any, list[Any], float, bool]:
    """(its table, no earlier runs, tokens at its end, cooled) of a file that grows."""
    if args.tokens is None:
        raise UserError("--tokens: give the tokens at the end of the run, which a metrics file does not tell")
    table = tables.read(args, args.source)
    if table["run"].str.fullmatch(r"row-\d+").all():  # no header names the run: the file is of one
        table["run"] = args.source.name.partition(".")[0]
    if table["run"].nunique() > 1:
        raise UserError(f"{args.source}: holds {table['run'].nunique()} runs; choose one with --where \"run == '...'\"")
    separated = args.source.suffix.lower() in (".csv", ".tsv", ".tab")
    if "tokens" in table and separated and not _ends_in_a_line(args.source):
        table = table[table["tokens"] < table["tokens"].max()]
    return table, [], args.tokens, args.cooled


def _ends_in_a_line(path: Path) -> bool:
    """Whether the last line is whole. A number that is cut off reads as another number."""
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"


def _run(args: argparse.Namespace) -> tuple[Any, list[Any], float, bool]:
    """(its table, the workdir's finished runs, tokens at its end, whether it is cooled) of a run of ours."""
    import pandas as pd

    from cptlaw.execution import rundir
    from cptlaw.fitting import prefix

    path = args.source.resolve()
    workdir, run = path.parents[1], rundir.read_run(path)
    rows, others = rundir.RunDir(workdir, run).rows(), []
    if not rows:
        raise UserError(f"{args.source}: nothing evaluated yet")
    for other in sorted(path.parent.iterdir()):
        if other == path or not (other / "run.json").is_file():
            continue
        directory = rundir.RunDir(workdir, rundir.read_run(other))
        # Not `state`, which may ask for the lock of a run that is about to begin.
        if directory.run.init is not None and (directory.result() or {}).get("state") == rundir.FINISHED:
            others += directory.measured()
    rates = run.schedule().learning_rates()
    return (
        pd.DataFrame(rows),
        prefix.curves(_shares_filled(pd.DataFrame(others))) if others else [],
        args.tokens or float(run.tokens),
        args.cooled or bool(rates[-1] < prefix.COOLED * rates.max()),
    )


def _shares_filled(table: Any) -> Any:
    """Rows of runs on other corpora know nothing of a share of 0."""
    shares = [name for name in table if name.startswith("w_")]
    return table.assign(**{name: table[name].fillna(0.0) for name in shares})
