"""What makes it the method: tests that a plausible mistake would fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cptlaw.restoration import method, networks


@pytest.fixture(scope="module")
def batch(crops):
    return {name: jnp.asarray(array) for name, array in crops.batch(0, slice(None)).items()}


@pytest.fixture(scope="module")
def gradient(pair):
    return jax.jit(jax.grad(functools.partial(method.loss, gamma=2.0), argnums=0), static_argnums=(1, 2))


def size(tree):
    return float(sum(abs(leaf).sum() for leaf in jax.tree.leaves(tree)))


def test_logits_come_of_the_taps_alone(pair, params, batch):
    """The classifier takes no image, so with the taps of one image any other image has its logits."""
    taps = networks.features(params["network"], pair.network, batch["degraded_BHWC"])
    logits = networks.classify(params["classifier"], pair.classifier, taps)
    assert logits.shape == (4, 2) and float(jnp.ptp(logits)) > 0

    def of_image(image):  # taps held: what remains of the image's way to the logits
        held = jax.lax.stop_gradient(networks.features(params["network"], pair.network, image))
        return networks.classify(params["classifier"], pair.classifier, held).sum()

    assert size(jax.grad(of_image)(batch["degraded_BHWC"])) == 0


def test_the_head_has_no_gradient_of_the_classification_and_all_else_has(pair, params, batch):
    def classification(network):
        taps = networks.features(network, pair.network, batch["degraded_BHWC"])
        return method.focal(networks.classify(params["classifier"], pair.classifier, taps), batch["label_B"])

    grads = jax.jit(jax.grad(classification))(params["network"])
    head = grads.pop("head")
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(head))
    assert all(size(part) > 0 for part in grads.values())


def test_the_joint_gradient_is_the_sum_of_its_parts(pair, params, batch, gradient):
    joint = gradient(params, pair, "dcpt", batch)
    generation = gradient({"network": params["network"]}, pair, "generation", batch)
    # The head learns from clean images alone, the classifier from degraded ones alone.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        joint["network"]["head"],
        generation["network"]["head"],
    )
    assert size(joint["classifier"]) > 0
    other = gradient(params, pair, "dcpt", {**batch, "clean_BHWC": batch["clean_BHWC"][::-1] * 0.5})
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), joint["classifier"], other["classifier"]
    )


def test_generation_reproduces_the_clean_image(pair, params, batch):
    """A network that adds nothing has no generation loss, whatever the degradation."""
    idle = {**params["network"], "head": jax.tree.map(jnp.zeros_like, params["network"]["head"])}
    assert float(method.loss({"network": idle}, pair, "generation", batch)) == 0
    expected = float(abs(batch["degraded_BHWC"] - batch["clean_BHWC"]).mean())
    assert float(method.loss({"network": idle}, pair, "fine_tune", batch)) == pytest.approx(expected, rel=1e-5)


def test_focal_without_gamma_is_cross_entropy():
    logits, labels = jax.random.normal(jax.random.key(0), (6, 5)), jnp.arange(6) % 5
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    assert float(method.focal(logits, labels, 0.0)) == pytest.approx(float(expected.mean()), rel=1e-6)
    p = jnp.exp(-expected)
    assert float(method.focal(logits, labels)) == pytest.approx(float(((1 - p) ** 2 * expected).mean()), rel=1e-5)


def test_a_guide_is_frozen_and_pulls_the_network(pair, params, batch, gradient):
    guided = gradient(params, pair, "guided", batch)
    plain = gradient({"network": params["network"]}, pair, "fine_tune", batch)
    assert size(guided["classifier"]) == 0
    assert size(jax.tree.map(jnp.subtract, guided["network"], plain["network"])) > 1e-3


def test_taps_of_another_network_are_refused(pair, params):
    with pytest.raises(ValueError, match=r"channels \(4, 4\); this classifier takes \(4, 8\)"):
        networks.classify(params["classifier"], pair.classifier, (jnp.zeros((1, 8, 8, 4)), jnp.zeros((1, 4, 4, 4))))
