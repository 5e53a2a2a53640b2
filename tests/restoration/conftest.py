import jax
import numpy as np
import pytest

from cptlaw.restoration import networks
from cptlaw.restoration.batches import Crops, Pictures
from cptlaw.restoration.classifier import ClassifierConfig
from cptlaw.restoration.images import Picture
from cptlaw.restoration.nafnet import NAFNetConfig
from cptlaw.restoration.networks import Pair

KINDS = ("noise", "haze")


@pytest.fixture(scope="session")
def pair():
    network = NAFNetConfig(width=4, encoder=(1, 1), decoder=(1, 1))
    return Pair(network, ClassifierConfig(network.channels, len(KINDS), blocks=1, expansion=1))


@pytest.fixture(scope="session")
def params(pair):
    """A network whose blocks are no identities, with its classifier."""
    keys = jax.random.split(jax.random.key(0), 3)
    network = networks.init(keys[0], pair.network)
    leaves, tree = jax.tree.flatten(network)
    moved = [
        leaf + 0.1 * jax.random.normal(jax.random.fold_in(keys[2], i), leaf.shape) for i, leaf in enumerate(leaves)
    ]
    return {"network": jax.tree.unflatten(tree, moved), "classifier": networks.init(keys[1], pair.classifier)}


@pytest.fixture(scope="session")
def pictures():
    """Two smooth images with edges."""
    y, x = np.mgrid[:40, :48] / 40
    waves = [np.stack([np.sin(a * x + b * y + c) for c in range(3)], -1) for a, b in ((7, 3), (2, 9))]
    return [
        Picture(f"image{i}", f"scene{i}", (0.5 + 0.4 * np.sign(w) * abs(w) ** 0.3).astype(np.float32))
        for i, w in enumerate(waves)
    ]


@pytest.fixture(scope="session")
def crops(pictures):
    return Crops(Pictures(pictures, KINDS, seed=0, draws=2), batch_size=4, crop=16, seed=1)
