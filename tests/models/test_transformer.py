import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cptlaw.errors import UserError
from cptlaw.models import attention, transformer

CFG = transformer.Config(vocab_size=50, d_model=32, layers=2, heads=4, kv_heads=2, d_ff=48)
rng = np.random.default_rng(0)


def packed(B: int = 2, T: int = 12) -> dict[str, np.ndarray]:
    segments_BT = np.sort(rng.integers(1, 4, (B, T), np.int32), axis=1)
    starts_BT = np.diff(segments_BT, axis=1, prepend=0) != 0
    index_T = np.arange(T, dtype=np.int32)
    return {
        "tokens_BT": rng.integers(0, 50, (B, T), np.int32),
        "targets_BT": rng.integers(0, 50, (B, T), np.int32),
        "segments_BT": segments_BT,
        "positions_BT": index_T - np.maximum.accumulate(np.where(starts_BT, index_T, 0), axis=1),
    }


def logits(params, cfg, batch) -> np.ndarray:
    inputs = batch["tokens_BT"], batch["segments_BT"], batch["positions_BT"]
    return np.asarray(jax.jit(transformer.apply, static_argnums=1)(params, cfg, *inputs))


@pytest.fixture(scope="module")
def params():
    return transformer.init(jax.random.key(0), CFG)


def test_parameter_paths_are_stable(params):
    paths = [
        jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    assert paths == [
        "embed",
        "final_norm",
        "layers/attention/k",
        "layers/attention/o",
        "layers/attention/q",
        "layers/attention/v",
        "layers/attention_norm",
        "layers/mlp/down",
        "layers/mlp/gate",
        "layers/mlp/up",
        "layers/mlp_norm",
    ]
    assert type(params) is dict and all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_packed_documents_equal_documents_alone(params):
    batch = packed()
    together = logits(params, CFG, batch)
    for b in range(2):
        for segment in range(1, 4):
            (at,) = np.nonzero(batch["segments_BT"][b] == segment)
            if at.size == 0:
                continue
            # The document first in a row of its own; what follows it is padding.
            alone = {name: np.zeros((1, 12), np.int32) for name in batch}
            alone["tokens_BT"][0, : at.size] = batch["tokens_BT"][b, at]
            alone["segments_BT"][0, : at.size] = 1
            alone["positions_BT"][0, : at.size] = np.arange(at.size)
            np.testing.assert_allclose(together[b, at], logits(params, CFG, alone)[0, : at.size], atol=2e-5)


def test_no_token_sees_a_later_one(params):
    batch = packed()
    before = logits(params, CFG, batch)
    changed = {**batch, "tokens_BT": batch["tokens_BT"].copy()}
    changed["tokens_BT"][:, 7] += 1
    changed["tokens_BT"] %= 50
    after = logits(params, CFG, changed)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before[:, 7] - after[:, 7]).max() > 1e-3


