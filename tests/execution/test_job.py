import gc
import types

import jax
import numpy as np
import pytest

from cptlaw.errors import UserError
from cptlaw.execution import job
from cptlaw.execution.job import base_params, spread
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.start import first_state
from cptlaw.training.step import Optimizer, make_init, make_start

CFG = transformer.Config(vocab_size=32, d_model=16, layers=1, heads=2, kv_heads=1, d_ff=24)


@pytest.mark.parametrize("host_bytes", [0, 1 << 30], ids=["large", "small"])
def test_a_run_that_starts_leaves_its_base_on_no_device(tmp_path, monkeypatch, host_bytes):
    monkeypatch.setattr(job, "HOST_BYTES", host_bytes)
    layout, optimizer = Layout(make_mesh(1, 8, 1)), Optimizer()
    start, abstract = make_start(CFG, optimizer, layout)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, start(make_init(CFG, layout)(3)))
    wanted = jax.device_get(make_init(CFG, layout)(3))

    def live() -> int:
        gc.collect()
        return sum(array.nbytes for array in jax.live_arrays())

    for _ in range(2):
        before = live()
        state = first_state(CFG, optimizer, layout, weights=lambda _: base_params(tmp_path, CFG, layout))
        size = sum(array.size * array.dtype.itemsize for array in jax.tree.leaves(abstract))
        assert live() - before == size, "the state, and no fourth copy of the parameters"
        jax.tree.map(np.testing.assert_array_equal, state.params, wanted)
        del state
        gc.collect()


def test_a_run_without_a_mesh_has_as_many_devices_of_every_process():
    devices = [types.SimpleNamespace(id=i, process_index=i // 4) for i in range(8)]
    assert [d.id for d in spread(devices, 8)] == list(range(8))
    assert [d.id for d in spread(devices, 4)] == [0, 1, 4, 5], "else the second process would have nothing to run"
    assert [d.id for d in spread(devices[:4], 2)] == [0, 1]
    with pytest.raises(UserError, match=r"1 devices at most divide both, .* choose multiples of 8"):
        spread(devices, 1)
