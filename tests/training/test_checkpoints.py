import dataclasses

import jax
import numpy as np
import pytest
from tiny_run import CFG

from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.training import checkpoints as checkpoints_module
from cptlaw.training import orbax_directory, step
from cptlaw.training.checkpoints import CheckpointError, Checkpoints, CheckpointWarning, UnreadableError, load_params

ADAMW = step.Optimizer()


@pytest.fixture(scope="module")
def layout():
    return Layout(make_mesh())


@pytest.fixture(scope="module")
def states(layout):
    start, _ = step.make_start(CFG, ADAMW, layout)
    return {n: start(step.make_init(CFG, layout)(n)) for n in (1, 2, 3)}


def abstract(layout, cfg=CFG):
    return step.make_start(cfg, ADAMW, layout)[1]


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def save(directory, states, **policy):
    with Checkpoints(directory, **policy) as checkpoints:
        for n, state in states.items():
            checkpoints.save(n, state)


def data_files(directory):
    return list(directory.glob("**/d/*"))


def test_the_newest_state_comes_back_exactly_on_any_mesh(tmp_path, states, layout):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(layout)) is None
    save(tmp_path, states)
    other = Layout(make_mesh(2, 2, 2))
    for where in (layout, other):
        with Checkpoints(tmp_path) as checkpoints:
            n, state = checkpoints.restore(abstract(where))
        assert n == 3
        same(state, states[3])
    assert state.params["embed"].sharding == other.shardings(state.params)["embed"]


def test_an_average_of_weights_is_read_alone_and_missed_by_name(tmp_path, states, layout):
    average = jax.tree.map(lambda x: x + 1, states[3].params)
    save(tmp_path, {1: states[1], 3: dataclasses.replace(states[3], average=average)})
    params = abstract(layout).params
    same(load_params(tmp_path, params, item="average"), average)
    same(load_params(tmp_path, params), states[3].params)
    with pytest.raises(CheckpointError, match=r"1, average: of another model or optimizer: embed .* is missing"):
        load_params(tmp_path, params, step=1, item="average")


def test_recent_checkpoints_and_chosen_steps_are_kept(tmp_path, states):
    save(tmp_path, states, recent=1, keep=[1])
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [1, 3]


def test_a_slow_disk_is_written_to_less_often(tmp_path, states, monkeypatch):
    now = 0.0
    monkeypatch.setattr(checkpoints_module.time, "monotonic", lambda: now)
    with Checkpoints(tmp_path, seconds=5.0) as checkpoints:
        real = checkpoints._kept.save

        def slow(*args, **kwargs):
            nonlocal now
            now += 2.0
            return real(*args, **kwargs)

        monkeypatch.setattr(checkpoints._kept, "save", slow)
        now = 5.0
        assert checkpoints.due()
        checkpoints.save(1, states[1])
        now += 17.9
        assert not checkpoints.due()
        now += 0.1
        assert checkpoints.due() and not checkpoints.due(among=2)
        now += 18.0
        assert checkpoints.due(among=2)


def test_saving_is_due_by_time(tmp_path, states):
    with Checkpoints(tmp_path / "never", seconds=None) as checkpoints:
        assert not checkpoints.due()
    with Checkpoints(tmp_path / "often", seconds=0.0) as checkpoints:
        assert checkpoints.due()
    with Checkpoints(tmp_path / "later", seconds=1000.0) as checkpoints:
        checkpoints.save(1, states[1])
        assert not checkpoints.due()


