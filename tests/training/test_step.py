import dataclasses

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies
from tiny_run import CFG, Batches

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.models.tree import path_name, shapes
from cptlaw.training import step

# A large eps, because Adam's step for a gradient near zero is as large as for any other, whatever its sign.
ADAMW = step.Optimizer(weight_decay=0.3, clip=0.5, eps=1e-3)

ONE_LAYER = dataclasses.replace(CFG, layers=1)


@pytest.fixture(scope="module")
def layout():
    return Layout(make_mesh())


def one_step(layout, batch, microbatches=1, lr=1e-2):
    state = step.make_start(CFG, ADAMW, layout)[0](step.make_init(CFG, layout)(0))
    rows = len(batch["mask_BT"])
    return step.make_step(CFG, ADAMW, layout, microbatches)(state, layout.put(batch, rows), lr)


def test_a_step_equals_optax_adamw(layout):
    batch = Batches().batch(0)
    params = step.make_init(CFG, layout)(0)
    state, sums = one_step(layout, batch)

    def mean(p):
        return (transformer.token_nll(p, CFG, batch) * batch["mask_BT"]).sum() / batch["mask_BT"].sum()

    loss, grads = jax.jit(jax.value_and_grad(mean))(params)
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(1e-2, b1=0.9, b2=0.95, eps=1e-3, weight_decay=0.3, mask=ADAMW.decayed),
    )
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(lambda g, p: reference.update(g, reference.init(p), p))(grads, params)
    expected = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), state.params, expected)
    assert float(sums.nats / sums.tokens) == pytest.approx(float(loss), rel=1e-6)
    assert float(sums.tokens) == batch["mask_BT"].sum()
    assert float(sums.grad_norm) == pytest.approx(float(optax.global_norm(grads)), rel=1e-5)
    assert int(state.step) == 1


def test_what_decays_is_a_choice():
    whole = dataclasses.replace(CFG, tie_embeddings=False, bias="all", qk_norm=True)
    params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), whole))
    for choice, expected in [("matrices", {"embed", "unembed"}), ("hidden", set()), ("all", None)]:
        mask = step.Optimizer(decay_mask=choice).decayed(params)
        assert all(mask["layers"]["attention"][name] and mask["layers"]["mlp"]["down"] for name in "qkvo")
        own = {path_name(path) for path, decays in jax.tree_util.tree_leaves_with_path(mask) if decays}
        matrices = {name for name in own if transformer.fan_in(name)}
        assert len(matrices) == 7
        assert own - matrices == (shapes(params).keys() - matrices if expected is None else expected)


# (mesh, microbatches): what a batch may be split into.
SPLITS = [((2, 2, 2), 2), ((1, 1, 1), 4)]


def gradient(mesh, microbatches, batch, cfg=ONE_LAYER, **changes):
    """Counts and the unclipped gradient of one step, read from Adam's first moment."""
    layout = Layout(make_mesh(*mesh, devices=jax.devices()[: int(np.prod(mesh))]))
    plain = step.Optimizer(clip=1e9, b1=0.0, **changes)
    state = step.make_start(cfg, plain, layout)[0](step.make_init(cfg, layout)(0))
    state, sums = step.make_step(cfg, plain, layout, microbatches)(state, layout.put(batch, 8), 1e-3)
    return sums, state.optimizer[1].mu


@hypothesis.settings(max_examples=5, deadline=None, derandomize=True)
@hypothesis.given(
    seed=strategies.integers(0, 2**32 - 1), rows=strategies.lists(strategies.integers(0, 16), min_size=8, max_size=8)
)
def test_however_a_batch_is_split_its_gradient_is_that_of_the_whole(seed, rows):
    """Of the row i, rows[i] targets count: some parts have far fewer than others, or none."""
    hypothesis.assume(any(rows))
    batch = Batches().batch(seed)
    batch["mask_BT"] = (
        np.random.default_rng(seed).permuted(np.arange(16) < np.array(rows)[:, None], axis=1).astype(np.float32)
    )
    whole_sums, whole = gradient((1, 1, 1), 1, batch)
    assert float(whole_sums.tokens) == sum(rows)
    scale = float(whole_sums.grad_norm)
    for mesh, microbatches in SPLITS:
        sums, found = gradient(mesh, microbatches, batch)
        np.testing.assert_allclose(jax.tree.leaves(sums), jax.tree.leaves(whole_sums), rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * scale), found, whole)


