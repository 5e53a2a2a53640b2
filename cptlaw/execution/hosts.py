"""A run that several processes train together (jax.distributed): only the first of them writes to the disk."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cptlaw.execution.run import Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir


def run_dir(workdir: Workdir, run: Run) -> RunDir:
    """The run's directory, as this process may use it."""
    return RunDir(workdir, run) if jax.process_count() == 1 else _Together(workdir, run)


class _Together(RunDir):
    """The first process claims the run and writes, for all; the others see the same answers."""

    alone = False

    @contextlib.contextmanager
    def claim(self) -> Iterator[bool]:
        with super().claim() if _first() else contextlib.nullcontext(False) as mine:
            shared = bool(multihost_utils.broadcast_one_to_all(np.array(mine)))
            if shared and not _first():
                self.task.join()
            yield shared

    def finish(self, **facts: Any) -> None:
        if _first():
            super().finish(**facts)
        multihost_utils.sync_global_devices("finished")

    def fail(self, reason: str, details: str = "") -> None:
        # No barrier, because perhaps only this process has failed and the others would never reach it.
        if _first():
            super().fail(reason, details)

    def add(self, rows: list[Mapping[str, Any]]) -> None:
        if _first():
            super().add(rows)

    def drop_checkpoints(self) -> None:
        if _first():
            super().drop_checkpoints()


def _first() -> bool:
    return jax.process_index() == 0
