"""Builds a study's token stores, and nothing else: on a machine with many cores, before the accelerators are paid for.

    cptlaw prepare --config configs/pythia.py --workdir /shared/runs/pythia

Stop or kill it whenever you like; the same command continues. Everything else then finds the stores in the workdir.
"""

import argparse

from cptlaw.launching import jobs


def main(args: argparse.Namespace) -> None:
    prepared = jobs.prepare(args)
    print(f"{prepared.workdir.data}: {', '.join(prepared.data)}; {prepared.vocab_size} token ids")
