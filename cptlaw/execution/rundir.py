"""One run on disk: finished, failed, running, resumable or pending, and never two of these.

WORKDIR/runs/ID/
  run.json         what the run is
  lock             held (flock) by the process that works on it; the kernel releases it with the process
  rows.jsonl       its rows of the runs table, appended as they are measured
  metrics.jsonl    what its steps measured, appended while it trains
  checkpoints/     where it continues after a stop
  attempts.jsonl   one line for every time it died under a living sweep
  result.json      written last: finished, or failed with the reason
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cptlaw import atomic, runs
from cptlaw.execution.run import Run
from cptlaw.execution.workdir import Workdir

FINISHED, FAILED, RUNNING, RESUMABLE, PENDING = "finished", "failed", "running", "resumable", "pending"

# A run that kills its process this often is failed, so that one poisonous cell does not stop the grid.
MAX_ATTEMPTS = 3


def checkpoints_of(workdir: str | os.PathLike[str], run_id: str) -> Path:
    """The directory of a run's checkpoints."""
    return Workdir(workdir).run(run_id) / "checkpoints"


def read_result(path: Path) -> dict[str, Any] | None:
    """What the result.json in a run's directory says, or None while there is none."""
    try:
        return json.loads((path / "result.json").read_text())
    except FileNotFoundError:
        return None


class RunDir:
    """The directory of one run.

    Attributes:
      alone: one process trains the run.
    """

    alone = True

    def __init__(self, workdir: str | os.PathLike[str], run: Run):
        self.run = run
        self.path = Workdir(workdir).run(run.id)
        self.checkpoints = checkpoints_of(workdir, run.id)
        self.rows_path = self.path / "rows.jsonl"

    def state(self) -> str:
        """One of the five states; reads the disk every time."""
        result = self.result()
        if result is not None:
            return result["state"]
        if self._locked():
            return RUNNING
        return RESUMABLE if self.checkpoints.exists() else PENDING

    def result(self) -> dict[str, Any] | None:
        return read_result(self.path)

    @contextlib.contextmanager
    def claim(self) -> Iterator[bool]:
        """Yields whether this process now owns the run. Ownership ends with the block or with the process."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            lock.truncate(0)
            lock.write(f"{socket.gethostname()} {os.getpid()}")
            lock.flush()
            # Another process may have finished the run between our look at it and the lock.
            if self.result() is not None:
                yield False
                return
            atomic.write_text(self.path / "run.json", json.dumps(dataclasses.asdict(self.run), indent=1))
            yield True

    def holder(self) -> str:
        """Host and process id of who claimed the run last."""
        return (self.path / "lock").read_text()

    def finish(self, **facts: Any) -> None:
        atomic.write_text(self.path / "result.json", json.dumps({"state": FINISHED, **facts}, indent=1))

    def fail(self, reason: str, details: str = "") -> None:
        if details:
            atomic.write_text(self.path / "error.txt", details)
        atomic.write_text(self.path / "result.json", json.dumps({"state": FAILED, "reason": reason}, indent=1))

    def died(self, reason: str) -> bool:
        """Records that the run's process died. Returns whether that was once too often, and the run is failed."""
        runs.append(self.path / "attempts.jsonl", [{"reason": reason}])
        attempts = (self.path / "attempts.jsonl").read_text().splitlines()
        # Another process may have taken it up already: that one may yet finish it, and if it dies, it is asked again.
        if len(attempts) < MAX_ATTEMPTS or self._locked():
            return False
        self.fail(f"{reason}, {len(attempts)} times")
        return True

    def has_died(self) -> bool:
        """Whether its process has died since it was last retried."""
        return (self.path / "attempts.jsonl").exists()

    def retry(self) -> None:
        """Forgets a failure: the run is resumable or pending again."""
        for name in ("result.json", "attempts.jsonl"):
            (self.path / name).unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """The rows measured so far. What a resumed run has measured again counts once, a torn line not at all."""
        if not self.rows_path.exists():
            return []
        rows = [json.loads(line) for line in self.rows_path.read_text().split("\n")[:-1]]
        return list({(row["step"], row["eval"]): row for row in rows}.values())

    def add(self, rows: list[Mapping[str, Any]]) -> None:
        runs.append(self.rows_path, rows)

    def drop_checkpoints(self) -> None:
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _locked(self) -> bool:
        try:
            with (self.path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
