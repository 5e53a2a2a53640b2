"""`cptlaw report`: a runs table, or a finished study, as one HTML page."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cptlaw.cli import tables
from cptlaw.cli.fit import no_remedies, own_law
from cptlaw.errors import UserError


def add_parsers(subparsers: Any) -> None:
    """Registers `report`."""
    parser = subparsers.add_parser(
        "report",
        help="one HTML page of a runs table or a study: the answer, the figures, what they rest on",
        description="Writes one self-contained HTML page, and its figures as PNG and CSV beside it.",
    )
    parser.add_argument("source", type=Path, metavar="TABLE_OR_DIR", help="a runs table, or a study's workdir")
    parser.add_argument("-o", "--out", type=Path, default=Path("report.html"), help="the page (default report.html)")
    parser.add_argument("--title", help="names the study above the question")
    parser.add_argument("--question", help="the question in your words")
    parser.add_argument("--domain", help="which domain of a study; for a table, the corpus whose share is asked for")
    parser.add_argument("--fits", type=Path, nargs="+", default=[], metavar="FIT.json", help="saved fits of the table")
    parser.add_argument(
        "--decisions", type=Path, nargs="+", default=[], metavar="DECISION.json", help="what `cptlaw plan --out` saved"
    )
    parser.add_argument("--confirm", type=Path, metavar="TABLE", help="the run trained at the recommendation")
    parser.add_argument(
        "--law",
        default="dcpt",
        help="law to fit where there are no saved fits (default dcpt); of saved fits, FILE.py:NAME",
    )
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="S", help="resamples of those fits")
    parser.add_argument("--hold-out", metavar="QUERY", help="rows those fits are scored on: 'params > 1e9'")
    no_remedies(parser)
    tables.add_arguments(parser)
    parser.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> None:
    from cptlaw import cache, fitting, report, runs
    from cptlaw.planning.decision import Decision
    from cptlaw.planning.numbers import corpus

    cache.keep_compiled()
    study = args.source.is_dir()
    if study:
        _study(args)
    fits = {corpus(fit): fit for fit in (fitting.Fit.load(path, own_law(args)) for path in args.fits)}
    table = tables.read(args, args.source, like=fits.values())
    if study and fits:  # runs on other domains of the study are other questions
        mixed = [name for name in fits if f"w_{name}" in table and (table[f"w_{name}"] > 0).any()]
        table = runs.of_mixes(table, mixed, list(fits))
    if not fits:
        evals = [args.domain] if args.domain else list(table["eval"].unique())
        for name in evals:
            fits[name] = fitting.fit(
                table, args.law, name, bootstrap=args.bootstrap, hold_out=args.hold_out,
                try_remedies=not args.no_remedies, progress=True,
            )  # fmt: skip
    decisions = [Decision.load(path) for path in args.decisions]
    for decision in decisions:
        for role in ("general", "domain"):
            if (name := decision.inputs.get(role)) is not None and name not in fits:
                raise UserError(f"--decisions: one is about {name}, of which there is no fit; give it with --fits")
    path = report.write(
        args.out,
        title=args.title or str(args.source),
        table=table,
        fits=fits,
        decisions=decisions,
        confirm=None if args.confirm is None else tables.read(args, args.confirm, where=False, like=fits.values()),
        question=args.question,
        command=" ".join(["cptlaw", *sys.argv[1:]]),
    )
    print(path)


def _study(args: argparse.Namespace) -> None:
    """Finds what a study left: runs.csv, fits/DOMAIN-CORPUS.json, answer-DOMAIN.json, confirm-DOMAIN.csv."""
    from cptlaw.execution.workdir import Workdir
    from cptlaw.fitting import Fit

    workdir = Workdir(args.source)
    args.source = workdir.table
    if not args.source.is_file():
        if pages := sorted(workdir.root.glob("landscape-*.html")):
            raise UserError(f"{workdir}: a perplexity study, whose report it has: {', '.join(map(str, pages))}")
        raise UserError(f"{workdir}: no runs.csv in it; give a runs table, or the workdir of a finished study")
    saved = {
        path: path.stem.removesuffix(f"-{Fit.load(path, own_law(args)).eval}")
        for path in sorted(workdir.fits.glob("*.json"))
    }
    domains = sorted(set(saved.values()))
    if args.domain is None and len(domains) == 1:
        args.domain = domains[0]
    if domains and args.domain not in domains:
        raise UserError(f"{workdir} answers for {', '.join(domains)}: choose one with --domain")
    if domains:
        answer, confirm = workdir.answer(args.domain), workdir.confirm(args.domain)
        args.decisions = args.decisions or [answer] * answer.is_file()
        args.fits = args.fits or [path for path, domain in saved.items() if domain == args.domain]
        args.confirm = args.confirm or (confirm if confirm.is_file() else None)
    args.title = args.title or f"{workdir.root.name}: {args.domain or 'its runs'}"
