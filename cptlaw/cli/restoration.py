"""`cptlaw restoration`: degradation classification pre-training of image restoration networks."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cptlaw.cli.demo import of_a_config
from cptlaw.launching.flags import need_training


def add_parsers(subparsers: Any) -> None:
    """Registers `restoration` and its commands."""
    parser = subparsers.add_parser(
        "restoration",
        help="the same question of images: does pre-training on degradation types pay?",
        description="Degradation classification pre-training of image restoration networks (arXiv 2501.15510), "
        "compared with training from scratch at equal steps and at equal compute, with pre-training on clean images "
        "alone, and with shuffled labels.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="a small study of photographs inside installed packages, on two cores",
        description="Trains all arms at a small size and writes report.html. Stop it with Ctrl-C; the same command "
        "continues.",
    )
    demo.add_argument("--tiny", action="store_true", help="a few steps, to see the loop run and nothing more")
    demo.add_argument(
        "--workdir", type=Path, help="where everything is kept (runs/restoration, or runs/restoration-tiny)"
    )
    demo.set_defaults(run=_demo)
    study = commands.add_parser(
        "study",
        help="a study of a config of your own",
        description="Runs a restoration study's config file (see configs/restoration_5d.py) to its page.",
    )
    of_a_config(study)
    study.set_defaults(run=_study, overrides=[])


def _demo(args: argparse.Namespace) -> None:
    need_training()
    from cptlaw.configs import restoration_demo

    variant = "tiny" if args.tiny else ""
    workdir = args.workdir or Path("runs") / "-".join(["restoration", *([variant] if variant else [])])
    _run(restoration_demo.get_config(variant), workdir, args)


def _study(args: argparse.Namespace) -> None:
    need_training()
    from cptlaw.studies import config_file

    _run(config_file.read(args.config, args.overrides), args.workdir, args)


def _run(config: Any, workdir: Path, args: argparse.Namespace) -> None:
    from cptlaw import cache
    from cptlaw.paths import local
    from cptlaw.restoration import settings, study
    from cptlaw.restoration.page import write

    cache.keep_compiled()
    asked, workdir = settings.parse(config), local(workdir, "--workdir")
    bench, done = study.run(asked, workdir, progress=not args.quiet)
    table = study.table(asked, done)
    print(write(workdir / "report.html", bench, done, table, workdir, " ".join(["cptlaw", *sys.argv[1:]])))
