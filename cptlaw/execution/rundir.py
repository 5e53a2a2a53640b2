"""One run on disk: finished, failed, running, resumable or pending, and never two of these.

WORKDIR/runs/ID/
  run.json         what the run is
  lock             held (flock) by the process that works on it; the kernel releases it with the process
  rows.jsonl       its rows of the runs table, appended as they are measured
  metrics.jsonl    what its steps measured, appended while it trains
  checkpoints/     where it continues after a stop
  attempts.jsonl   one line for every time it died under a living sweep, with the step of its newest checkpoint
  result.json      written last: finished, with the number and the hash of its rows, or failed with the reason
"""

import contextlib
import dataclasses
import fcntl
import itertools
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cptlaw import atomic, records, runs
from cptlaw.errors import UserError
from cptlaw.execution.run import Run
from cptlaw.execution.workdir import Workdir

FINISHED, FAILED, RUNNING, RESUMABLE, PENDING = "finished", "failed", "running", "resumable", "pending"

# A run that kills its process this often without coming further is failed, so that one poisonous cell does not stop the
# grid.
MAX_ATTEMPTS = 3

_AGAIN = "delete the directory of the run, and it is trained again"
_ROW: dict[str, records.Kinds] = {"step": int, "eval": str, "loss": (int, float)}


class RunError(UserError):
    """A run's directory that holds something else than what a run writes."""


def checkpoints_of(workdir: str | os.PathLike[str], run_id: str) -> Path:
    """The directory of a run's checkpoints."""
    return Workdir(workdir).run(run_id) / "checkpoints"


def read_result(path: Path) -> dict[str, Any] | None:
    """What the result.json in a run's directory says, or None while there is none.

    Raises RunError naming the file, and the field where one is wrong.
    """
    file = path / "result.json"
    result = records.read(file, {"state": str}, _AGAIN, RunError)
    if result is None:
        return None
    if result["state"] not in (FINISHED, FAILED):
        raise RunError(f"{file}: damaged: field 'state' is {result['state'][:50]!r}; {_AGAIN}")
    kinds: dict[str, records.Kinds] = {"reason": str} if result["state"] == FAILED else {"spent": dict, "losses": list}
    records.require(result, kinds, str(file), _AGAIN, RunError)
    for loss in result.get("losses", ()):
        if not isinstance(loss, dict) or not {"eval", "loss"} <= loss.keys():
            raise RunError(f"{file}: damaged: field 'losses' has {str(loss)[:50]!r}, which is no loss; {_AGAIN}")
    return result


def read_run(path: Path) -> Run:
    """The run that a run's directory is of, by its run.json. Raises RunError naming the file."""
    file = path / "run.json"
    fields = records.read(file, {"id": str, "phase": dict}, _AGAIN, RunError)
    if fields is None:
        raise RunError(f"{file}: no such file; train the run first")
    try:
        run = Run.of(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file}: damaged: not the fields of a run ({error}); {_AGAIN}") from None
    if run.id != path.name:
        raise RunError(f"{file}: damaged: field 'id' is {run.id!r}, not the directory's name; {_AGAIN}")
    return run


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
            records.write(self.path / "run.json", dataclasses.asdict(self.run))
            yield True

    def holder(self) -> str:
        """Host and process id of who claimed the run last."""
        return (self.path / "lock").read_text()

    def has_ended(self) -> bool:
        """Whether there is a result; asks the disk for no more than that."""
        return (self.path / "result.json").exists()

    def finish(self, **facts: Any) -> None:
        rows = self.rows()
        measured = {"rows": len(rows), "rows_sha256": records.digest(rows)}
        records.write(self.path / "result.json", {"state": FINISHED, **facts, **measured})

    def fail(self, reason: str, details: str = "") -> None:
        if details:
            atomic.write_text(self.path / "error.txt", details)
        records.write(self.path / "result.json", {"state": FAILED, "reason": reason})

    def died(self, reason: str) -> bool:
        """Records that the run's process died. Returns whether that was once too often, and the run is failed.

        Deaths count from the newest checkpoint on: a run that comes further between them may die as often as it likes.
        """
        path, step = self.path / "attempts.jsonl", self.newest_step()
        runs.append(path, [{"reason": reason, "step": step}])
        attempts = records.read_lines(path, {"reason": str}, "delete the file", RunError)
        here = itertools.takewhile(lambda attempt: attempt.get("step", step) == step, reversed(attempts))
        count = sum(1 for _ in here)
        # Another process may have taken it up already: that one may yet finish it, and if it dies, it is asked again.
        if count < MAX_ATTEMPTS or self._locked():
            return False
        self.fail(f"{reason}, {count} times" + (f" since step {step}" if step else ""))
        return True

    def newest_step(self) -> int:
        """The step of its newest whole checkpoint; 0 if it has none."""
        with contextlib.suppress(FileNotFoundError):
            return max((int(path.name) for path in self.checkpoints.iterdir() if path.name.isdigit()), default=0)
        return 0

    def has_died(self) -> bool:
        """Whether its process has died since it was last retried."""
        return (self.path / "attempts.jsonl").exists()

    def retry(self) -> None:
        """Forgets a failure: the run is resumable or pending again."""
        for name in ("result.json", "attempts.jsonl"):
            (self.path / name).unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """The rows measured so far. What a resumed run has measured again counts once, a torn line not at all.

        Raises RunError naming the file and the line that is no row.
        """
        rows = records.read_lines(self.rows_path, _ROW, _AGAIN, RunError)
        return list({(row["step"], row["eval"]): row for row in rows}.values())

    def measured(self) -> list[dict[str, Any]]:
        """The rows of a finished run, compared with their hash. Raises RunError when they are other rows."""
        rows, result = self.rows(), self.result() or {}
        if "rows" in result and (len(rows) != result["rows"] or records.digest(rows) != result["rows_sha256"]):
            raise RunError(
                f"{self.rows_path}: damaged: {len(rows)} rows, which are not the {result['rows']} that the run ended "
                f"with; {_AGAIN}"
            )
        return rows

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
