"""A folder of a bucket on this machine's disk moves only what is new, and is whole when its description is."""

import pytest

from cptlaw.storage import copies
from cptlaw.storage.bucket import Bucket, StorageError
from cptlaw.storage.copies import Copy


def test_what_is_new_goes_up_and_comes_down(bucket, tmp_path, monkeypatch):
    here, there = Copy(bucket, tmp_path / "here"), Copy(bucket, tmp_path / "there")
    (here.path / "data").mkdir(parents=True)
    (here.path / "data" / "tokens.bin").write_bytes(b"0123")
    (here.path / "data" / "ledger.json").write_text("{}")
    (here.path / ".hidden").write_text("x")
    order = []
    upload, download = Bucket.upload, Bucket.download
    monkeypatch.setattr(Bucket, "upload", lambda self, path, name: (order.append(name), upload(self, path, name)))
    monkeypatch.setattr(Bucket, "download", lambda self, name, path: (order.append(name), download(self, name, path)))
    here.publish()
    assert order == ["data/tokens.bin", "data/ledger.json"], "the ledger says that the rest is there"
    there.fetch()
    assert order[2:] == order[:2] and (there.path / "data" / "tokens.bin").read_bytes() == b"0123"
    order.clear()
    for copy in (here, there):
        copy.publish()
        copy.fetch()
    assert not order, "nothing is new"
    (there.path / "runs.csv").write_text("a,b\n")
    (there.path / "data" / "ledger.json").write_text('{"more": 1}')
    there.publish()
    assert order == ["runs.csv", "data/ledger.json"]
    here.fetch()
    assert (here.path / "data" / "ledger.json").read_text() == '{"more": 1}' and order.count("data/ledger.json") == 2


def test_what_does_not_belong_stays(bucket, tmp_path):
    bucket.put("runs/one/state.json", b"{}")
    copy = Copy(bucket, tmp_path / "here", lambda name: not name.startswith("runs/"))
    copy.fetch()
    (copy.path / "runs").mkdir()
    (copy.path / "runs" / "log").write_text("x")
    copy.publish()
    assert set(bucket.list()) == {"runs/one/state.json"} and not (copy.path / "runs" / "one").exists()


def test_a_file_that_was_lost_here_is_fetched_again(bucket, tmp_path):
    bucket.put("x", b"1")
    copy = Copy(bucket, tmp_path / "here")
    copy.fetch()
    (copy.path / "x").unlink()
    copy.publish()
    copy.fetch()
    assert (copy.path / "x").read_bytes() == b"1"


@pytest.fixture
def opened(bucket, monkeypatch, tmp_path):
    """A URL that names the bucket of the test."""
    monkeypatch.setattr(Bucket, "open", staticmethod(lambda url: bucket))
    monkeypatch.setenv("CPTLAW_CACHE", str(tmp_path / "cache"))
    return "s3://name/of/it"


def test_a_folder_is_read_from_a_bucket(opened, bucket, tmp_path):
    with pytest.raises(StorageError, match="init_from s3://name/of/it: nothing there"):
        copies.folder(opened, "init_from")
    bucket.put("config.json", b"{}")
    assert (copies.folder(opened) / "config.json").read_text() == "{}"
    assert copies.folder(str(tmp_path)) == tmp_path


def test_a_folder_is_written_to_a_bucket_whole_or_not_at_all(opened, bucket):
    with pytest.raises(ZeroDivisionError), copies.new_folder(opened) as folder:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise ZeroDivisionError
    assert not bucket.list()
    with copies.new_folder(opened) as folder:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    assert bucket.get("config.json") == b"{}"
    with pytest.raises(StorageError, match="exists already; name a new folder"), copies.new_folder(opened):
        pass