@pytest.mark.parametrize("damage", ["truncated", "scrambled", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, states, layout, damage):
    save(tmp_path, states)
    for file in data_files(tmp_path / "3" / "params"):
        content = np.frombuffer(file.read_bytes(), np.uint8).copy()
        content[::50] ^= 1
        file.unlink()
        if damage != "gone":
            file.write_bytes(content.tobytes() if damage == "scrambled" else b"")
    with pytest.raises(CheckpointError, match="step 3 is damaged"):
        load_params(tmp_path, abstract(layout).params)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(CheckpointWarning, match=r"step 3 is damaged .* continuing from step 2"):
            n, state = checkpoints.restore(abstract(layout))
        assert n == 2
        same(state, states[2])
        checkpoints.save(3, states[1])  # training comes to that step again
    same(load_params(tmp_path, abstract(layout).params), states[1].params)


def test_a_silent_change_is_caught_by_its_checksum(tmp_path, states, layout):
    before = orbax_directory._checksums(states[1].params)
    flipped = jax.tree.map(np.array, states[1].params)
    flipped["layers"]["mlp"]["up"].view(np.uint32)[1, 5, 7] ^= 1 << 20
    differ = np.flatnonzero(np.asarray(before) != np.asarray(orbax_directory._checksums(flipped)))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(flipped)]
    assert [paths[i] for i in differ] == ["['layers']['mlp']['up']"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orbax_directory, "_checksums", lambda tree, real=orbax_directory._checksums: real(tree) + 1)
        save(tmp_path, {1: states[1]})
    with pytest.raises(CheckpointError, match="wrong checksum of embed, final_norm, layers/attention/k"):
        load_params(tmp_path, abstract(layout).params)


def test_when_all_are_damaged_nothing_is_deleted(tmp_path, states, layout):
    save(tmp_path, states)
    for n in (2, 3):
        for file in data_files(tmp_path / str(n) / "training"):
            file.unlink()
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        checkpoints.restore(abstract(layout))
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [2, 3]
    same(load_params(tmp_path, abstract(layout).params, step=2), states[2].params)


@pytest.mark.parametrize(
    "error",
    [OSError(5, "Input/output error"), ValueError("RESOURCE_EXHAUSTED: Error opening file: Too many open files")],
)
def test_storage_that_does_not_answer_is_not_taken_for_damage(tmp_path, states, layout, monkeypatch, error):
    save(tmp_path, states)

    def restore(*args, **kwargs):
        raise error

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(orbax_directory.ocp.Checkpointer, "restore", restore)
        with pytest.raises(UnreadableError, match=r"cannot be read now .*nothing was removed"):
            checkpoints.restore(abstract(layout))
        monkeypatch.undo()
        assert checkpoints.restore(abstract(layout))[0] == 3


def test_a_checkpoint_of_another_model_names_its_weights(tmp_path, states, layout):
    save(tmp_path, {1: states[1]})
    untied = transformer.Config(64, 32, 2, 4, 2, 40, tie_embeddings=False)
    says = r"(?s)unembed \(64, 32\) is missing.*layers/mlp/down is \(2, 48, 32\), this model's is \(2, 40, 32\)"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=says):
        checkpoints.restore(abstract(layout, untied))
    with pytest.raises(CheckpointError, match=says):
        load_params(tmp_path, abstract(layout, untied).params)
    smaller = {name: leaf for name, leaf in abstract(layout).params.items() if name != "embed"}
    with pytest.raises(CheckpointError, match=r"embed \(64, 32\) is not in this model"):
        load_params(tmp_path, smaller)


def test_missing_checkpoints_are_named(tmp_path, states, layout):
    with pytest.raises(CheckpointError, match="no such directory"):
        load_params(tmp_path / "nowhere", abstract(layout).params)
    with pytest.raises(CheckpointError, match="it has none"):
        load_params(tmp_path, abstract(layout).params)
    save(tmp_path, {2: states[2]})
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 7; it has \[2\]"):
        load_params(tmp_path, abstract(layout).params, step=7)


def test_checksums_of_a_sharded_array_gather_nothing(layout):
    mesh = make_mesh(data=1, fsdp=8)
    sharded = jax.ShapeDtypeStruct((4, 64, 128), np.float32, sharding=jax.NamedSharding(mesh, jax.P(None, "fsdp")))
    text = orbax_directory._checksums.lower({"w": sharded}).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text
