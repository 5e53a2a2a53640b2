import dataclasses

import jax
import numpy as np
import pytest
from tiny_run import CFG, Batches

from benchmarks.layout import collectives
from cptlaw.models import sharding
from cptlaw.models.sharding import Layout, ShardingError, make_mesh
from cptlaw.training import step

BATCH = Batches().batch(0)


def trained(mesh: tuple[int, int, int], microbatches: int = 1) -> list[float]:
    """Losses and gradient norms of three steps."""
    layout, optimizer = Layout(make_mesh(*mesh)), step.Optimizer()
    state = step.make_start(CFG, optimizer, layout)[0](step.make_init(CFG, layout)(0))
    update = step.make_step(CFG, optimizer, layout, microbatches)
    seen = []
    for _ in range(3):
        state, sums = update(state, layout.put(BATCH, 8), 1e-2)
        seen += [float(sums.nats / sums.tokens), float(sums.grad_norm)]
    return seen


@pytest.mark.parametrize("mesh", [(1, 8, 1), (4, 1, 2), (2, 2, 2)], ids=["fsdp", "data+tensor", "mixed"])
def test_every_mesh_gives_the_loss_of_pure_data_parallelism(mesh):
    np.testing.assert_allclose(trained(mesh), trained((8, 1, 1)), rtol=1e-5)


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2)], ids=["fsdp", "mixed"])
def test_no_device_sees_the_whole_embedding_and_activations_move_once(mesh):
    """A token's row goes to the device that has the token, and its gradient back. The compiler alone gathers the table,
    and on the mixed mesh it has 20 more all-to-alls and gathers whole batches."""
    cfg = dataclasses.replace(CFG, vocab_size=128, loss_block=32, tie_embeddings=False)
    layout, optimizer = Layout(make_mesh(*mesh)), step.Optimizer()
    _, abstract = step.make_start(cfg, optimizer, layout)
    compiled = step.make_step(cfg, optimizer, layout).lower(abstract, layout.put(BATCH, 8), 1e-2).compile()
    seen = collectives(compiled.as_text())
    data, fsdp, tensor = mesh
    rows = 8 // (data * fsdp)
    exchanged = {key: n for key, n in seen.items() if key[0] == "all-to-all"}
    assert exchanged == {("all-to-all", f"f32[{rows},16,{32 // fsdp}]"): 2 * fsdp}, "there and back"
    tables = {f"f32[{128 // part},32]" for part in (1, tensor)}
    assert not [key for key in seen if key[1] in tables]


def test_parameters_and_moments_are_split_as_the_table_says():
    layout = Layout(make_mesh(2, 2, 2))
    state = step.make_start(CFG, step.Optimizer(), layout)[0](step.make_init(CFG, layout)(0))
    shards = {
        sharding.path_name(path): leaf.addressable_shards[0].data.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    for prefix in ("params", "optimizer/1/mu"):
        assert shards[f"{prefix}/embed"] == (32, 16)
        assert shards[f"{prefix}/layers/attention/q"] == (2, 16, 1, 2, 8)
        assert shards[f"{prefix}/layers/mlp/down"] == (2, 24, 16)
        assert shards[f"{prefix}/final_norm"] == (32,)
    table = layout.table(state).splitlines()
    assert table[-1].split()[0] == "total" and len(table) == len(jax.tree.leaves(state)) + 2
    (row,) = [line for line in table if line.startswith("optimizer/1/nu/embed ")]
    assert "P('tensor', 'fsdp')" in row and float(row.split()[-1]) == pytest.approx(32 * 16 * 4 / 2**20, abs=1e-3)


def test_what_cannot_be_placed_is_named():
    tree = {"layers": {"odd": np.zeros((6, 5))}}
    with pytest.raises(ShardingError, match=r"layers/odd .*no sharding rule"):
        Layout(make_mesh()).shardings(tree)
    with pytest.raises(
        ShardingError, match=r"layers/odd .*dimension 1 is not divisible by mesh axis 'tensor' of size 8"
    ):
        Layout(make_mesh(1, 1, 8), (("odd", (None, "tensor")),)).shardings(tree)
    with pytest.raises(ShardingError, match="names axis 'model'"):
        Layout(make_mesh(), (("odd", ("model",)),)).shardings(tree)
    with pytest.raises(ShardingError, match="more axes"):
        Layout(make_mesh(), (("odd", (None, None, "data")),)).shardings(tree)
    with pytest.raises(ShardingError, match="8 devices"):
        make_mesh(3, 1, 1)
    with pytest.raises(ShardingError, match="one may be -1"):
        make_mesh(-1, -1, 1)
    with pytest.raises(ShardingError, match="batch_size 6"):
        Layout(make_mesh()).rows(6)


class Device:
    """A device of a process, as a mesh sees it."""

    def __init__(self, index: int, process: int):
        self.id, self.process_index, self.platform, self.device_kind, self.client = index, process, "cpu", "", None


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8)])
def test_however_hosts_lie_in_the_mesh_their_rows_are_the_batch(shape):
    """Four processes of two devices each, and a fifth without any."""
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(8)
        devices = np.array([Device(int(i), int(i) // 2) for i in order], object).reshape(shape)
        layout = Layout(jax.sharding.Mesh(devices, sharding.AXES))
        rows = [layout.rows(16, process) for process in range(5)]
        assert rows[4].size == 0 and rows[4].dtype == np.int64
        for process, mine in enumerate(rows[:4]):
            places = np.argwhere(np.vectorize(lambda d: d.process_index)(devices) == process)
            parts = {int(data * shape[1] + fsdp) for data, fsdp, _ in places}
            size = 16 // (shape[0] * shape[1])
            assert mine.tolist() == [row for part in sorted(parts) for row in range(part * size, (part + 1) * size)]
        assert set(np.concatenate(rows).tolist()) == set(range(16))


def test_rows_are_placed_in_the_order_of_the_mesh():
    devices = jax.devices()
    layout = Layout(make_mesh(devices=devices[::2] + devices[1::2]))
    placed = layout.put({"x": np.arange(32, dtype=np.int32).reshape(16, 2)}, 16)["x"]
    np.testing.assert_array_equal(placed, np.arange(32).reshape(16, 2))
    on = {shard.device.id: shard.data[:, 0].tolist() for shard in placed.addressable_shards}
    assert on[0] == [0, 2] and on[2] == [4, 6] and on[1] == [16, 18]


def test_several_slices_are_refused():
    devices = [Device(i, i) for i in range(2)]
    for device in devices:
        device.platform, device.slice_index = "tpu", device.id
    with pytest.raises(ShardingError, match="several TPU slices"):
        make_mesh(devices=devices)
