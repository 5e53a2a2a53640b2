"""Meshes over real TPU slices, which libtpu describes without any hardware. CONTRIBUTING.md says how to run these."""

import numpy as np
import pytest
from jax.experimental import topologies

from cptlaw.models.sharding import Layout, make_mesh

pytestmark = pytest.mark.slow
pytest.importorskip("libtpu")


# A slice -> meshes (data, fsdp, tensor); 128 rows a batch.
@pytest.mark.parametrize(
    ("slice_", "shape"),
    [
        ("v5e:8x8", (1, 64, 1)),
        ("v5e:8x8", (64, 1, 1)),
        ("v5e:8x8", (16, 4, 1)),
        ("v5e:8x8", (8, 8, 1)),
        ("v5e:8x8", (4, 16, 1)),
        ("v5e:4x8", (1, 32, 1)),
        ("v5p:2x2x4", (1, 16, 1)),
        ("v5p:4x4x4", (1, 64, 1)),
        ("v5p:4x4x4", (8, 8, 1)),
        ("v5p:4x4x4", (1, 16, 4)),
    ],
)
def test_the_hosts_of_a_slice_feed_the_whole_batch(slice_, shape):
    devices = topologies.get_topology_desc(slice_, "tpu").devices
    hosts = {device.process_index for device in devices}
    layout = Layout(make_mesh(*shape, devices=devices))
    rows = [layout.rows(128, host) for host in sorted(hosts)]
    assert all((np.diff(mine) > 0).all() for mine in rows)
    fed_by = np.bincount(np.concatenate(rows), minlength=128)
    assert (fed_by == fed_by[0]).all() and 1 <= fed_by[0] <= shape[2]
    # The case that one range of rows cannot describe.
    if shape in ((1, 64, 1), (64, 1, 1)):
        assert any(mine[-1] - mine[0] + 1 > len(mine) for mine in rows)
