"""The same assertions over every storage: POSIX and memory by default, S3 and GCS where their servers are installed."""

import os
import uuid

import pytest

from benchmarks import servers
from cptlaw.storage import claims, tasks
from cptlaw.storage.bucket import Bucket
from cptlaw.storage.tasks import BucketTask, PosixTask

REAL = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("s3", "gcs")]
SCHEMES = {"s3": "s3", "gcs": "gs"}


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """Starts a server on first use; gives the URL of its bucket."""
    stack, urls = [], {}

    def start(kind):
        if kind not in urls:
            if servers.available(kind) is None:
                pytest.skip(f"no server for {kind}: pip install '.[servers]'")
            serving = servers.serve(kind, tmp_path_factory.mktemp(kind))
            environment = serving.__enter__()
            stack.append((serving, {name: os.environ.get(name) for name in environment}))
            os.environ.update(environment)
            urls[kind] = f"{SCHEMES[kind]}://{servers.BUCKET}"
        return urls[kind]

    yield start
    for serving, before in stack:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        serving.__exit__(None, None, None)


@pytest.fixture(params=["memory", *REAL])
def bucket(request, started):
    if request.param == "memory":
        from obstore.store import MemoryStore

        return Bucket(f"memory:{uuid.uuid4().hex}", MemoryStore())
    return Bucket.open(f"{started(request.param)}/{uuid.uuid4().hex}")


@pytest.fixture
def in_bucket(bucket, tmp_path):
    """Makes the task as another process would see it."""
    return lambda: BucketTask(bucket, "runs/one", tmp_path / "logs")


@pytest.fixture(params=["posix", "memory", *REAL])
def task(request, tmp_path, started):
    """Makes the task as another process would see it."""
    if request.param == "posix":
        return lambda: PosixTask(tmp_path / "one")
    if request.param == "memory":
        from obstore.store import MemoryStore

        made = Bucket(f"memory:{uuid.uuid4().hex}", MemoryStore())
    else:
        made = Bucket.open(f"{started(request.param)}/{uuid.uuid4().hex}")
    return lambda: BucketTask(made, "runs/one", tmp_path / "logs")


@pytest.fixture
def stale(monkeypatch):
    """From now on every claim looks as if its holder had been silent for long."""
    return lambda: monkeypatch.setattr(claims, "LEASE", -1.0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """What other claims do is seen at once."""
    monkeypatch.setattr(claims, "SOON", 0.0)
    monkeypatch.setattr(tasks, "SOON", 0.0)
