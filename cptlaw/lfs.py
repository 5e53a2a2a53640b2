"""Git LFS pointers: the small text files that a clone without Git LFS leaves in the place of large ones."""

from pathlib import Path

from cptlaw.errors import UserError

_BEGIN = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(path: Path, error: type[UserError]) -> None:
    """Raises `error` when `path` is a pointer: its content was never fetched. Other files pass, and missing ones."""
    if path.is_file() and path.stat().st_size < 1024:
        with path.open("rb") as file:
            if file.read(len(_BEGIN)) == _BEGIN:
                raise error(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull` in its folder")
