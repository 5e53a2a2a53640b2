"""`cptlaw demo` and `cptlaw study`: the whole loop, of the built-in config or of your own."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cptlaw.launching.flags import need_training


def add_parsers(subparsers: argparse._SubParsersAction) -> None:
    """Registers the two commands."""
    demo = subparsers.add_parser(
        "demo",
        help="run the whole loop on this machine: corpora, base models, a grid of runs, law, answer, report",
        description="Trains small base models on prose, continually pre-trains them on mixes of prose and a domain, "
        "fits the D-CPT Law, recommends a mixture ratio with its interval, trains it, and writes report.html. "
        "Stop it with Ctrl-C; the same command continues.",
    )
    demo.add_argument("--domain", choices=("code", "biomedical"), default="code", help="the domain corpus")
    demo.add_argument("--fast", action="store_true", help="about two minutes, for a first look")
    demo.add_argument("--workdir", type=Path, help="where everything is kept (runs/demo, or runs/demo-fast, ...)")
    study_arguments(demo)
    demo.set_defaults(run=_demo)

    study = subparsers.add_parser(
        "study",
        help="run the whole loop of a config of your own",
        description="Runs a study's config file (see configs/study_small.py) to its answers and reports. "
        "Stop it with Ctrl-C; the same command continues.",
    )
    of_a_config(study)
    study_arguments(study)
    study.set_defaults(run=_study, overrides=[])


def of_a_config(parser: argparse.ArgumentParser) -> None:
    """Adds the config file, and where its study is kept."""
    parser.add_argument(
        "config",
        type=Path,
        metavar="CONFIG.py",
        help="a file with get_config(), or FILE.py:VARIANT; --config.FIELD=VALUE changes a field of it",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="where everything is kept")


def study_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that every study has."""
    parser.add_argument(
        "--update-config",
        action="store_true",
        help="if the workdir holds another config's runs, keep those that this config asks for too, and train the rest",
    )
    parser.add_argument("--retry-failed", action="store_true", help="train the runs that failed again")


def _demo(args: argparse.Namespace) -> None:
    need_training()
    from cptlaw.configs import demo
    from cptlaw.data.recipes import Offline

    variants = [v for v in (args.domain if args.domain != "code" else None, "fast" if args.fast else None) if v]
    workdir = args.workdir or Path("runs") / "-".join(["demo", *variants])
    config = demo.get_config(",".join(variants))
    try:
        _run(config, workdir, args)
    except Offline as error:
        if args.domain != "code":
            raise
        print(
            f"cptlaw: {error}\nGoing on without a network: prose from the standard library's docstrings stands in for "
            "the general corpus, which shows the loop, but is too near to code to mean much.",
            file=sys.stderr,
        )
        config.corpora.prose.source = "recipe:docstring_prose"
        _run(config, workdir.with_name(f"{workdir.resolve().name}-offline"), args)


def _study(args: argparse.Namespace) -> None:
    need_training()
    from cptlaw.studies import config_file

    _run(config_file.read(args.config, args.overrides), args.workdir, args)


def _run(config: Any, workdir: Path, args: argparse.Namespace) -> None:
    import jax

    from cptlaw.studies import answerable, mixture_study
    from cptlaw.studies import config as config_lib
    from cptlaw.studies.prepared import prepare

    study = config_lib.parse(config)
    answerable.check(study)
    # This process only fits laws and draws figures. The workers do not inherit the setting, and use the accelerator.
    jax.config.update("jax_platforms", "cpu")
    prepared = prepare(study, workdir, update_config=args.update_config, progress=not args.quiet)
    command = " ".join(["cptlaw", *sys.argv[1:]])
    for answer in mixture_study.run(prepared, retry_failed=args.retry_failed, command=command):
        print(answer.text(), flush=True)
