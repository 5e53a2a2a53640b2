import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from cptlaw.models import loss, transformer

rng = np.random.default_rng(0)


@pytest.mark.parametrize("vocab_size, block, softcap", [(48, 16, 0), (50, 7, 0), (48, 1, 0), (50, 7, 90)])
def test_blocked_equals_direct(vocab_size, block, softcap):
    x_BTD, w_VD = rng.normal(size=(2, 5, 8)).astype(np.float32), rng.normal(size=(vocab_size, 8)).astype(np.float32)
    targets_BT = np.array([[0, 1, 2, vocab_size - 2, vocab_size - 1], [7, 7, 15, 16, 17]])
    gradients = tuple(rng.normal(size=(2, 2, 5)).astype(np.float32))  # of the losses and of the log normalisers

    @jax.jit
    def both(x_BTD, w_VD):
        # Logits of several hundred, rounded to 3e-5: without the running maximum the exponentials would overflow.
        def nll(n):
            return lambda x, w: loss.nll(50 * x, w, targets_BT, n, softcap)

        runs = [jax.vjp(nll(n), x_BTD, w_VD) for n in (block, vocab_size)]
        return [(*values, *pull(gradients)) for values, pull in runs]

    for a, b in zip(*both(x_BTD, w_VD)):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4)


def test_blocks_divide_the_vocabulary_where_few_do():
    many = 1 << 20
    assert loss.blocks(1024, many) == loss.blocks(16_384, many) == 1
    sizes = {"smollm2": 49_152, "llama2": 32_000, "llama3": 128_256, "qwen2": 151_936, "pythia": 50_304}
    for vocab_size in sizes.values():
        parts = loss.blocks(vocab_size, many)
        assert vocab_size % parts == 0 and 2_048 <= vocab_size // parts <= 4_096
    assert loss.blocks(50_021, many) == 13  # a prime: padded
    assert loss.blocks(100, 1, 30) == 4 and loss.blocks(49_152, many, 49_152) == 1


def test_logits_of_few_tokens_are_not_made_twice():
    assert loss.blocks(49_152, 1024) == 1 and loss.blocks(49_152, 2048) > 1


def test_full_logits_are_never_made():
    """Neither in the forward nor in the backward program of a large vocabulary is an array of their size."""
    cfg = transformer.Config(vocab_size=20_480, d_model=8, layers=1, heads=1, kv_heads=1, d_ff=8)
    params = jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg))
    names = ("tokens_BT", "targets_BT", "segments_BT", "positions_BT")
    batch = {name: jax.ShapeDtypeStruct((32, 128), jnp.int32) for name in names}
    logits = 32 * 128 * cfg.vocab_size

    def largest(block: int) -> int:
        own = transformer.Config(**{**vars(cfg), "loss_block": block})
        gradient = jax.value_and_grad(lambda p, b: transformer.token_nll(p, own, b).sum())
        return largest_array(jax.make_jaxpr(gradient)(params, batch).jaxpr)

    assert largest(cfg.vocab_size) == logits
    assert largest(0) == logits // 5

    compiled = jax.jit(jax.value_and_grad(lambda p, b: transformer.token_nll(p, cfg, b).sum())).lower(params, batch)
    assert compiled.compile().memory_analysis().temp_size_in_bytes < 4 * logits


def largest_array(jaxpr) -> int:
    inner = [largest_array(j) for eqn in jaxpr.eqns for j in jaxprs_in_params(eqn.params)]
    return max([getattr(out.aval, "size", 0) for eqn in jaxpr.eqns for out in eqn.outvars] + inner, default=0)
