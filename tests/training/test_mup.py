"""The coordinate check: what a few steps do to the model's values does not depend on its width."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import CFG, Batches

from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.training import mup, step
from cptlaw.training.start import first_state

BASE = dataclasses.replace(CFG, layers=1, tie_embeddings=False)
WIDE = dataclasses.replace(BASE, d_model=256, heads=32, kv_heads=16, d_ff=384)  # heads as wide as the base's
ONE = Layout(make_mesh(devices=jax.devices()[:1]))


def change(cfg: transformer.Config, base: transformer.Config | None) -> float:
    """RMS change of the logits by four steps."""
    optimizer = step.Optimizer(mup_base=base, weight_decay=0.0, clip=1e9)
    batch = Batches().batch(0)
    apply = jax.jit(lambda params: transformer.apply(params, cfg, *(batch[f"{k}_BT"] for k in INPUTS)))
    state = first_state(cfg, optimizer, ONE)
    before = apply(state.params)
    for _ in range(4):
        state, _ = step.make_step(cfg, optimizer, ONE)(state, ONE.put(batch, 8), 1e-2)
    return float(jnp.sqrt(jnp.mean((apply(state.params) - before) ** 2)))


INPUTS = ("tokens", "segments", "positions")


def test_with_mup_the_width_does_not_matter_and_without_it_does():
    narrow = change(BASE, None)  # where muP changes nothing
    assert change(WIDE, BASE) == pytest.approx(narrow, rel=0.5)
    assert change(WIDE, None) > 4 * narrow


def test_norms_that_multiply_with_1_and_their_weights_start_alike():
    plain, offset = dataclasses.replace(BASE, qk_norm=True), dataclasses.replace(BASE, qk_norm=True, norm_offset=True)
    wide = {"d_model": 256, "head_dim": 32}
    scaled = []
    for base in (plain, offset):
        cfg = dataclasses.replace(base, **wide)
        params = mup.scale_init(transformer.init(jax.random.key(0), cfg), base)
        norms = params["final_norm"], params["layers"]["attention"]["q_norm"], params["layers"]["mlp_norm"]
        scaled.append([float(np.unique(x).item()) + (1 if cfg.norm_offset else 0) for x in norms])
    assert scaled[0] == pytest.approx(scaled[1]) and scaled[0][0] == BASE.d_model / 256 and scaled[0][1] < 1


def test_the_factors_are_those_of_the_table():
    base = transformer.Config(64, d_model=32, layers=1, heads=4, kv_heads=2, d_ff=48, bias="qkv")
    wide = dataclasses.replace(base, d_model=128, heads=8, kv_heads=4, head_dim=32, d_ff=96, layers=3)
    ones = jax.tree.map(jnp.ones_like, transformer.init(jax.random.key(0), wide))
    scale = mup.scale_by_width(base)
    rates = jax.tree.map(lambda x: float(np.unique(x).item()), scale.update(ones, scale.init(ones))[0])
    starts = jax.tree.map(lambda x: float(np.unique(x).item()), mup.scale_init(ones, base))
    attention = rates["layers"]["attention"]
    assert attention == pytest.approx(
        {"q": 0.125, "k": 0.25, "v": 0.25, "o": 0.125, "q_bias": 0.5, "k_bias": 1, "v_bias": 1}
    )
    assert rates["layers"]["mlp"] == {"gate": 0.25, "up": 0.25, "down": 0.5}
    assert (rates["embed"], rates["layers"]["mlp_norm"], rates["final_norm"]) == (1, 1, 0.25)
    assert (starts["final_norm"], starts["layers"]["attention"]["q"], starts["layers"]["attention"]["k"]) == (
        0.25,
        0.5,
        1,
    )