def test_z_loss_is_in_the_gradient_and_in_no_loss():
    """Also where the vocabulary is taken in blocks and the batch in parts, of which one has fewer targets."""
    batch, z_loss = Batches().batch(0), 0.3
    batch["mask_BT"][:3] = 0

    def minimised(params):
        names = ("tokens_BT", "segments_BT", "positions_BT")
        logits_BTV = transformer.apply(params, ONE_LAYER, *(batch[name] for name in names))
        log_p_BTV = jax.nn.log_softmax(logits_BTV)
        nll_BT = -jnp.take_along_axis(log_p_BTV, batch["targets_BT"][..., None], axis=-1)[..., 0]
        squared_BT = jnp.log(jnp.exp(logits_BTV).sum(-1)) ** 2
        nats = (nll_BT * batch["mask_BT"]).sum()
        return (nats + z_loss * (squared_BT * batch["mask_BT"]).sum()) / batch["mask_BT"].sum(), nats

    params = step.make_init(ONE_LAYER, Layout(make_mesh()))(0)
    (_, nats), expected = jax.jit(jax.value_and_grad(minimised, has_aux=True))(params)
    scale = float(optax.global_norm(expected))
    blocked = dataclasses.replace(ONE_LAYER, loss_block=16)
    sums, found = gradient((1, 1, 1), 2, batch, blocked, z_loss=z_loss)
    assert float(sums.nats) == pytest.approx(float(nats), rel=1e-5)
    assert float(sums.grad_norm) == pytest.approx(scale, rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * scale), found, expected)


def test_a_batch_that_its_parts_do_not_divide_is_named(layout):
    with pytest.raises(UserError, match="3 does not divide the batch of 8"):
        one_step(layout, Batches().batch(0), microbatches=3)
    with pytest.raises(UserError, match="4 parts of a batch of 8 rows are not divisible by the 8 devices"):
        one_step(Layout(make_mesh(1, 8, 1)), Batches().batch(0), microbatches=4)


def test_one_program_serves_every_learning_rate_and_seed(layout):
    update = step.make_step(CFG, ADAMW, layout)
    assert update is step.make_step(CFG, step.Optimizer(weight_decay=0.3, clip=0.5, eps=1e-3), layout)
    update.clear_cache()
    for seed, lr in enumerate(np.array([1e-2, 3e-3])):  # NumPy numbers, as a schedule gives
        state = step.make_start(CFG, ADAMW, layout)[0](step.make_init(CFG, layout)(seed))
        for i in range(2):
            state, _ = update(state, layout.put(Batches().batch(i), 8), lr)
    assert update._cache_size() == 1


def test_starting_copies_the_parameters(layout):
    params = step.make_init(CFG, layout)(0)
    state = step.make_start(CFG, ADAMW, layout)[0](params)
    step.make_step(CFG, ADAMW, layout)(state, layout.put(Batches().batch(0), 8), 1e-2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)), "donated with the state"


def test_default_microbatches_leave_a_device_enough_tokens():
    one = Layout(make_mesh())  # 8 devices
    assert step.default_microbatches(CFG, one, 128, 128) == 8
    assert step.default_microbatches(CFG, one, 128, 512) == 16
    assert step.default_microbatches(CFG, one, 8, 16) == 1
    large = dataclasses.replace(CFG, vocab_size=1 << 22, d_model=1)  # 4M parameters: 1,024 tokens
    assert step.default_microbatches(large, one, 128, 128) == 2
