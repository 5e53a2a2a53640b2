"""What a step of a model of 1B moves between eight devices of one host, by the program that XLA partitions for them.

The devices are forced CPU devices, as no GPU is at hand: what is partitioned is the same, what is fused and overlapped
is not, and a CPU computes in float32. tests/models/test_topologies.py has the same of real TPU slices, in bfloat16.
"""

import collections

import jax
import pytest

from benchmarks import layout as layouts
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.studies.footprint import compile_step, estimate

pytestmark = pytest.mark.slow
MATRICES = {"2048,8192": 2, "8192,2048": 1, "2048,2048": 2, "2048,512": 2}  # of a layer, as they are stored


def test_a_step_of_1b_on_eight_devices():
    """Each matrix of a layer is gathered by itself, forward and again backward, and its gradient is summed once; of the
    embedding, a block of 4,008 ids at most and never a table. Memory is within a tenth of the compiler's."""
    point = layouts.CPU_POINTS["1B"]
    layout = Layout(make_mesh(*point.mesh, devices=jax.devices()))
    assigned, text = compile_step(point.run(), layout)
    seen = layouts.collectives(text)
    assert not [key for key in seen if "128256" in key[1]]
    gathered = collections.Counter({s: n for (op, s), n in seen.items() if op == "all-gather" and s.startswith("f32")})
    # A block of the head for the logits, for their gradient, and again for the block's own loss.
    assert gathered.pop("f32[4008,2048]") == 3
    assert gathered == {f"f32[{shape}]": 2 * count for shape, count in MATRICES.items()}
    summed = {s: n for (op, s), n in seen.items() if op == "all-reduce" and layouts.size(s) > 1e6}
    assert sum(summed.values()) == sum(MATRICES.values()) + 1, "a layer's seven matrices, and a block of the head"
    assert max(map(layouts.size, summed)) == max(map(layouts.size, gathered)) == 2048 * 8192 * 4
    exchanged = {s for op, s in seen if op == "all-to-all"}
    assert exchanged == {"f32[2,2048,256]"}, "the lookup's rows, each device's columns of them"
    assert estimate(point.run(), layout, "cpu").total == pytest.approx(assigned, rel=0.1)
