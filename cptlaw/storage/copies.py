"""A folder of a bucket on this machine's disk: fetched once, whatever the number of processes, and published again."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cptlaw import atomic, cache, paths
from cptlaw.storage.bucket import Bucket, StorageError, is_bucket

_KNOWN = ".published.json"


class Copy:
    """The objects of a place in a bucket as files of `path`.

    What is fetched and published is told by the object's version and the file's size and time of change, which the copy
    remembers; so only what is new or other moves. Whole objects only: of two machines that publish one file, the later
    one's stays.

    Args:
      wanted: whether an object, or a file, of a name belongs to the copy.
    """

    def __init__(self, bucket: Bucket, path: Path, wanted: Callable[[str], bool] = lambda name: True):
        self._bucket, self.path, self._wanted = bucket, path, wanted

    def fetch(self) -> None:
        """Brings files up to date. Those that are not in the bucket stay."""
        with self._known() as known:
            found = {name: entry for name, entry in self._bucket.list().items() if self._belongs(name)}
            # Ledgers, results and configs say that what they tell of is there: they come after it.
            for name in sorted(found, key=lambda name: (name.endswith(".json"), name)):
                file, version = self.path / name, found[name][1]
                if name not in known or known[name][0] != version or not file.exists():
                    self._bucket.download(name, file)
                    known[name] = [version, *_identity(file)]

    def publish(self) -> None:
        """Writes to the bucket what is new here, or other than it was when it was fetched or published last."""
        with self._known() as known:
            files = {file.relative_to(self.path).as_posix(): file for file in self.path.rglob("*") if file.is_file()}
            changed = [
                name for name, file in files.items()
                if self._belongs(name) and known.get(name, [None])[1:] != _identity(file)
            ]  # fmt: skip
            for name in sorted(changed, key=lambda name: (name.endswith(".json"), name)):
                before = _identity(files[name])
                self._bucket.upload(files[name], name)
                known[name] = ["", *before]
            if changed:
                versions = {name: version for name, (_, version) in self._bucket.list().items()}
                for name in changed:
                    known[name][0] = versions.get(name, "")

    def _belongs(self, name: str) -> bool:
        return self._wanted(name) and not any(part.startswith(".") for part in name.split("/"))

    @contextlib.contextmanager
    def _known(self) -> Iterator[dict[str, list]]:
        """Name -> [version, size, time] of what was fetched or published. One process of a machine at a time."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                known = json.loads((self.path / _KNOWN).read_bytes())
            except (OSError, ValueError):
                known = {}
            try:
                yield known
            finally:
                atomic.write_text(self.path / _KNOWN, json.dumps(known))


def copy_of(url: str, wanted: Callable[[str], bool] = lambda name: True) -> Copy:
    """The copy of a place in a bucket, in the cache of this machine."""
    bucket = Bucket.open(url)
    name = hashlib.sha256(bucket.url.encode()).hexdigest()[:16]
    return Copy(bucket, cache.directory() / "buckets" / name, wanted)


def folder(path: str | os.PathLike[str], name: str = "") -> Path:
    """A folder to read, whose place may be in a bucket: then a copy of it, fetched once a machine.

    Raises UserError for another URL, and for a place in a bucket that holds nothing.
    """
    if not is_bucket(path):
        return paths.local(path, name).expanduser()
    copy = copy_of(os.fspath(path))
    copy.fetch()
    if not any(not file.name.startswith(".") for file in copy.path.iterdir()):
        raise StorageError(f"{name} {path}: nothing there".strip())
    return copy.path


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write, whose place may be in a bucket: yields where to write it on this machine.

    In a bucket it is published when the block ends, small descriptions (.json) last. Raises StorageError when something
    is there already.
    """
    if not is_bucket(path):
        yield paths.local(path)
        return
    bucket = Bucket.open(path)
    if bucket.list():
        raise StorageError(f"{bucket.url}: exists already; name a new folder")
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "new"
        copy = Copy(bucket, Path(folder) / "new")
        if copy.path.exists():
            copy.publish()


def _identity(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
