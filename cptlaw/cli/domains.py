"""`cptlaw domains`, and the flags with which fits of several domains are made and asked about one of them."""

import argparse
import json
from pathlib import Path
from typing import Any

from cptlaw.cli import tables
from cptlaw.errors import UserError


def add_parsers(subparsers: Any) -> None:
    """Registers `domains`."""
    parser = subparsers.add_parser(
        "domains",
        help="how well an unseen domain is predicted from a short probe: each domain of a table left out in turn",
        description="Leaves each domain of a table out in turn and predicts its runs from its probe alone (the first "
        "tokens of its smallest size at the largest share), by the Cross-Domain D-CPT Law and by what one would do "
        "without it.",
    )
    parser.add_argument("table", type=Path, metavar="TABLE", help="runs table whose runs mix one domain each")
    tables.add_arguments(parser, eval=False)
    pooling(parser, required=True)
    parser.add_argument("--of", choices=("domain", "general"), default="domain", help="whose loss (default domain)")
    parser.add_argument("--leave", type=int, default=1, help="domains left out at a time (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the starts (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_domains)


def pooling(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Adds the flags that pool several domains into one table."""
    parser.add_argument(
        "--by-domain", metavar="GENERAL", required=required,
        help='pool the domains that are each mixed alone into this corpus: the evaluated corpora are then "domain" and '
        "GENERAL, for --law cross_domain",
    )  # fmt: skip
    learnability(parser, required)


def learnability(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Adds the flag of the tokens at which a domain's learnability is measured."""
    parser.add_argument(
        "--learnability", type=tables.numbers, metavar="T0,T1[,T2]", required=required,
        help="measure k1, k2, k3 of each corpus for cross_domain, from its smallest run's losses at these tokens",
    )  # fmt: skip


def asking(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which domain a fit of several is asked about."""
    parser.add_argument(
        "--domain-probe", type=Path, metavar="TABLE",
        help="runs table of short runs of a domain that no fit has seen; the fits are of several (--by-domain)",
    )  # fmt: skip
    parser.add_argument("--of-domain", metavar="NAME", help="one of the domains that the fits are of")


def about(args: argparse.Namespace, fit: Any) -> Any:
    """The fit as it speaks of the domain that `asking`'s flags name; itself where they name none."""
    from cptlaw import runs

    if args.domain_probe is not None and args.of_domain is not None:
        raise UserError("--domain-probe and --of-domain: give one of them")
    if args.domain_probe is None:
        return fit if args.of_domain is None else fit.for_domain(args.of_domain)
    flag = f"--domain-probe {args.domain_probe}"
    general = [name for name in runs.corpora(fit.residuals) if name != runs.DOMAIN]
    if "mixed_in" not in fit.residuals or len(general) != 1:
        raise UserError(f"{flag}: the fit of {fit.eval} is not of several domains; fit with --by-domain GENERAL")
    if set(runs.COEFFICIENTS) & set(fit.law.columns) and not args.learnability:
        raise UserError(
            f"{flag}: {fit.law.name} reads the probe's learnability: give --learnability as for the fitted table"
        )
    try:
        probe = runs.by_domain(_probe(args.domain_probe, fit), general[0], args.learnability)
    except runs.TableError as error:
        raise UserError(f"{flag}: {error}") from None
    names = sorted(set(probe["mixed_in"]))
    if len(names) > 1:
        raise UserError(f"{flag}: it probes {', '.join(names)}; give one domain's runs")
    return fit.for_domain(names[0], probe)


def _probe(path: Path, fit: Any) -> Any:
    """The probe's runs, under our headers or under those of the table that was fitted."""
    from cptlaw import runs

    try:
        return runs.read(path)
    except runs.TableError:
        if not tables.remembered([fit], path):
            raise
        return tables.read(argparse.Namespace(), path, where=False, like=[fit])


def _domains(args: argparse.Namespace) -> None:
    from cptlaw import cache, runs
    from cptlaw.fitting import unseen

    cache.keep_compiled()
    table = runs.by_domain(tables.read(args, args.table), args.by_domain, args.learnability)
    found = unseen.leave_out(
        table,
        runs.DOMAIN if args.of == "domain" else args.by_domain,
        tokens=args.learnability,
        leave=args.leave,
        seed=args.seed,
        progress=True,
    )
    summary = found.summary()
    if args.json:
        lines = {"summary": summary, "domains": found.table}
        print(json.dumps({name: json.loads(rows.to_json(orient="records")) for name, rows in lines.items()}))
        return
    print(f"{found.headline()}\n")
    error = found.table.pivot_table(index="method", columns="domain", values="mean_log", sort=False)
    print(f"{'mean error':26} {'all':>8} " + " ".join(f"{name[:10]:>10}" for name in error) + "   90% covers, width")
    for row in summary.itertuples():
        each = " ".join(f"{error.loc[row.method, name]:10.2%}" for name in error)
        covers = "" if row.cover != row.cover else f"   {row.cover:.0%}, {row.width:.1%}"
        note = "   (saw its rows: what could be had)" if row.method == found.own else ""
        print(f"{row.method:26} {row.mean_log:8.2%} {each}{covers}{note}")
