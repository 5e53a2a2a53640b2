"""`cptlaw runs import`: what trackers and evaluation tools keep becomes a runs table under our own headers."""

import argparse
from pathlib import Path
from typing import Any

from cptlaw.cli import tables


def add_parsers(subparsers: Any) -> None:
    """Registers `runs` and what can be done with them."""
    parser = subparsers.add_parser(
        "runs",
        help="make a runs table of a tracker's runs, or of another table",
        description="Makes and rewrites runs tables.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    importing = actions.add_parser(
        "import",
        help="read runs from Weights & Biases, TensorBoard, lm-evaluation-harness or a table, and write a runs table",
        description="Reads runs, checks them and writes a runs table that every command reads without further flags. "
        "SOURCE is wandb:ENTITY/PROJECT (pip install 'cptlaw[wandb]'), tensorboard:FOLDER (a folder of runs with event "
        "files), lm-eval:FOLDER (results*.json), or a table whose headers are mapped. Metrics are headers: "
        "--loss med=val/loss_med --columns tokens=train/tokens,params=config_field.",
    )
    importing.add_argument(
        "source", metavar="SOURCE", help="wandb:ENTITY/PROJECT, tensorboard:FOLDER, lm-eval:FOLDER, TABLE"
    )
    importing.add_argument("--out", type=Path, required=True, metavar="TABLE", help="a .csv, .parquet or .jsonl file")
    tables.add_arguments(importing)
    importing.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> None:
    from cptlaw import runs
    from cptlaw.runs.trackers import is_source

    table = tables.read_runs(args, args.source) if is_source(args.source) else tables.read(args, Path(args.source))
    known = [name for name in table if name in (*runs.REQUIRED, *runs.OPTIONAL) or str(name).startswith(runs.PREFIXES)]
    rest = [name for name in table if name not in known]
    runs.write(table[[*known, *rest]], args.out)
    shares = ", ".join(runs.corpora(table)) or "none"
    print(
        f"{args.out}: {table['run'].nunique()} runs, {len(table)} rows; evaluated {', '.join(table['eval'].unique())}; "
        f"shares of {shares}. Next: cptlaw fit {args.out} --eval {table['eval'].iloc[0]}"
    )
