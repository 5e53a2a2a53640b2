"""Trains a study's grid and writes its runs table.

    cptlaw sweep --config configs/study_small.py --workdir runs/study_small
    cptlaw sweep --config configs/demo.py:fast --config.batch_size=8 --workdir runs/mine

    cptlaw sweep --config configs/cpt8.py --workdir runs/cpt8 --have cpt8

Its workers fill the machine, one a GPU or TPU chip (see devices_per_run in the config). Stop it with Ctrl-C; the same
command continues. Several of these may work on one workdir at the same time. At SIGTERM
it lets its workers save and exits with 75, which relaunchers take for "start me again". With --have, a run of which
that table holds all rows is not trained again, nor is a base model unless a missing run starts from it: so a table
outlives the workdir that it was made in.
"""

import argparse
import dataclasses
import shlex
import signal
from types import FrameType

import jax

from cptlaw import runs as runs_table
from cptlaw import tables
from cptlaw.launching import jobs
from cptlaw.studies import mixture_study


def main(args: argparse.Namespace) -> None:
    signal.signal(signal.SIGTERM, _relaunch)
    # This process trains nothing. Its workers do not inherit the setting, and have the accelerators.
    jax.config.update("jax_platforms", "cpu")
    have = None if args.have is None else runs_table.read(tables.path(args.have))
    prepared = dataclasses.replace(jobs.prepare(args), sweeps=args.sweeps)
    table = mixture_study.train_grid(prepared, retry_failed=args.retry_failed, have=have)
    path = prepared.workdir.table
    runs_table.write(table, path)
    prepared.workdir.publish()
    fit = f"cptlaw fit {path} --law {shlex.quote(prepared.study.fit.law)} --eval {prepared.study.domains[0]}"
    print(f"{path}: {table['run'].nunique()} runs, {len(table)} rows. Next: {fit}")


def _relaunch(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the saving
    raise SystemExit(jobs.EXIT_RELAUNCH)
