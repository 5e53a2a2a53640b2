import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cptlaw.fields import ConfigError
from cptlaw.models.config import Config
from cptlaw.training import muon
from cptlaw.training.step import Optimizer

SHAPES = {
    "embed": (7, 6),
    "final_norm": (6,),
    "layers": {
        "attention": {"q": (2, 6, 1, 3, 4), "o": (2, 1, 3, 4, 6), "q_bias": (2, 1, 3, 4), "q_norm": (2, 4)},
        "mlp": {"up": (2, 6, 8), "down": (2, 8, 6)},
    },
}
# Path -> rows and columns of each layer's matrix.
MATRICES = {("attention", "q"): (6, 12), ("attention", "o"): (12, 6), ("mlp", "up"): (6, 8), ("mlp", "down"): (8, 6)}


def newton_schulz(x):
    """The quintic iteration of Jordan et al. 2024, on one matrix in float64."""
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / np.linalg.norm(wide)
    for _ in range(5):
        a = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * a + 2.0315 * a @ a) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


def reference(gradients, beta):
    """Muon's direction after the last of a matrix's gradients: Nesterov's momentum, its sums divided by those of the
    weights, as Optax has it."""
    average = np.zeros_like(gradients[0])
    for gradient in gradients:
        average = beta * average + (1 - beta) * gradient
    count = len(gradients)
    momentum = beta * average / (1 - beta ** (count + 1)) + (1 - beta) * gradients[-1] / (1 - beta**count)
    return 0.2 * np.sqrt(max(momentum.shape)) * newton_schulz(momentum)


@pytest.fixture(scope="module")
def updated():
    """Three steps of random gradients: (the gradients, the last direction of Muon with Adam, that of Adam alone)."""
    rng, shaped = np.random.default_rng(0), {"is_leaf": lambda shape: isinstance(shape, tuple)}
    gradients = [
        jax.tree.map(lambda shape: rng.normal(size=shape).astype(np.float32), SHAPES, **shaped) for _ in range(3)
    ]
    adam = optax.scale_by_adam(0.9, 0.95)

    @jax.jit
    def both(gradients):
        found = []
        for transform in (muon.with_adamw(0.9, adam, "float32"), adam):
            state, direction = transform.init(gradients[0]), None
            for gradient in gradients:
                direction, state = transform.update(gradient, state)
            found.append(direction)
        return found

    with jax.numpy_dtype_promotion("standard"):
        return gradients, *both(gradients)


def test_each_layers_matrix_is_orthogonalised_on_its_own(updated):
    gradients, found, _ = updated
    for (group, name), shape in MATRICES.items():
        for layer in range(2):
            expected = reference([np.float64(g["layers"][group][name][layer]).reshape(shape) for g in gradients], 0.9)
            ours = found["layers"][group][name][layer].reshape(shape)
            np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4, err_msg=f"{group}/{name}")
            assert np.sqrt(np.mean(ours**2)) == pytest.approx(0.2, abs=0.05), "AdamW's learning rate carries over"


def test_everything_else_has_adams_step(updated):
    _, found, adam = updated
    for tree in (found, adam):
        for group, name in MATRICES:
            del tree["layers"][group][name]
    assert len(jax.tree.leaves(found)) == 4
    jax.tree.map(np.testing.assert_array_equal, found, adam)


def test_moments_may_be_kept_in_bfloat16():
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape), SHAPES, is_leaf=lambda shape: isinstance(shape, tuple))
    state = jax.eval_shape(Optimizer(kind="muon", moment_dtype="bfloat16").transform().init, zeros)
    dtypes = {jax.tree_util.keystr(path): leaf.dtype for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    first = {path: dtype for path, dtype in dtypes.items() if ".mu" in path}
    second = {path: dtype for path, dtype in dtypes.items() if ".nu" in path}
    assert len(first) == 8 and set(first.values()) == {jnp.dtype("bfloat16")}
    assert len(second) == 4 and set(second.values()) == {jnp.dtype("float32")}, "Muon has no second moment"


def test_mup_is_not_for_muon():
    base = Config(vocab_size=1, d_model=8, layers=1, heads=1, kv_heads=1, d_ff=16)
    with pytest.raises(ConfigError, match=r"optimizer.mup_base: muP's learning rates are those of kind adamw"):
        Optimizer(kind="muon", mup_base=base)