def reference_nll(params, cfg, batch) -> np.ndarray:
    """The model in float64 NumPy, token by token and head by head."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    B, T = batch["tokens_BT"].shape
    K, G, C = cfg.kv_heads, cfg.heads // cfg.kv_heads, cfg.head_dim

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + cfg.norm_eps) * scale

    def rope(x, position):
        angle = position * cfg.rope_theta ** (-np.arange(0, C, 2) / C)
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)

    nll = np.zeros((B, T))
    for b in range(B):
        x = p["embed"][batch["tokens_BT"][b]]
        at, segment = batch["positions_BT"][b], batch["segments_BT"][b]
        for i in range(cfg.layers):
            w = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"])
            y = norm(x, w["attention_norm"])
            out = np.zeros_like(x)
            for k in range(K):
                keys = np.stack([rope(y[s] @ w["attention"]["k"][:, k], at[s]) for s in range(T)])
                values = y @ w["attention"]["v"][:, k]
                for g in range(G):
                    for t in range(T):
                        seen = [s for s in range(t + 1) if segment[s] == segment[t]]
                        score = keys[seen] @ rope(y[t] @ w["attention"]["q"][:, k, g], at[t]) / np.sqrt(C)
                        weight = np.exp(score - score.max())
                        out[t] += (weight / weight.sum()) @ values[seen] @ w["attention"]["o"][k, g]
            x = x + out
            y = norm(x, w["mlp_norm"])
            gate = y @ w["mlp"]["gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (y @ w["mlp"]["up"])) @ w["mlp"]["down"]
        scores = norm(x, p["final_norm"]) @ p["embed"].T
        top = scores.max(-1)
        nll[b] = np.log(np.exp(scores - top[:, None]).sum(-1)) + top - scores[np.arange(T), batch["targets_BT"][b]]
    return nll


def test_losses_equal_a_float64_reference(params):
    batch = packed()
    expected = reference_nll(params, CFG, batch)
    np.testing.assert_allclose(
        jax.jit(transformer.token_nll, static_argnums=1)(params, CFG, batch), expected, rtol=1e-5
    )
    low = dataclasses.replace(CFG, dtype="bfloat16")
    np.testing.assert_allclose(
        jax.jit(transformer.token_nll, static_argnums=1)(params, low, batch), expected, rtol=0.02
    )


@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_attention_gradient_equals_autodiff(softcap):
    B, K, G, T, C = 2, 2, 3, 7, 4
    q, k, v, out = (
        rng.normal(size=s).astype(np.float32) for s in ((B, K, G, T, C), (B, K, T, C), (B, K, T, C), (B, K, G, T, C))
    )
    bias = attention.mask_bias(np.sort(rng.integers(1, 3, (B, T)), axis=1))

    def plain(q, k, v):
        scores = jnp.einsum("bkgtc,bksc->bkgts", q, k) / np.sqrt(C)
        scores = (softcap * jnp.tanh(scores / softcap) if softcap else scores) + bias[:, None, None]
        return jnp.einsum("bkgts,bksc->bkgtc", jax.nn.softmax(scores), v)

    ours, pull = jax.vjp(lambda *a: attention.attention(*a, bias, softcap=softcap), q, k, v)
    theirs, pull_plain = jax.vjp(plain, q, k, v)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for a, b in zip(pull(out), pull_plain(out)):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize(
    "fields", [{"remat": "full"}, {"remat": "attention"}, {"remat": "dots", "scan_layers": True}], ids=str
)
def test_scan_and_remat_change_no_gradient(params, fields):
    batch = packed()

    def gradient(cfg):
        return jax.jit(jax.grad(lambda p: transformer.token_nll(p, cfg, batch).sum()))(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        gradient(CFG),
        gradient(dataclasses.replace(CFG, **fields)),
    )


def test_a_scan_over_turns_of_layers_changes_no_gradient():
    """Of three layers in turns of two, one is left; without its window, or with positions, the second would show."""
    batch, both = packed(), {"norm_placement": "both", "norm_offset": True, "logit_softcap": 2.0}
    cfg = dataclasses.replace(CFG, layers=3, layer_kinds="sliding,nope", sliding_window=3, loss_block=20, **both)
    params = transformer.init(jax.random.key(1), cfg)

    def loss(params, cfg):
        return transformer.token_nll(params, cfg, batch).sum()

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    (nll, unrolled), (same, scanned) = (
        gradient(params, dataclasses.replace(cfg, scan_layers=x)) for x in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), unrolled, scanned)
    assert float(same) == pytest.approx(float(nll), rel=1e-6)
    for kinds in ("sliding", "full,nope"):
        other = jax.jit(loss, static_argnums=1)(params, dataclasses.replace(cfg, layer_kinds=kinds, scan_layers=True))
        assert abs(other - nll) > 1e-3


def test_what_remat_keeps_of_a_layer(params):
    batch, bytes_of = packed(), {}
    for remat in ("full", "attention"):
        cfg = dataclasses.replace(CFG, remat=remat)
        kept = jax.eval_shape(
            lambda p, c=cfg: jax.vjp(lambda p: transformer.token_nll(p, c, batch).sum(), p)[1], params
        )
        bytes_of[remat] = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
    assert (
        bytes_of["attention"] - bytes_of["full"] == 4 * batch["tokens_BT"].size * CFG.heads * CFG.head_dim * CFG.layers
    )


def test_weights_gradients_are_summed_in_float32_when_asked(params):
    """Of one device a float32 sum is no bfloat16 number; rounded to one, it is the gradient otherwise made."""
    batch = packed()

    def gradient(**fields):
        cfg = dataclasses.replace(CFG, bias="qkv", dtype="bfloat16", **fields)
        own = transformer.init(jax.random.key(0), cfg)
        return jax.jit(jax.grad(lambda p: transformer.token_nll(p, cfg, batch).sum()))(own)["layers"]

    rounded, exact = gradient(), gradient(gradient_dtype="float32")
    for group, name in (("mlp", "down"), ("mlp", "gate"), ("attention", "q"), ("attention", "o")):
        short, full = rounded[group][name], exact[group][name]
        assert short.dtype == full.dtype == jnp.float32
        np.testing.assert_array_equal(short, short.astype(jnp.bfloat16).astype(jnp.float32))
        assert np.mean(full != full.astype(jnp.bfloat16).astype(jnp.float32)) > 0.9
        np.testing.assert_allclose(short, full, rtol=0.05, atol=0.02 * float(jnp.abs(full).max()))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"targets_BT": np.zeros((2, 11), np.int32)}, r"targets_BT: shape \(2, 11\); expected \(2, 12\), the shape of"),
        ({"tokens_BT": np.zeros(12, np.int32)}, r"tokens_BT: shape \(12,\); expected \(B, T\)"),
        ({"segments_BT": np.ones((2, 12), np.float32)}, "segments_BT: float32; expected integers"),
    ],
)
def test_an_input_of_another_shape_or_type_is_named(params, change, says):
    with pytest.raises(ValueError, match=says):
        transformer.token_nll(params, CFG, {**packed(), **change})


def test_parameters_of_another_model_are_named(params):
    batch = packed()
    wider = dataclasses.replace(CFG, d_ff=CFG.d_ff + 1)
    with pytest.raises(ValueError, match=r"params: layers/mlp/down is \(.*\), this model's is \("):
        transformer.token_nll(params, wider, batch)
    counts = jax.tree.map(lambda x: x.astype(jnp.int32), params)
    with pytest.raises(ValueError, match="params: embed is int32; expected float32"):
        transformer.apply(counts, CFG, batch["tokens_BT"], batch["segments_BT"], batch["positions_BT"])


@pytest.mark.parametrize("tie", [True, False])
def test_counts_equal_the_tree(tie):
    cfg = dataclasses.replace(CFG, tie_embeddings=tie, head_dim=6, kv_heads=1)
    tree = jax.eval_shape(lambda: transformer.init(jax.random.key(0), cfg))
    embeddings = {name: tree.pop(name) for name in ("embed", "unembed") if name in tree}
    size = sum(leaf.size for leaf in jax.tree.leaves(tree))
    counts = transformer.count_params(cfg)
    assert counts == {"total": size + sum(x.size for x in embeddings.values()), "non_embedding": size}

    matmuls = sum(x.size for path, x in jax.tree_util.tree_leaves_with_path(tree) if "norm" not in str(path))
    # Two attention products of 2 C FLOPs for each head and each of the (1 + ... + 9) / 9 = 5 keys.
    scores = cfg.layers * cfg.heads * 2 * 2 * 6 * 5
    flops = transformer.flops_per_token(cfg, seq_len=9)
    assert flops["forward"] == 2 * (matmuls + 50 * 32) + scores
    assert flops["training"] == 3 * flops["forward"]


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"kv_heads": 3}, "model.kv_heads: 3 does not divide"),
        ({"heads": 6, "kv_heads": 6}, "model.heads: 6 does not divide"),
        ({"layers": 0}, "model.layers"),
        ({"head_dim": 5}, "even"),
        ({"dtype": "float16"}, "model.dtype: one of float32, bfloat16"),
        ({"remat": "some"}, "model.remat"),
    ],
)
def test_a_wrong_config_names_the_field(fields, says):
    with pytest.raises(UserError, match=says):
        transformer.Config(**{**dataclasses.asdict(CFG), "head_dim": 0, **fields})
