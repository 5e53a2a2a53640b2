import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cptlaw.fields import ConfigError
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.models.tensor_files import WeightsError
from cptlaw.restoration import networks
from cptlaw.restoration.classifier import ClassifierConfig
from cptlaw.restoration.nafnet import NAFNetConfig
from cptlaw.restoration.restormer import RestormerConfig

NAFNET = NAFNetConfig(width=4, encoder=(1, 2), decoder=(1, 1))
RESTORMER = RestormerConfig(width=4, blocks=(1, 1, 1, 1), heads=(1, 1, 2, 2), refinement=1, expansion=1.0)
FULL = NAFNetConfig()


def test_full_sizes_are_the_published_ones():
    assert networks.count_params(FULL) == 67_888_835
    assert networks.count_params(ClassifierConfig(FULL.channels, 5)) == 49_290_505
    # 26.13M in the Restormer paper's own code, with 7.5M of classifier.
    assert networks.count_params(RestormerConfig()) == pytest.approx(26.13e6, rel=1e-3)
    assert networks.count_params(ClassifierConfig(RestormerConfig().channels, 5)) == pytest.approx(7.5e6, rel=1e-2)


def test_full_costs_are_the_published_ones():
    assert FULL.macs(128) == pytest.approx(15.8e9, rel=0.02)
    assert ClassifierConfig(FULL.channels, 5).macs(128) == pytest.approx(23.3e9, rel=0.02)
    assert ClassifierConfig(RestormerConfig().channels, 5).macs(128) == pytest.approx(19.1e9, rel=0.02)
    assert RestormerConfig().macs(256) == pytest.approx(154.88e9, rel=1e-3)  # as comparisons of restorers list it
    step = networks.flops(networks.Pair(FULL, ClassifierConfig(FULL.channels, 5)), 128)
    assert step["dcpt"] / step["fine_tune"] == pytest.approx(3.5, abs=0.05)


@pytest.mark.parametrize("cfg", [NAFNET, RESTORMER], ids=["nafnet", "restormer"])
def test_networks_give_images_and_taps_finest_first(cfg):
    params = networks.init(jax.random.key(0), cfg)
    image = jax.random.uniform(jax.random.key(1), (2, 11, 13, 3))
    restored, taps = jax.jit(networks.restore, static_argnums=1)(params, cfg, image)
    assert restored.shape == image.shape and bool(jnp.isfinite(restored).all())
    assert tuple(tap.shape[-1] for tap in taps) == cfg.channels
    side = -(-11 // cfg.multiple) * cfg.multiple
    assert [tap.shape[1] for tap in taps] == [side // 2**i for i in range(len(taps))]
    for tap, alone in zip(taps, networks.features(params, cfg, image), strict=True):
        np.testing.assert_allclose(tap, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "cfg", [FULL, RestormerConfig(), ClassifierConfig(FULL.channels, 5)], ids=lambda c: type(c).__name__
)
def test_every_parameter_has_a_place(cfg):
    specs = Layout(make_mesh(1, len(jax.devices()), 1), networks.RULES).shardings(networks.abstract(cfg))
    sizes = jax.tree.map(lambda s, x: x.size if s.spec == jax.P() else 0, specs, networks.abstract(cfg))
    assert sum(jax.tree.leaves(sizes)) < 0.03 * networks.count_params(
        cfg
    )  # all but depthwise weights, norms and biases is divided


def test_weights_go_out_and_come_in_strictly(tmp_path):
    params = networks.init(jax.random.key(0), NAFNET)
    networks.save(tmp_path, NAFNET, params)
    assert networks.load_config(tmp_path) == NAFNET
    jax.tree.map(np.testing.assert_array_equal, networks.load(tmp_path, NAFNET), params)
    with pytest.raises(WeightsError, match="of another model: decoder0/"):
        networks.load(tmp_path, NAFNetConfig(width=8, encoder=(1, 2), decoder=(1, 1)))


@pytest.mark.parametrize(
    "kind, values, field",
    [
        (NAFNetConfig, {"width": 3}, "network.width"),
        (NAFNetConfig, {"decoder": (1,)}, "network.decoder"),
        (RestormerConfig, {"heads": (1, 2, 5, 8)}, "network.heads"),
        (ClassifierConfig, {"channels": (4,), "classes": 1}, "classifier.classes"),
    ],
)
def test_bad_sizes_are_named(kind, values, field):
    with pytest.raises(ConfigError, match=field):
        kind(**values)
