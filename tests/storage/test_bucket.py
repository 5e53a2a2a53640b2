"""Objects are whole, conditions are kept, and what is wrong with a bucket is said in words."""

import contextlib
import sys
import threading

import pytest

from benchmarks import servers
from cptlaw.storage import bucket as bucket_module
from cptlaw.storage.bucket import Bucket, Conflict, StorageError, is_bucket


def test_objects_come_back_whole(bucket):
    assert bucket.get("a/b") is None and bucket.list() == {}
    bucket.put("a/b", b"1")
    bucket.put("a/c d", (bytes([i]) * (1 << 20) for i in range(20)))
    bucket.put("ab", b"")
    assert bucket.get("a/b") == b"1" and bucket.get("ab") == b""
    assert {name: size for name, (size, _) in bucket.list("a/").items()} == {"a/b": 1, "a/c d": 20 << 20}
    first, second = bucket.get_ranges("a/c d", [(0, 3), ((7 << 20) - 1, (7 << 20) + 1)])
    assert first == b"\0\0\0" and second == b"\6\7"
    with pytest.raises(FileNotFoundError):
        bucket.get_ranges("a/none", [(0, 1)])
    bucket.delete(["a/c d", "a/none"])
    assert set(bucket.list()) == {"a/b", "ab"}


def test_files_go_up_and_come_down(bucket, tmp_path):
    (tmp_path / "large").write_bytes(b"12345678" * (3 << 20))
    bucket.upload(tmp_path / "large", "large")
    bucket.download("large", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == (tmp_path / "large").read_bytes()
    with pytest.raises(FileNotFoundError):
        bucket.download("none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_of_many_writers_one_wins(bucket):
    bucket.check("probe")
    version = bucket.create("x", b"0")
    for turn in range(5):
        won, barrier = [], threading.Barrier(6)

        def write(i, turn=turn, version=version, barrier=barrier, won=won):
            barrier.wait()
            with contextlib.suppress(Conflict):
                won.append((bucket.replace("x", b"%d %d" % (turn, i), version), i))

        writers = [threading.Thread(target=write, args=(i,)) for i in range(6)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        ((version, i),) = won
        assert bucket.get("x") == b"%d %d" % (turn, i)
    with pytest.raises(Conflict):
        bucket.create("x", b"1")
    bucket.delete(["x"])
    with pytest.raises(Conflict):
        bucket.replace("x", b"1", version)


def test_a_write_whose_answer_was_lost_is_known_as_ones_own(bucket):
    bucket.create("x", b"mine")
    assert bucket.create("x", b"mine") == bucket.get_versioned("x")[1]


def test_a_server_that_ignores_conditions_is_refused(monkeypatch):
    from obstore.store import MemoryStore

    careless = Bucket("s3://careless", MemoryStore())
    monkeypatch.setattr(Bucket, "_swap", lambda self, name, data, mode: self.put(name, data) or {"e_tag": "0"})
    with pytest.raises(StorageError, match="s3://careless: its server ignores conditional writes"):
        careless.check("probe")


@pytest.mark.parametrize(
    "error, said",
    [
        ("PermissionDeniedError", r"permission denied \(no entry\); may these credentials"),
        ("UnauthenticatedError", "permission denied"),
        ("GenericError", r"does not answer \(no entry\)"),
    ],
)
def test_what_a_bucket_refuses_is_told(error, said):
    from obstore import exceptions

    class Store:
        pass

    refusing = Bucket("gs://b/x", Store())
    with pytest.raises(StorageError, match=f"gs://b/x/name: .*{said}"), refusing._told("name"):
        raise getattr(exceptions, error)("no entry\nDebug source")


def test_urls():
    assert is_bucket("gs://b/x") and is_bucket("s3://b") and not is_bucket("runs/x") and not is_bucket("az://b/x")
    with pytest.raises(StorageError, match="names no bucket"):
        Bucket.open("gs://")
    with pytest.raises(StorageError, match="no place in a bucket"):
        Bucket.open("az://b/x")


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    bucket_module._open.cache_clear()
    with pytest.raises(StorageError, match=r"pip install 'cptlaw\[buckets\]'"):
        Bucket.open("s3://never-opened/x")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_a_bucket_that_is_not_there(kind, started):
    with pytest.raises(StorageError, match="no such bucket; create it, or check its name"):
        Bucket.open(started(kind).replace(servers.BUCKET, "bucket-none") + "/x")
