import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cptlaw.errors import UserError
from cptlaw.models import attention
from cptlaw.models.config import Config
from cptlaw.models.sharding import Layout, make_mesh

CFG = Config(vocab_size=50, d_model=256, layers=2, heads=4, kv_heads=2, d_ff=48, dtype="bfloat16")
rng = np.random.default_rng(0)


@pytest.mark.parametrize(
    "platform, seq_len, fields, kernel",
    [
        ("cpu", 256, {}, "xla"),
        ("cuda", 256, {}, "cudnn"),
        ("cuda", 256, {"dtype": "float32"}, "xla"),
        ("cuda", 256, {"head_dim": 36}, "triton"),
        ("cuda", 256, {"head_dim": 320}, "xla"),
        ("cuda", 256, {"attention_softcap": 50.0}, "xla"),
        ("tpu", 256, {"attention_softcap": 50.0}, "splash"),
        ("cuda", 255, {}, "xla"),
        ("cuda", 256, {"attention": "xla"}, "xla"),
        ("cuda", 256, {"attention": "triton"}, "triton"),
        ("cuda", 256, {"head_dim": 256}, "triton"),
        ("cuda", 256, {"head_dim": 256, "sliding_window": 64}, "xla"),
        ("tpu", 256, {}, "splash"),
        ("tpu", 256, {"dtype": "float32", "attention": "splash"}, "splash"),
        ("tpu", 200, {}, "xla"),
    ],
    ids=str,
)
def test_the_kernel_is_chosen_by_platform_and_shape(platform, seq_len, fields, kernel):
    assert attention.choose(dataclasses.replace(CFG, **fields), seq_len, platform) == kernel


@pytest.mark.parametrize(
    "platform, seq_len, fields, says",
    [
        ("cpu", 256, {"attention": "cudnn"}, "cudnn runs on NVIDIA GPUs, not on cpu"),
        ("cuda", 256, {"attention": "cudnn", "dtype": "float32"}, "cudnn needs dtype bfloat16"),
        ("cuda", 256, {"attention": "cudnn", "attention_softcap": 50.0}, "cudnn has no attention_softcap"),
        ("cuda", 256, {"attention": "triton", "attention_softcap": 50.0}, "triton has no attention_softcap"),
        ("cuda", 256, {"attention": "splash"}, "splash runs on TPUs"),
        ("cpu", 256, {"attention": "triton"}, "triton runs on NVIDIA GPUs, not on cpu"),
        ("cuda", 256, {"attention": "triton", "dtype": "float32"}, "triton needs dtype bfloat16"),
        ("cuda", 256, {"attention": "triton", "head_dim": 320}, "at most 256, not 320"),
        ("cuda", 256, {"attention": "triton", "sliding_window": 64}, "triton has no sliding_window"),
        ("cuda", 192, {"attention": "triton"}, "multiple of 128, not 192"),
        ("tpu", 200, {"attention": "splash"}, "multiple of 128, not 200"),
    ],
    ids=str,
)
def test_a_kernel_that_cannot_run_is_refused(platform, seq_len, fields, says):
    with pytest.raises(UserError, match=says):
        attention.choose(dataclasses.replace(CFG, **fields), seq_len, platform)


def test_a_window_ends_at_its_document_and_its_size():
    seen = np.asarray(attention.mask_bias(np.array([[1, 1, 1, 2, 2]]), window=2))[0] == 0
    assert seen.astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def inputs(B: int, K: int, G: int, T: int, C: int):
    arrays = [rng.normal(size=s).astype(np.float32) for s in ((B, K, G, T, C), (B, K, T, C), (B, K, T, C))]
    return arrays, np.sort(rng.integers(1, 4, (B, T)).astype(np.int32), axis=1)


