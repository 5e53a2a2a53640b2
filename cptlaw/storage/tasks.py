"""A folder that one process at a time works on, until it has ended: on POSIX, and in a bucket."""

import contextlib
import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from cptlaw import atomic, records, runs
from cptlaw.storage.bucket import Bucket, StorageError
from cptlaw.storage.claims import SOON, Lost, Register, State
from cptlaw.storage.versions import Versions


class Task(Protocol):
    """What of a folder the engine needs, wherever it lies.

    Attributes:
      verdict: where the outcome is kept.
      path: this machine's folder for what is written while the work goes on (metrics, stacks, profiles). On POSIX it
        is the folder itself; in a bucket, its content is published when the claim is given back.
      checkpoints: where `training.checkpoints` keeps the work.
    """

    verdict: str

    @property
    def path(self) -> Path: ...

    @property
    def checkpoints(self) -> Path | Versions: ...

    def claim(self) -> contextlib.AbstractContextManager[bool]:
        """Yields whether this process now owns the work. Ownership ends with the block or with the process."""

    def join(self) -> None:
        """Takes part in the work of a process that owns it."""

    def claimed(self) -> bool:
        """Whether some process owns the work."""

    def holder(self) -> str:
        """Who claimed it last."""

    def outcome(self) -> bytes | None:
        """What `end` was given; None until then."""

    def has_ended(self) -> bool:
        """Whether there is an outcome; may be some seconds late to notice."""

    def end(self, outcome: bytes) -> None:
        """Ends the work, for good: of two processes one does. Raises Lost when another process owns it by now."""

    def reopen(self) -> None:
        """Forgets the outcome."""

    def write(self, name: str, data: bytes) -> None:
        """Writes a small object, whole or absent, that is the same whoever writes it."""

    def read(self, name: str) -> bytes | None:
        """What `write` wrote; None where there is none."""

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows to NAME.jsonl: they are kept once this returns. They count as their claim does."""

    def lines(self, name: str) -> bytes:
        """The text of all rows of NAME.jsonl that count, in the order of their claims."""

    def remove(self, name: str) -> None:
        """Removes NAME.jsonl."""

    def steps(self) -> list[int]:
        """The steps of its checkpoints, in order."""

    def drop_checkpoints(self) -> None:
        """Removes all of them."""

    def __str__(self) -> str:
        """Where it lies, for messages."""


class PosixTask:
    """A directory; the owner holds a lock (flock) that the kernel releases with the process."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.verdict = f"{path}/result.json"
        self.checkpoints = self.path / "checkpoints"

    def __str__(self) -> str:
        return str(self.path)

    @contextlib.contextmanager
    def claim(self) -> Iterator[bool]:
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
            # Another process may have ended the work between our look at it and the lock.
            yield not self.has_ended()

    def join(self) -> None:
        pass

    def claimed(self) -> bool:
        try:
            with (self.path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return False
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False

    def holder(self) -> str:
        return (self.path / "lock").read_text()

    def outcome(self) -> bytes | None:
        return self.read("result.json")

    def has_ended(self) -> bool:
        return (self.path / "result.json").exists()

    def end(self, outcome: bytes) -> None:
        self.write("result.json", outcome)

    def reopen(self) -> None:
        (self.path / "result.json").unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        atomic.write_bytes(self.path / name, data)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        runs.append(self.path / f"{name}.jsonl", rows)

    def lines(self, name: str) -> bytes:
        return self.read(f"{name}.jsonl") or b""

    def remove(self, name: str) -> None:
        (self.path / f"{name}.jsonl").unlink(missing_ok=True)

    def steps(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(int(path.name) for path in self.checkpoints.iterdir() if path.name.isdigit())
        return []

    def drop_checkpoints(self) -> None:
        shutil.rmtree(self.checkpoints, ignore_errors=True)


class BucketTask:
    """A folder of a bucket.

    state.json        who owns it, and the outcome (`claims.State`)
    rows/gN/M.jsonl   what `append` was given the Mth time under claim N; NAME/ for other names
    rows/told/        what it was given by those who did not own the work; always counts
    checkpoints/      see `versions`
    logs/gN/          the files of `path`, as they were when claim N was given back
    """

    def __init__(self, bucket: Bucket, name: str, logs: Path):
        self._bucket, self._name, self._logs = bucket, name, logs
        self._register = Register(bucket, f"{name}/state.json")
        self.checkpoints = Versions(bucket, f"{name}/checkpoints", self._register)
        self.verdict = f"{self}/state.json"
        self._appended = 0

    def __str__(self) -> str:
        return f"{self._bucket.url}/{self._name}"

    @property
    def path(self) -> Path:
        # A folder for each claim: a process of this machine that was paused may still write to its own.
        return self._logs / f"g{self._register.read().generation:06}"

    @contextlib.contextmanager
    def claim(self) -> Iterator[bool]:
        if not self._register.claim(cut=self._newest):
            yield False
            return
        self._appended = 0
        try:
            self._fetch_logs()
            yield True
        finally:
            if not self._register.lost:
                with contextlib.suppress(StorageError):  # no result depends on them
                    self._publish_logs()
            self._register.release()

    def join(self) -> None:
        self._register.follow()

    def claimed(self) -> bool:
        return self._register.held()

    def holder(self) -> str:
        holder = self._register.read().holder
        return f"{holder['host']} {holder['pid']}" if holder else "none any more"

    def outcome(self) -> bytes | None:
        return self._register.read().outcome.encode() or None

    def has_ended(self) -> bool:
        return bool(self._register.read(within=SOON).outcome)

    def end(self, outcome: bytes) -> None:
        if self._register.owned:
            self._register.end(outcome.decode())
            self.checkpoints.prune()
        elif self._register.lost:
            raise Lost(str(self))
        else:  # by one who knows that it cannot be worked on
            with self.claim() as mine:
                if mine:
                    self._register.end(outcome.decode())

    def reopen(self) -> None:
        self._register.reopen()

    def write(self, name: str, data: bytes) -> None:
        self._bucket.put(f"{self._name}/{name}", data)

    def read(self, name: str) -> bytes | None:
        return self._bucket.get(f"{self._name}/{name}")

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        if self._register.lost:
            raise Lost(str(self))
        self._appended += 1
        own = f"g{self._register.read().generation:06}/{self._appended:06}"
        if not self._register.owned:  # a witness, such as the sweep of a worker that died
            own = f"told/{time.time_ns():020}-{uuid.uuid4().hex}"
        self._bucket.put(f"{self._name}/{name}/{own}.jsonl", runs.lines(rows))

    def lines(self, name: str) -> bytes:
        state, prefix = self._register.read(), f"{self._name}/{name}/"
        found = sorted(self._bucket.list(prefix))
        folders = [path.removeprefix(prefix).split("/")[0] for path in found]
        texts = zip(folders, self._bucket.get_all(found))
        return b"".join(text if who == "told" else _counting(text, int(who[1:]), state) for who, text in texts)

    def remove(self, name: str) -> None:
        self._bucket.delete(self._bucket.list(f"{self._name}/{name}/"))

    def steps(self) -> list[int]:
        return self.checkpoints.steps()

    def drop_checkpoints(self) -> None:
        self.checkpoints.delete_all()

    def _newest(self, state: State) -> int:
        return max(self.checkpoints.steps(), default=0)

    def _fetch_logs(self) -> None:
        """Of every file the most that was written of it before this claim: here, or on another machine."""
        prefix, largest = f"{self._name}/logs/", dict[str, int]()
        for path, (size, _) in sorted(self._bucket.list(prefix).items()):
            name = path.removeprefix(prefix).partition("/")[2]
            if size > largest.get(name, -1):
                self._bucket.download(path, self.path / name)
                largest[name] = size
        for folder in self._logs.glob("g*"):
            for file in folder.rglob("*") if folder != self.path else ():
                name = file.relative_to(folder).as_posix()
                if file.is_file() and file.stat().st_size > largest.get(name, -1):
                    (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, self.path / name)
                    largest[name] = file.stat().st_size
        self.path.mkdir(parents=True, exist_ok=True)

    def _publish_logs(self) -> None:
        for file in sorted(path for path in self.path.rglob("*") if path.is_file() and not path.name.startswith(".")):
            name = file.relative_to(self.path).as_posix()
            self._bucket.upload(file, f"{self._name}/logs/{self.path.name}/{name}")


def _counting(text: bytes, generation: int, state: State) -> bytes:
    """The rows of a text that count."""
    if generation == state.generation:
        return text
    kept = []
    for line in text.splitlines(keepends=True):
        step = records.parse(line, "", "").get("step", 0)
        if state.counts(generation, step if isinstance(step, int) else 0):
            kept.append(line)
    return b"".join(kept)
