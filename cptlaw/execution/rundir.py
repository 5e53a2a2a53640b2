"""One run: finished, failed, running, resumable or pending, and never two of these.

What it is made of is the same wherever the workdir lies (`storage.tasks`). On POSIX it is

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
import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cptlaw import atomic, records
from cptlaw.errors import UserError
from cptlaw.execution.run import Run
from cptlaw.execution.workdir import Workdir
from cptlaw.storage.tasks import PosixTask, Task
from cptlaw.storage.versions import Versions

FINISHED, FAILED, RUNNING, RESUMABLE, PENDING = "finished", "failed", "running", "resumable", "pending"

# A run that kills its process this often without coming further is failed, so that one poisonous cell does not stop the
# grid.
MAX_ATTEMPTS = 3

_AGAIN = "delete the directory of the run, and it is trained again"
_ROW: dict[str, records.Kinds] = {"step": int, "eval": str, "loss": (int, float)}


class RunError(UserError):
    """A run's directory that holds something else than what a run writes."""


def checkpoints_of(workdir: str | os.PathLike[str], run_id: str) -> Path | Versions:
    """Where a run's checkpoints are."""
    return Workdir(workdir).task(run_id).checkpoints


def read_result(run: Task | Path) -> dict[str, Any] | None:
    """What a run's result.json says, or None while there is none.

    Raises RunError naming the file, and the field where one is wrong.
    """
    task = PosixTask(run) if isinstance(run, Path) else run
    text, file = task.outcome(), task.verdict
    if text is None:
        return None
    result = records.loads(text, file, {"state": str}, _AGAIN, RunError)
    if result["state"] not in (FINISHED, FAILED):
        raise RunError(f"{file}: damaged: field 'state' is {result['state'][:50]!r}; {_AGAIN}")
    kinds: dict[str, records.Kinds] = {"reason": str} if result["state"] == FAILED else {"spent": dict, "losses": list}
    records.require(result, kinds, file, _AGAIN, RunError)
    for loss in result.get("losses", ()):
        if not isinstance(loss, dict) or not {"eval", "loss"} <= loss.keys():
            raise RunError(f"{file}: damaged: field 'losses' has {str(loss)[:50]!r}, which is no loss; {_AGAIN}")
    return result


def read_run(run: Task | Path) -> Run:
    """What a run is, by its run.json. Raises RunError naming the file."""
    task = PosixTask(run) if isinstance(run, Path) else run
    text, file = task.read("run.json"), f"{task}/run.json"
    if text is None:
        raise RunError(f"{file}: no such file; train the run first")
    fields = records.loads(text, file, {"id": str, "phase": dict}, _AGAIN, RunError)
    try:
        found = Run.of(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file}: damaged: not the fields of a run ({error}); {_AGAIN}") from None
    if found.id != str(task).rpartition("/")[2]:
        raise RunError(f"{file}: damaged: field 'id' is {found.id!r}, not the directory's name; {_AGAIN}")
    return found


class RunDir:
    """One run of a workdir.

    Attributes:
      alone: one process trains the run.
      task: where it is kept.
      checkpoints: where its checkpoints are.
    """

    alone = True

    def __init__(self, workdir: str | os.PathLike[str], run: Run):
        self.run = run
        self.task = Workdir(workdir).task(run.id)
        self.checkpoints = self.task.checkpoints

    @property
    def path(self) -> Path:
        """This machine's directory for what is written while it trains: metrics, stacks, profiles."""
        return self.task.path

    @property
    def rows_path(self) -> Path:
        return self.path / "rows.jsonl"

    def state(self) -> str:
        """One of the five states; reads the storage every time."""
        result = self.result()
        if result is not None:
            return result["state"]
        if self.task.claimed():
            return RUNNING
        return RESUMABLE if self.checkpoints.exists() else PENDING

    def result(self) -> dict[str, Any] | None:
        return read_result(self.task)

    @contextlib.contextmanager
    def claim(self) -> Iterator[bool]:
        """Yields whether this process now owns the run. Ownership ends with the block or with the process."""
        with self.task.claim() as mine:
            if mine:
                self.task.write("run.json", records.dumps(dataclasses.asdict(self.run)))
            yield mine

    def holder(self) -> str:
        """Host and process id of who claimed the run last."""
        return self.task.holder()

    def has_ended(self) -> bool:
        """Whether there is a result; asks the storage for no more than that."""
        return self.task.has_ended()

    def finish(self, **facts: Any) -> None:
        rows = self.rows()
        measured = {"rows": len(rows), "rows_sha256": records.digest(rows)}
        self.task.end(records.dumps({"state": FINISHED, **facts, **measured}))

    def fail(self, reason: str, details: str = "") -> None:
        if details:
            atomic.write_text(self.path / "error.txt", details)
        self.task.end(records.dumps({"state": FAILED, "reason": reason}))

    def died(self, reason: str) -> bool:
        """Records that the run's process died. Returns whether that was once too often, and the run is failed.

        Deaths count from the newest checkpoint on: a run that comes further between them may die as often as it likes.
        """
        step = self.newest_step()
        self.task.append("attempts", [{"reason": reason, "step": step}])
        attempts = self._lines("attempts", {"reason": str}, "delete the file")
        here = itertools.takewhile(lambda attempt: attempt.get("step", step) == step, reversed(attempts))
        count = sum(1 for _ in here)
        # Another process may have taken it up already: that one may yet finish it, and if it dies, it is asked again.
        if count < MAX_ATTEMPTS or self.task.claimed():
            return False
        self.fail(f"{reason}, {count} times" + (f" since step {step}" if step else ""))
        return True

    def newest_step(self) -> int:
        """The step of its newest whole checkpoint; 0 if it has none."""
        return max(self.task.steps(), default=0)

    def has_died(self) -> bool:
        """Whether its process has died since it was last retried."""
        return bool(self.task.lines("attempts"))

    def retry(self) -> None:
        """Forgets a failure: the run is resumable or pending again."""
        self.task.reopen()
        self.task.remove("attempts")

    def rows(self) -> list[dict[str, Any]]:
        """The rows measured so far. What a resumed run has measured again counts once, a torn line not at all.

        Raises RunError naming the file and the line that is no row.
        """
        rows = self._lines("rows", _ROW, _AGAIN)
        return list({(row["step"], row["eval"], row.get("ema", 0.0)): row for row in rows}.values())

    def measured(self) -> list[dict[str, Any]]:
        """The rows of a finished run, compared with their hash. Raises RunError when they are other rows."""
        rows, result = self.rows(), self.result() or {}
        if "rows" in result and (len(rows) != result["rows"] or records.digest(rows) != result["rows_sha256"]):
            raise RunError(
                f"{self.task}/rows.jsonl: damaged: {len(rows)} rows, which are not the {result['rows']} that the run "
                f"ended with; {_AGAIN}"
            )
        return rows

    def add(self, rows: list[Mapping[str, Any]]) -> None:
        self.task.append("rows", rows)

    def drop_checkpoints(self) -> None:
        self.task.drop_checkpoints()

    def _lines(self, name: str, wanted: Mapping[str, records.Kinds], cure: str) -> list[dict[str, Any]]:
        return records.loads_lines(self.task.lines(name), f"{self.task}/{name}.jsonl", wanted, cure, RunError)
