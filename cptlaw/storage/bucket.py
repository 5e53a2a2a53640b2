"""Whole objects in a bucket. The only file that knows obstore.

obstore has S3, Google Cloud Storage and Azure in one wheel without dependencies, and says of every write whether it was
conditional on what was there before. Credentials, regions and endpoints are those of the environment (AWS_*, GOOGLE_*),
as the library takes them by default.
"""

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cptlaw import atomic, paths
from cptlaw.errors import UserError

SCHEMES = ("gs", "s3")
_PART = 16 << 20  # bytes of a part of a large object, and of a range read at a time


class StorageError(UserError):
    """A bucket that is not there, may not be used, or does not answer."""


class Conflict(Exception):
    """A conditional write came too late: the object is there already, or is another than was expected."""


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is the URL of a place in a bucket."""
    url = paths.split_url(path)
    return url is not None and url[0] in SCHEMES


class Bucket:
    """A place in a bucket: objects by their name below it, `a/b/c`.

    Every method raises StorageError when the bucket is missing, may not be used or does not answer.

    Attributes:
      url: the place, for messages.
    """

    def __init__(self, url: str, store: Any):
        """`store` is obstore's, rooted at the place."""
        self.url, self._store = url, store

    @staticmethod
    def open(url: str | os.PathLike[str]) -> "Bucket":
        """The place that a URL names; two of one URL are one.

        Raises StorageError when the extra is not installed, no bucket is named, or it cannot be listed.
        """
        parts = paths.split_url(url)
        if parts is None or parts[0] not in SCHEMES:
            raise StorageError(f"{url}: no place in a bucket; give gs://BUCKET/FOLDER or s3://BUCKET/FOLDER")
        scheme, rest = parts
        name, _, prefix = rest.partition("/")
        if not name:
            raise StorageError(f"{scheme}://: names no bucket; give {scheme}://BUCKET/FOLDER")
        return _open("/".join([f"{scheme}://{name}", *filter(None, prefix.split("/"))]))

    def get(self, name: str) -> bytes | None:
        """The content of an object; None where there is none."""
        found = self.get_versioned(name)
        return None if found is None else found[0]

    def get_versioned(self, name: str) -> tuple[bytes, dict[str, str]] | None:
        """The content of an object and its version, which `replace` takes; None where there is none."""
        import obstore

        with self._told(name):
            try:
                found = obstore.get(self._store, name)
                return bytes(found.bytes()), _version(found.meta)
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return None

    def get_ranges(self, name: str, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Parts [begin, end) of an object. Raises FileNotFoundError where there is none."""
        import obstore

        with self._told(name, missing=True):
            starts, ends = [begin for begin, _ in ranges], [end for _, end in ranges]
            return [bytes(part) for part in obstore.get_ranges(self._store, name, starts=starts, ends=ends)]

    def get_all(self, names: Sequence[str]) -> list[bytes]:
        """The contents of objects, fetched at the same time; empty for one that is gone."""
        if not names:
            return []
        with ThreadPoolExecutor(min(16, len(names))) as pool:
            return [content or b"" for content in pool.map(self.get, names)]

    def put(self, name: str, data: bytes | Iterable[bytes]) -> None:
        """Writes an object, whatever was there; readers see the old one or the new one. Parts may come one by one."""
        import obstore

        with self._told(name):
            content = data if isinstance(data, bytes) else iter(data)
            obstore.put(self._store, name, content, chunk_size=_PART, use_multipart=None if content is data else True)

    def create(self, name: str, data: bytes) -> dict[str, str]:
        """Writes an object that is not there; returns its version. Raises Conflict when it is there."""
        return self._swap(name, data, "create")

    def replace(self, name: str, data: bytes, version: dict[str, str]) -> dict[str, str]:
        """Writes an object over the `version` that was read; returns the new one. Raises Conflict for another."""
        return self._swap(name, data, version)

    def _swap(self, name: str, data: bytes, mode: Any) -> dict[str, str]:
        import obstore

        with self._told(name):
            try:
                return _version(obstore.put(self._store, name, data, mode=mode, use_multipart=False))
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError) as error:
                # When the answer to the first try was lost, the second one finds what the first has written.
                found = self.get_versioned(name)
                if found is not None and found[0] == data:
                    return found[1]
                raise Conflict(name) from error
            except FileNotFoundError as error:  # what was to be replaced is gone
                if _no_bucket(error):
                    raise
                raise Conflict(name) from error

    def list(self, prefix: str = "") -> dict[str, tuple[int, str]]:
        """Name -> (size, version as text) of all objects below a prefix, which ends where a folder does."""
        import obstore

        with self._told(prefix):
            found = [o for page in obstore.list(self._store, prefix or None, chunk_size=1000) for o in page]
        return {o["path"]: (o["size"], str(o["version"] or o["e_tag"])) for o in found}

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects; those that are not there are deleted already."""
        import obstore

        for name in names:
            with self._told(name), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, name)

    def upload(self, path: Path, name: str) -> None:
        """Writes a file as an object, in parts."""
        with path.open("rb") as file:
            if path.stat().st_size < _PART:
                self.put(name, file.read())
            else:
                self.put(name, iter(lambda: file.read(_PART), b""))

    def download(self, name: str, path: Path) -> None:
        """Writes an object as a file, whole or absent. Raises FileNotFoundError where there is none."""
        import obstore

        with self._told(name, missing=True), atomic.replacing(path) as temporary, temporary.open("wb") as file:
            for part in obstore.get(self._store, name).stream(min_chunk_size=_PART):
                file.write(part)

    def check(self, probe: str) -> None:
        """Writes, replaces and deletes the object `probe`. Raises StorageError unless conditional writes are kept to.

        Everything that keeps two processes from one run rests on them, and some servers that speak S3 ignore them.
        """
        first = self.create(probe, b"1")
        with contextlib.suppress(Conflict):
            self.create(probe, b"2")
            raise self._unconditional()
        self.replace(probe, b"3", first)
        with contextlib.suppress(Conflict):
            self.replace(probe, b"4", first)
            raise self._unconditional()
        self.delete([probe])

    def _unconditional(self) -> StorageError:
        return StorageError(
            f"{self.url}: its server ignores conditional writes (If-None-Match, If-Match), without which two processes "
            "could train one run; use another server, or mount the bucket and use one sweep alone"
        )

    @contextlib.contextmanager
    def _told(self, name: str, missing: bool = False) -> Iterator[None]:
        """Turns obstore's errors into StorageError; with `missing`, not that of an object that is not there."""
        from obstore import exceptions

        where = f"{self.url}/{name}".rstrip("/")
        try:
            yield
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
            raise StorageError(
                f"{where}: permission denied ({_reason(error)}); may these credentials list, read, write and delete "
                "there? They come from the environment (AWS_*, GOOGLE_APPLICATION_CREDENTIALS) or the machine's role"
            ) from error
        except FileNotFoundError as error:
            if missing and not _no_bucket(error):
                raise
            raise self._missing_bucket() from error
        except (exceptions.BaseError, OSError, ValueError) as error:
            if _no_bucket(error):
                raise self._missing_bucket() from error
            raise StorageError(
                f"{where}: the bucket does not answer ({_reason(error)}); check its name, region, endpoint and network"
            ) from error

    def _missing_bucket(self) -> StorageError:
        return StorageError(f"{self.url}: no such bucket; create it, or check its name and region")


@functools.lru_cache(maxsize=256)
def _open(url: str) -> Bucket:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StorageError(f"{url}: buckets need the package obstore: pip install 'cptlaw[buckets]'") from error
    try:
        bucket = Bucket(url, from_url(url))
    except Exception as error:  # a key or setting of the environment that is none, in many classes
        raise StorageError(f"{url}: cannot be opened ({_reason(error)}); check the environment's settings") from error
    with bucket._told(""):
        import obstore

        next(iter(obstore.list(bucket._store, chunk_size=1)), None)
    return bucket


def _version(meta: Any) -> dict[str, str]:
    return {key: meta[key] for key in ("e_tag", "version") if meta[key]}


def _no_bucket(error: BaseException) -> bool:
    return "NoSuchBucket" in str(error) or "bucket does not exist" in str(error)


def _reason(error: BaseException) -> str:
    """One line of obstore's many."""
    return (str(error).splitlines() or [""])[0][:300]
