"""The estimate of memory is held to a compiler: here to that of CPUs, of TPUs in tests/models/test_topologies.py.

What XLA says of CPUs compares where layers are scanned. Unrolled, `remat` saves next to nothing on a CPU (see
benchmarks/layout.md), so the estimate, which counts on it, is too low there.
"""

import dataclasses

import jax
import pytest

from cptlaw.errors import UserError
from cptlaw.execution.run import Phase, Run
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.studies import config as config_lib
from cptlaw.studies.footprint import check_fits, compile_step, estimate, footprint
from cptlaw.training.memory import least_bytes, tree_bytes
from cptlaw.training.step import make_start

MODEL = {
    **{"vocab_size": 512, "d_model": 128, "layers": 2, "heads": 2, "kv_heads": 2, "d_ff": 512},
    **{"remat": "full", "scan_layers": True},
}


def run(optimizer=None, **model) -> Run:
    unimportant = {"shares": {}, "evals": (), "eval_tokens": (), "mesh": {}, "data": {}, "seed": 0}
    sizes = {"seq_len": 128, "batch_size": 32, "eval_batch_size": 32, "eval_max_tokens": None, "microbatches": 1}
    phase = Phase(tokens=1, peak_lr=1e-3, warmup_tokens=0)
    what = {"id": "", "size": "small", "model": {**MODEL, **model}, "init": None, "optimizer": optimizer or {}}
    return Run(phase=phase, **what, **sizes, **unimportant)


@pytest.mark.parametrize(
    ("mesh", "model"),
    [
        ((1, 8, 1), {}),
        ((8, 1, 1), {"remat": "none", "optimizer": {"ema": 0.99, "moment_dtype": "bfloat16"}}),
        ((1, 8, 1), {"vocab_size": 8192}),
        ((1, 8, 1), {"vocab_size": 64, "layers": 6, "optimizer": {"kind": "muon"}}),
    ],
    ids=["layer", "kept", "loss", "update"],
)
def test_the_estimate_is_within_a_tenth_of_the_compilers(mesh, model):
    layout = Layout(make_mesh(*mesh))
    found = estimate(run(**model), layout, "cpu")
    assert found.total == pytest.approx(compile_step(run(**model), layout)[0], rel=0.1)
    bound_by_loss = found.loss > found.gradients + found.gathered + found.layer
    assert bound_by_loss == (model.get("vocab_size", 0) > 512), "all moments are tested"
    muon = model.get("optimizer", {}).get("kind") == "muon"
    assert (found.total == found.state + found.gradients + found.update) == muon


@pytest.mark.parametrize("optimizer", [{}, {"ema": 0.9, "moment_dtype": "bfloat16"}, {"kind": "muon", "ema": 0.9}])
def test_the_least_that_a_run_needs_is_its_state_and_its_gradients(optimizer):
    one = run(optimizer, tie_embeddings=False, bias="all", qk_norm=True)
    state = make_start(one.config, one.make_optimizer(), Layout(make_mesh()))[1]
    counts = [x for x in jax.tree.leaves(state) if x.size < 4]  # of steps, and Muon's coefficients
    wanted = tree_bytes(state) - tree_bytes(counts) + tree_bytes(state.params)
    assert least_bytes(one.config, one.make_optimizer()) == wanted


def test_the_terms_that_only_accelerators_have():
    layout, wide = Layout(make_mesh(1, 8, 1)), {"dtype": "bfloat16", "d_model": 256, "vocab_size": 8192}
    tpu = estimate(run(**wide), layout, "tpu")
    layer = 4 * 256 * 256 + 3 * 256 * 512 + 2 * 256  # weights
    assert tpu.gathered == 3 * 2 * layer
    assert estimate(run(**wide, gradient_dtype="float32"), layout, "tpu").gathered == (2 + 2 + 4) * layer
    assert estimate(run(**wide), Layout(make_mesh()), "tpu").gathered == 0
    assert estimate(run(**wide), layout, "cuda").layer - tpu.layer == 2 * 2 * 4 * 128**2, "cuDNN's bias, its gradient"
    assert tpu.cast == tpu.gradients // 2 and estimate(run(d_model=256), layout, "tpu").cast == 0
    kept = estimate(run(**wide, remat="attention"), layout, "tpu").activations - tpu.activations
    assert kept == 2 * 2 * 4 * 128 * 256
    assert tpu.kept == 2 and tpu.checkpoint == pytest.approx(12 * (8192 * 256 + 2 * layer), rel=1e-3)


def test_layers_with_a_window_keep_what_their_window_leaves():
    layout, fields = Layout(make_mesh()), {"seq_len": 512, "layers": 6, "sliding_window": 128}
    seq_len = {"seq_len": fields.pop("seq_len")}
    full, windowed, turns = (
        estimate(dataclasses.replace(run(**fields, remat="none", **kinds), **seq_len), layout, "cpu").activations
        for kinds in ({"layer_kinds": "full"}, {}, {"layer_kinds": "sliding,sliding,full"})
    )
    assert windowed < full and turns == (2 * full + 4 * windowed) // 6


def test_what_does_not_fit_is_refused_with_what_would(make_config):
    study = config_lib.parse(make_config(batch_size=64, seq_len=256, base__tokens=1 << 15, cpt__tokens=1 << 15,
                             eval_tokens=(1 << 14, 1 << 15)))  # fmt: skip
    whole, halves = (
        footprint(dataclasses.replace(study, microbatches=parts), "small", 8, "cuda").total / 2**30 for parts in (1, 2)
    )
    fits = 1.01 * whole / 0.95
    check_fits(study, "small", "tpu", fits, int(whole * 2**30), 8)
    check_fits(study, "small", "cuda", fits / 0.9, int(whole * 2**30), 8, pool=0.9)
    with pytest.raises(UserError, match=r"config\.sizes\.small: .* JAX has .* config\.microbatches=2 needs"):
        check_fits(study, "small", "cuda", 1.01 * halves / 0.95 / 0.9, int(whole * 2**30), 8, pool=0.9)
    with pytest.raises(UserError, match="more devices on the fsdp axis, a smaller batch"):
        check_fits(study, "small", "cuda", 1e-6, int(whole * 2**30), 8)
