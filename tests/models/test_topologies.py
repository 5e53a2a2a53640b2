"""Meshes over real TPU slices, which libtpu describes without any hardware. CONTRIBUTING.md says how to run these."""

import numpy as np
import pytest
from jax.experimental import topologies

from benchmarks import layout as layouts
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.studies.footprint import compile_step, estimate

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


@pytest.fixture(scope="module")
def llama_8b():
    """(bytes that the compiler assigns, program, estimate) of a step of 64 x 2,048 tokens on a v5e-64."""
    point = layouts.POINTS["8B"]
    layout = Layout(make_mesh(*point.mesh, devices=layouts.devices(point.slice)))
    return *compile_step(point.run(), layout), estimate(point.run(), layout, "tpu").total


def test_the_footprint_is_within_a_tenth_of_the_compilers(llama_8b):
    assigned, _, estimated = llama_8b
    assert estimated == pytest.approx(assigned, rel=0.1)
    assert assigned < 5 * 2**30, "8.9 GiB before the embedding was looked up in parts"


def test_what_a_step_moves(llama_8b):
    """A layer's weights are gathered in bfloat16 and its gradients summed in it, each matrix by itself; of the
    embeddings, a block of 4,008 ids at most and never a table."""
    seen = layouts.collectives(llama_8b[1])
    assert not [key for key in seen if "128256" in key[1]]
    assert seen["all-reduce", "f32[4008,4096]"] + seen["all-reduce", "f32[4096,4008]"] == 1, "the head's gradient"
    assert seen["all-gather", "bf16[4008,1,4096]"] == 2, "a block of the head, forward and backward"
    exchanged = {key for key in seen if key[0] == "all-to-all"}
    assert {layouts.size(shape) for _, shape in exchanged} == {64 * 2048 * 64 * 2}, "the lookup's rows, 17 MB a chip"
    largest = 4096 * 14_336 * 2  # one matrix of the feed-forward layer, bfloat16
    assert max(layouts.size(shape) for _, shape in seen) == largest
    gathered = {shape for operation, shape in seen if operation == "all-gather" and layouts.size(shape) == largest}
    assert gathered and all(shape.startswith("bf16") for shape in gathered)
    summed = {shape for operation, shape in seen if operation == "all-reduce" and layouts.size(shape) > 1e8}
    assert summed and all(shape.startswith("bf16") for shape in summed)


def test_gradients_are_summed_in_float32_when_asked():
    point = layouts.POINTS["8B, float32 sums"]
    layout = Layout(make_mesh(*point.mesh, devices=layouts.devices(point.slice)))
    seen = layouts.collectives(compile_step(point.run(), layout)[1])
    matrices = {"14336,4096", "4096,14336"}
    assert {shape for op, shape in seen if op == "all-reduce" and shape[shape.index("[") + 1 : -1] in matrices} == {
        "f32[14336,4096]",
        "f32[4096,14336]",
    }
