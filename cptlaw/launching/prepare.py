"""Builds a study's token stores, and nothing else: on a machine with many cores, before the accelerators are paid for.

    cptlaw prepare --config configs/pythia.py --workdir /shared/runs/pythia

Stop or kill it whenever you like; the same command continues. Everything else then finds the stores in the workdir.

A corpus of many files that one machine would tokenise for days is tokenised by many, through Apache Beam (`pip install
'cptlaw[beam]'` here and on the workers). The store is the same byte for byte. Files and workdir have to be on a file
system that the workers share with this machine; the workers' options are Beam's own:

    cptlaw prepare --config ... --workdir ... --runner=DirectRunner \\
        --pipeline_options=--direct_num_workers=8,--direct_running_mode=multi_processing
    cptlaw prepare --config ... --workdir ... --runner=FlinkRunner \\
        --pipeline_options=--flink_master=HOST:8081,--environment_type=EXTERNAL,--environment_config=localhost:50000
"""

import argparse
from typing import TYPE_CHECKING

from cptlaw.errors import UserError
from cptlaw.launching import jobs

if TYPE_CHECKING:
    from cptlaw.data.beam import Runner


def main(args: argparse.Namespace) -> None:
    prepared = jobs.prepare(args, _runner(args))
    print(f"{prepared.workdir.data}: {', '.join(prepared.data)}; {prepared.vocab_size} token ids")


def _runner(args: argparse.Namespace) -> "Runner | None":
    if args.runner is None:
        if args.pipeline_options:
            raise UserError("--pipeline_options: whose? Name the Beam runner with --runner")
        return None
    try:
        from cptlaw.data.beam import Runner
    except ModuleNotFoundError as error:
        raise UserError(
            f"--runner: {error.name} is not installed; pip install 'cptlaw[beam]', here and on the workers"
        ) from None
    runner = Runner(args.runner, tuple(args.pipeline_options.split(",")) if args.pipeline_options else ())
    runner.check()
    return runner
