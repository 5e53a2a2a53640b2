"""Builds a study's token stores, and nothing else: on a machine with many cores, before the accelerators are paid for.

    python -m launch.prepare --config configs/pythia.py --workdir /shared/runs/pythia

Stop or kill it whenever you like; the same command continues. Everything else then finds the stores in the workdir.

A corpus of many files that one machine would tokenise for days is tokenised by many, through Apache Beam (`pip install
'cptlaw[beam]'` here and on the workers). The store is the same byte for byte. Files and workdir have to be on a file
system that the workers share with this machine; the workers' options are Beam's own:

    python -m launch.prepare --config ... --workdir ... --runner=DirectRunner \\
        --pipeline_options=--direct_num_workers=8,--direct_running_mode=multi_processing
    python -m launch.prepare --config ... --workdir ... --runner=FlinkRunner \\
        --pipeline_options=--flink_master=HOST:8081,--environment_type=EXTERNAL,--environment_config=localhost:50000
"""

from typing import TYPE_CHECKING

from absl import flags

from cptlaw.errors import UserError
from launch import common

if TYPE_CHECKING:
    from cptlaw.data.beam import Runner

_RUNNER = flags.DEFINE_string(
    "runner", None, "An Apache Beam runner whose workers tokenise: DirectRunner, FlinkRunner, SparkRunner ..."
)
_OPTIONS = flags.DEFINE_list("pipeline_options", [], "Beam's options for it, separated by commas: --name=value,...")


def main() -> None:
    prepared = common.prepare(_runner())
    print(f"{prepared.workdir.data}: {', '.join(prepared.data)}; {prepared.vocab_size} token ids")


def _runner() -> "Runner | None":
    if _RUNNER.value is None:
        if _OPTIONS.value:
            raise UserError("--pipeline_options: whose? Name the Beam runner with --runner")
        return None
    try:
        from cptlaw.data.beam import Runner
    except ModuleNotFoundError as error:
        raise UserError(
            f"--runner: {error.name} is not installed; pip install 'cptlaw[beam]', here and on the workers"
        ) from None
    runner = Runner(_RUNNER.value, tuple(_OPTIONS.value))
    runner.check()
    return runner


if __name__ == "__main__":
    common.run(main, multihost=False)
