"""Trains a study's grid and writes its runs table.

    python -m launch.sweep --config configs/study_small.py --workdir runs/study_small
    python -m launch.sweep --config configs/demo.py:fast --config.batch_size=8 --workdir runs/mine

Stop it with Ctrl-C; the same command continues. Several of these may work on one workdir at the same time. At SIGTERM
it lets its workers save and exits with 75, which relaunchers take for "start me again".
"""

import shlex
import signal
from types import FrameType

from absl import flags

from cptlaw import runs as runs_table
from cptlaw.studies import mixture_study
from launch import common

_RETRY = flags.DEFINE_bool("retry-failed", False, "Train failed runs again.")


def main() -> None:
    signal.signal(signal.SIGTERM, _relaunch)
    prepared = common.prepare()
    table = mixture_study.train_grid(prepared, retry_failed=_RETRY.value)
    path = prepared.workdir.table
    runs_table.write(table, path)
    fit = f"cptlaw fit {path} --law {shlex.quote(prepared.study.fit.law)} --eval {prepared.study.domains[0]}"
    print(f"{path}: {table['run'].nunique()} runs, {len(table)} rows. Next: {fit}")


def _relaunch(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the saving
    raise SystemExit(common.EXIT_RELAUNCH)


if __name__ == "__main__":
    common.run(main, multihost=False)