@pytest.mark.parametrize(
    "kernel, fields",
    [("splash", {}), ("splash", {"window": 70, "softcap": 2.0}), ("triton", {})],
    ids=str,
)
def test_a_flash_kernel_equals_xla_on_packed_documents(kernel, fields):
    """Interpreted: the kernels have not run on a TPU or GPU here. Each of four devices has its rows and heads."""
    (q, k, v), segments = inputs(B=2, K=2, G=2, T=256, C=8)
    out = rng.normal(size=q.shape).astype(np.float32)

    mesh = make_mesh(data=2, tensor=2, devices=jax.devices()[:4])

    def flash(q, k, v):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return (getattr(attention, kernel)(q, k, v, segments, **fields, scale=0.25, interpret=True) * out).sum()

    def xla(q, k, v):
        bias = attention.mask_bias(segments, fields.get("window", 0))
        return (attention.attention(q, k, v, bias, 0, 0.25, fields.get("softcap", 0.0)) * out).sum()

    expected, expected_grads = jax.jit(jax.value_and_grad(xla, argnums=(0, 1, 2)))(q, k, v)
    placed = jax.device_put((q, k, v), Layout(mesh).batch)
    got, grads = jax.jit(jax.value_and_grad(flash, argnums=(0, 1, 2)))(*placed)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    for a, b in zip(grads, expected_grads):
        np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize("head_dim", [64, 256])
def test_a_training_step_with_triton_lowers_for_gpus(head_dim, monkeypatch):
    """As far as JAX goes without a GPU: both passes become Triton programs, and no mask of T x T is made."""
    monkeypatch.setattr(attention, "_platform", lambda: "cuda")
    cfg = dataclasses.replace(CFG, head_dim=head_dim, attention="triton")
    (q, k, v), segments = inputs(B=2, K=2, G=2, T=384, C=head_dim)
    q, k, v = (x.astype(jnp.bfloat16) for x in (q, k, v))

    def loss(q, k, v, segments):
        return attention.prepare(cfg, segments, 0)(q, k, v).astype(jnp.float32).sum()

    lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, k, v, segments).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert text.count("__gpu$xla.gpu.triton") == 3, "forward, what precedes the backward pass, and it"
    assert "x384x384x" not in text


@pytest.mark.parametrize("window", [0, 3])
def test_cudnn_is_asked_for_the_same_attention(window, monkeypatch):
    """What cuDNN is given, computed by its XLA twin: the kernel has not run on a GPU here."""
    (q, k, v), segments = inputs(B=2, K=2, G=2, T=12, C=8)
    twin = jax.nn.dot_product_attention
    asked = []

    def dot_product_attention(*args, implementation, **kwargs):
        asked.append(implementation)
        return twin(*args, **kwargs, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", dot_product_attention)
    monkeypatch.setattr(attention, "_platform", lambda: "cuda")
    cfg = dataclasses.replace(CFG, query_pre_attn_scalar=16.0)
    attend = attention.prepare(cfg, jnp.asarray(segments), window)
    bias = attention.mask_bias(segments, window)
    got, expected = jax.jit(lambda *qkv: (attend(*qkv), attention.attention(*qkv, bias, 0, 0.25)))(q, k, v)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert asked == ["cudnn"]


@pytest.mark.parametrize("window", [0, 1, 150])
def test_blocks_of_queries_change_nothing(window, monkeypatch):
    """Of 300 positions the last block is short, and with a window the first keys are left out."""
    (q, k, v), segments = inputs(B=2, K=2, G=2, T=300, C=8)
    out, bias = rng.normal(size=q.shape).astype(np.float32), attention.mask_bias(segments, window)

    def run():
        return jax.jit(lambda *qkv: jax.vjp(lambda *a: attention.attention(*a, bias, window), *qkv)[1](out))(q, k, v)

    assert [at.stop for at, _ in attention.spans(300)] == [128, 256, 300]
    assert attention.spans(300, 150)[2][1] == slice(107, 300)
    blocks = run()
    monkeypatch.setattr(attention, "LEAST_BLOCK", 300)
    for ours, whole in zip(blocks, run()):
        np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5)


def test_a_long_row_is_not_cut_into_more_than_eight_blocks():
    assert len(attention.spans(8192)) == 8 and len(attention.spans(128)) == 1
