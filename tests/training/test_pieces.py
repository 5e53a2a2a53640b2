"""Checkpoints in a bucket keep the promises of those in a directory."""

import uuid

import jax
import numpy as np
import pytest
from obstore.store import MemoryStore
from tiny_run import CFG

from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.storage.bucket import Bucket, StorageError
from cptlaw.storage.tasks import BucketTask
from cptlaw.training import step
from cptlaw.training.checkpoints import CheckpointError, Checkpoints, CheckpointWarning, load_params, saved_steps

ADAMW = step.Optimizer()


@pytest.fixture(scope="module")
def layout():
    return Layout(make_mesh(2, 2, 2))


def abstract(layout):
    return step.make_start(CFG, ADAMW, layout)[1]


def state_of(layout, seed):
    """A state of arbitrary values, placed; nothing is compiled for it."""
    rng = np.random.default_rng(seed)

    def values(want):
        return jax.device_put(rng.integers(0, 1 << 20, want.shape).astype(want.dtype), want.sharding)

    return jax.tree.map(values, abstract(layout))


@pytest.fixture(scope="module")
def states(layout):
    return {n: state_of(layout, n) for n in (1, 2, 3)}


@pytest.fixture
def bucket():
    return Bucket(f"memory:{uuid.uuid4().hex}", MemoryStore())


@pytest.fixture
def task(bucket, tmp_path):
    task = BucketTask(bucket, "runs/one", tmp_path)
    with task.claim() as mine:
        assert mine
        yield task


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def save(task, states, memory=(), **policy):
    with Checkpoints(task.checkpoints, **policy) as checkpoints:
        for n, state in states.items():
            checkpoints.save(n, state, memory)


def test_the_newest_state_comes_back_exactly_on_any_mesh(task, states, layout):
    with Checkpoints(task.checkpoints) as checkpoints:
        assert checkpoints.restore(abstract(layout)) is None
    save(task, states, memory=[0.0, 1.5])
    other = Layout(make_mesh())
    for where in (layout, other):
        with Checkpoints(task.checkpoints) as checkpoints:
            n, state = checkpoints.restore(abstract(where))
        assert n == 3 and checkpoints.memory == [0.0, 1.5]
        same(state, states[3])
    assert state.params["embed"].sharding == other.shardings(state.params)["embed"]
    same(load_params(task.checkpoints, abstract(layout).params, step=2), states[2].params)


def test_recent_checkpoints_and_chosen_steps_are_kept(task, states, bucket):
    save(task, states, recent=1, keep=[1])
    assert saved_steps(task.checkpoints) == [1, 3]
    assert {name.split("/")[3] for name in bucket.list("runs/one/checkpoints/")} == {
        "0000000001-g000001",
        "0000000003-g000001",
    }


def damage(bucket, step):
    name = f"runs/one/checkpoints/{step:010}-g000001/data-0.bin"
    data = bytearray(bucket.get(name))
    data[len(data) // 2] ^= 1
    bucket.put(name, bytes(data))


def test_a_damaged_checkpoint_is_passed_over_and_removed(task, states, layout, bucket):
    save(task, states)
    damage(bucket, 3)
    passed_over = pytest.warns(CheckpointWarning, match="step 3 is damaged .wrong checksum of .*continuing from step 2")
    with Checkpoints(task.checkpoints) as checkpoints, passed_over:
        n, state = checkpoints.restore(abstract(layout))
    assert n == 2 and saved_steps(task.checkpoints) == [2]
    same(state, states[2])
    damage(bucket, 2)
    with (
        Checkpoints(task.checkpoints) as checkpoints,
        pytest.raises(CheckpointError, match="every checkpoint is damaged"),
    ):
        checkpoints.restore(abstract(layout))
    task.drop_checkpoints()
    assert saved_steps(task.checkpoints) == []


def test_what_was_killed_before_its_commit_is_no_checkpoint(task, states, layout, bucket):
    save(task, {n: states[n] for n in (1, 2)})
    bucket.delete(["runs/one/checkpoints/0000000002-g000001/commit.json"])
    with Checkpoints(task.checkpoints) as checkpoints:
        assert checkpoints.restore(abstract(layout))[0] == 1
        checkpoints.save(2, states[2])
    assert saved_steps(task.checkpoints) == [1, 2]
    task.end(b"{}")
    assert len({name.split("/")[3] for name in bucket.list("runs/one/checkpoints/")}) == 2


def test_another_model_is_named(task, states, layout):
    save(task, {1: states[1]})
    with pytest.raises(CheckpointError, match=r"memory:.*/0000000001-g000001, params: of another"):
        load_params(task.checkpoints, {**abstract(layout).params, "more": abstract(layout).params["embed"]})


def test_a_bucket_that_does_not_answer_fails_the_save_and_removes_nothing(task, states, monkeypatch):
    save(task, {1: states[1]})

    def broken(*_, **__):
        raise StorageError("does not answer")

    with pytest.raises(StorageError), Checkpoints(task.checkpoints) as checkpoints:
        monkeypatch.setattr(Bucket, "put", broken)
        checkpoints.save(2, states[2])
    assert saved_steps(task.checkpoints) == [1]


def test_what_is_donated_after_a_save_was_copied(task, layout):
    state = state_of(layout, 7)
    before = jax.tree.map(np.array, state.params)
    with Checkpoints(task.checkpoints) as checkpoints:
        checkpoints.save(1, state)
        spoil = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
        spoil(state.params)
    same(load_params(task.checkpoints, abstract(layout).params), before)
