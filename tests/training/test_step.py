import jax
import numpy as np
import optax
import pytest
from tiny_run import CFG, Batches

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.training import step
from cptlaw.training.sharding import Layout, make_mesh

# A large eps, because Adam's step for a gradient near zero is as large as for any other, whatever its sign.
ADAMW = step.Optimizer(weight_decay=0.3, clip=0.5, eps=1e-3)


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
        optax.adamw(1e-2, b1=0.9, b2=0.95, eps=1e-3, weight_decay=0.3, mask=step.decayed),
    )
    expected = jax.jit(lambda g, p: optax.apply_updates(p, reference.update(g, reference.init(p), p)[0]))(grads, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), state.params, expected)
    assert float(sums.nats / sums.tokens) == pytest.approx(float(loss), rel=1e-6)
    assert float(sums.tokens) == batch["mask_BT"].sum()
    assert float(sums.grad_norm) == pytest.approx(float(optax.global_norm(grads)), rel=1e-5)
    assert int(state.step) == 1


def test_norms_do_not_decay(layout):
    mask = step.decayed(step.make_init(CFG, layout)(0))
    assert not mask["final_norm"] and not mask["layers"]["mlp_norm"] and not mask["layers"]["attention_norm"]
    assert mask["embed"] and all(jax.tree.leaves([mask["layers"]["attention"], mask["layers"]["mlp"]]))


def test_microbatches_give_the_update_of_one_batch_whatever_the_masks(layout):
    one = Batches()
    one.batch_size = 16
    batch = one.batch(3)
    batch["mask_BT"][:5] = 0  # some parts have far fewer targets than others
    state, sums = one_step(layout, batch)
    parts, part_sums = one_step(layout, batch, microbatches=2)
    np.testing.assert_allclose(jax.tree.leaves(part_sums), jax.tree.leaves(sums), rtol=1e-5)
    # Adam's moments are the gradient and its square: they tell a wrong weight that its update would hide.
    for ours, theirs in zip(jax.tree.leaves(parts.optimizer), jax.tree.leaves(state.optimizer)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)
    with pytest.raises(UserError, match="3 does not divide the batch of 16"):
        one_step(layout, batch, microbatches=3)


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


def test_default_microbatches_leave_256_tokens_a_device():
    one = Layout(make_mesh())  # 8 devices
    assert step.default_microbatches(one, 128, 128) == 8
    assert step.default_microbatches(one, 128, 512) == 16
    assert step.default_microbatches(one, 8, 16) == 1
