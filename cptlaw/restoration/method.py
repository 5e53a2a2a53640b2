"""The losses of DCPT (arXiv 2501.15510) and of what it is compared with, over one batch of crops.

A batch has clean_BHWC, degraded_BHWC and label_B. Every phase is one loss with one gradient:

  dcpt        L1(network(clean), clean) + focal(classifier(taps of degraded), label)
  generation  L1(network(clean), clean)
  fine_tune   L1(network(degraded), clean)
  guided      L1(network(degraded), clean) + cross-entropy(classifier(taps of degraded), label), the classifier frozen
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cptlaw.restoration import networks
from cptlaw.restoration.networks import Pair, Params

PHASES = ("dcpt", "generation", "fine_tune", "guided")
WITH_CLASSIFIER = ("dcpt", "guided")


def l1(restored_BHWC: jax.Array, truth_BHWC: jax.Array) -> jax.Array:
    """The mean absolute difference of all values."""
    return jnp.abs(restored_BHWC - truth_BHWC).mean()


def focal(logits_BK: jax.Array, label_B: jax.Array, gamma: float = 2.0) -> jax.Array:
    """The mean of (1 - p)^gamma (-log p), p of the true class (Lin et al. 2017, arXiv 1708.02002, without alpha)."""
    log_p_B = jnp.take_along_axis(jax.nn.log_softmax(logits_BK), label_B[:, None], axis=1)[:, 0]
    return ((1 - jnp.exp(log_p_B)) ** gamma * -log_p_B).mean() if gamma else -log_p_B.mean()


def loss(params: Params, pair: Pair, phase: str, batch: Mapping[str, jax.Array], gamma: float = 2.0) -> jax.Array:
    """The loss of a phase, one of `PHASES`.

    Args:
      params: `network`, and in phases with a classifier `classifier`.
      gamma: of the focal loss; the guided phase has 0.
    """
    clean, degraded = batch["clean_BHWC"], batch["degraded_BHWC"]
    network = params["network"]
    if phase == "fine_tune":
        return l1(networks.restore(network, pair.network, degraded)[0], clean)
    if phase == "guided":
        restored, taps = networks.restore(network, pair.network, degraded)
        logits = networks.classify(jax.lax.stop_gradient(params["classifier"]), pair.classifier, taps)
        return l1(restored, clean) + focal(logits, batch["label_B"], 0.0)
    generation = l1(networks.restore(network, pair.network, clean)[0], clean)
    if phase == "generation":
        return generation
    taps = networks.features(network, pair.network, degraded)
    return generation + focal(networks.classify(params["classifier"], pair.classifier, taps), batch["label_B"], gamma)
