"""Which paths name a place outside this machine's file systems: the one place that decides."""

import os
import re
from pathlib import Path

from cptlaw.errors import UserError

# A scheme has two letters or more, so that a drive (C:/) is none. Path("gs://b/x") is gs:/b/x, and is still recognised.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)


def split_url(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """(scheme, the rest) of a URL, also of one that went through `Path`; None for a path."""
    match = _URL.fullmatch(os.fspath(path))
    return (match[1].lower(), match[2]) if match else None


def local(path: str | os.PathLike[str], name: str = "") -> Path:
    """`path` as a path of this machine.

    Raises UserError for a URL (gs://, s3://, az://, hdfs://, file:// and any other), which would otherwise become a
    folder called "gs:" in the working directory. `name` is the flag or field that it was given by.
    """
    if (url := split_url(path)) is None:
        return Path(path)
    scheme, rest = url
    if scheme == "file":
        raise UserError(f"{name} file:///{rest}: a URL; write it as a path, /{rest}".strip())
    said = f"{name} {scheme}://{rest}".strip()
    raise UserError(f"{said}: a URL, and only a path on this machine or one that is mounted is read and written here")
