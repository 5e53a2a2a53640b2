"""Checkpoints in a bucket: whole or absent, and those of a process that has lost its claim never counted.

PREFIX/STEP-gGENERATION/
  data-P.bin     what process P wrote, one piece after the other
  index-P.json   where each piece lies, with its hash; sealed, written when data-P.bin is whole
  commit.json    written last, by the first process, when all the others' index is there
"""

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from cptlaw import records
from cptlaw.storage.bucket import Bucket, StorageError
from cptlaw.storage.claims import Lost, Register

_NAME = re.compile(r"(\d+)-g(\d+)/commit\.json")
_CURE = "delete this checkpoint"
_TOGETHER = 600.0  # seconds that the first process waits for what the others write


class Versions:
    """The checkpoints below `prefix` of a bucket, each of a step, that count as the register says.

    What is asked of a checkpoint that is gone raises FileNotFoundError; Lost when the claim is another's.
    """

    def __init__(self, bucket: Bucket, prefix: str, register: Register):
        self._bucket, self._prefix, self._register = bucket, prefix, register

    def __str__(self) -> str:
        return f"{self._bucket.url}/{self._prefix}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Versions) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def exists(self) -> bool:
        return bool(self.steps())

    def steps(self) -> list[int]:
        """The steps of those that are whole and count, in order."""
        return sorted(self._whole())

    def where(self, step: int) -> str:
        return f"{self}/{self._whole().get(step, step)}"

    def write(self, step: int, process: int, index: Mapping[str, Any], data: Iterable[bytes]) -> None:
        """Writes what a process has of a new checkpoint."""
        name = self._new(step)
        self._bucket.put(f"{name}/data-{process}.bin", data)
        self._bucket.put(f"{name}/index-{process}.json", records.dumps(index))

    def commit(self, step: int, processes: int, facts: Mapping[str, Any]) -> None:
        """Makes a checkpoint whole, once all processes have written theirs. Raises Lost when the claim is another's."""
        name, limit = self._new(step), time.monotonic() + _TOGETHER
        wanted = {f"{name}/index-{process}.json" for process in range(processes)}
        while not wanted <= self._bucket.list(f"{name}/").keys():
            if time.monotonic() > limit:
                raise StorageError(f"{self}: not all of the {processes} processes have saved step {step}")
            time.sleep(0.2)
        self._register.beat()
        self._bucket.put(f"{name}/commit.json", records.dumps({**facts, "processes": processes}))

    def facts(self, step: int) -> dict[str, Any]:
        """What `commit` was given, and the number of processes. Raises UserError for what is damaged."""
        return self._record(step, "commit.json", {"processes": int})

    def index(self, step: int, process: int) -> dict[str, Any]:
        """What a process gave `write`. Raises UserError for what is damaged."""
        return self._record(step, f"index-{process}.json", {})

    def read(self, step: int, process: int, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Parts [begin, end) of a process's data."""
        path = self._path(step, f"data-{process}.bin")
        try:
            return self._bucket.get_ranges(path, ranges)
        except FileNotFoundError:
            raise self._gone(path) from None

    def delete(self, steps: Iterable[int]) -> None:
        """Deletes checkpoints. Raises Lost when the claim is another's.

        What is deleted was settled before a heartbeat that went well, so it is nothing that a later claim counts on,
        however long this process may be paused in between.
        """
        whole = self._whole()
        names = [whole[step] for step in steps if step in whole]
        if names:
            self._register.beat()
            for name in names:
                self._clear(f"{self._prefix}/{name}/")

    def delete_all(self) -> None:
        """Deletes all checkpoints, also what is left of those that never were whole or do not count.

        While this process holds the claim only those that count. Raises Lost when it has lost it.
        """
        if self._register.lost:
            raise Lost(str(self))
        if self._register.owned:
            self.delete(self.steps())
        else:
            self._clear(f"{self._prefix}/")

    def prune(self) -> None:
        """Deletes what is left of checkpoints that never were whole or do not count."""
        keep = set(self._whole().values())
        names = list(self._bucket.list(f"{self._prefix}/"))
        self._bucket.delete(name for name in names if name.removeprefix(f"{self._prefix}/").split("/")[0] not in keep)

    def _whole(self) -> dict[int, str]:
        """Step -> folder of the checkpoint that counts; of two of one step, that of the later generation."""
        state = self._register.read()
        found: dict[int, tuple[int, str]] = {}
        for name in self._bucket.list(f"{self._prefix}/"):
            if match := _NAME.fullmatch(name.removeprefix(f"{self._prefix}/")):
                step, generation = int(match[1]), int(match[2])
                if state.counts(generation, step):
                    found[step] = max(found.get(step, (0, "")), (generation, name.split("/")[-2]))
        return {step: name for step, (_, name) in found.items()}

    def _new(self, step: int) -> str:
        return f"{self._prefix}/{step:010}-g{self._register.read().generation:06}"

    def _record(self, step: int, name: str, wanted: Mapping[str, records.Kinds]) -> dict[str, Any]:
        path = self._path(step, name)
        if (data := self._bucket.get(path)) is None:
            raise self._gone(path)
        return records.loads(data, f"{self._bucket.url}/{path}", wanted, _CURE)

    def _path(self, step: int, name: str) -> str:
        """The object `name` of a checkpoint that counts."""
        if (version := self._whole().get(step)) is None:
            raise self._gone(f"{self._prefix}/{step:010}")
        return f"{self._prefix}/{version}/{name}"

    def _gone(self, path: str) -> FileNotFoundError:
        """The error for what was there a moment ago. Raises Lost when it was a successor who has removed it."""
        if self._register.owned or self._register.lost:
            self._register.beat()
        return FileNotFoundError(f"{self._bucket.url}/{path}")

    def _clear(self, prefix: str) -> None:
        # The commit first: what is half deleted is no checkpoint.
        self._bucket.delete(sorted(self._bucket.list(prefix), key=lambda name: not name.endswith("/commit.json")))
