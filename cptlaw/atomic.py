"""Files that are either whole or absent: write beside, fsync, rename."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cptlaw.errors import UserError
from cptlaw.paths import local


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it becomes `path`, on failure it is removed.

    The rename is atomic on POSIX, so a reader sees the old file or the new one, never a part.
    """
    path = local(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, because writers such as pandas choose compression by it.
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes 0600, but others may read a result
        _fsync(temporary)
        temporary.replace(path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` to `path` atomically, as UTF-8."""
    write_bytes(path, text.encode())


def check_place(path: str | os.PathLike[str], flag: str, *, folder: bool = False) -> None:
    """Raises UserError naming `flag` when a file (or a folder) could not be made at `path`; makes nothing."""
    path = local(path, flag)
    if path.is_dir() and not folder:
        raise UserError(f"{flag} {path}: a folder; give a file in it, such as {path / 'out.json'}")
    whole = path.absolute()
    there = next(p for p in ((whole, *whole.parents) if folder else whole.parents) if p.exists())
    if not there.is_dir():
        raise UserError(f"{flag} {path}: cannot be written, since {there} is a file and no folder; give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path}: cannot be written, since {there} may not be written to; give another place")


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
