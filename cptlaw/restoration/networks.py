"""Networks and their classifier as functions of plain parameter trees: init, apply, sizes, weights in and out."""

import dataclasses
import functools
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cptlaw import atomic, fields
from cptlaw.models.sharding import Spec
from cptlaw.models.tensor_files import Safetensors, WeightsError
from cptlaw.models.tree import differences, path_name, shapes
from cptlaw.restoration import layers
from cptlaw.restoration.classifier import Classifier, ClassifierConfig
from cptlaw.restoration.nafnet import NAFNet, NAFNetConfig
from cptlaw.restoration.restormer import Restormer, RestormerConfig

Params = dict[str, Any]
Config = NAFNetConfig | RestormerConfig
_MODULES: dict[type, Any] = {NAFNetConfig: NAFNet, RestormerConfig: Restormer, ClassifierConfig: Classifier}

# The output channels of every matrix are divided over `fsdp`, but the width of Restormer's feed-forward, which may be
# odd; what is small is on every device. The head has three channels.
RULES: tuple[tuple[str, Spec], ...] = (
    (r"(head|logits)/(conv|dense)$", ()),
    (r"(stage\d+|last)/conv[123]$", (None, None, None, None, "fsdp")),
    (r"/conv$", (None, None, None, "fsdp")),
    (r"/up/dense$", (None, "fsdp", None)),
    (r"(encoder\d+|middle|latent|decoder\d+|head_refinement)/.*/dense$", (None, None, "fsdp")),
    (r"/dense$", (None, "fsdp")),
    (r"(depthwise|scale|bias|mixing)$", ()),
)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A network with the classifier of its taps."""

    network: Config
    classifier: ClassifierConfig


def init(key: jax.Array, cfg: Config | ClassifierConfig) -> Params:
    """Random parameters, as a nested dict of float32 arrays."""
    return nnx.to_pure_dict(nnx.state(_MODULES[type(cfg)](cfg, key)))


def restore(params: Params, cfg: Config, image_BHWC: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The restored images, of the same shape, and the taps, finest first; those of the padded images.

    Images whose sides the network does not divide are padded with zeros, and the result is cut back.
    """
    H, W = image_BHWC.shape[1:3]
    restored, taps = _network(params, cfg)(layers.padded(image_BHWC, cfg.multiple))
    assert restored is not None
    return restored[:, :H, :W], taps


def features(params: Params, cfg: Config, image_BHWC: jax.Array) -> tuple[jax.Array, ...]:
    """The taps, finest first; the output head and what only it needs are not computed."""
    return _network(params, cfg)(layers.padded(image_BHWC, cfg.multiple), head=False)[1]


def classify(params: Params, cfg: ClassifierConfig, taps: tuple[jax.Array, ...]) -> jax.Array:
    """Logits (B, K). Raises ValueError for taps of other channels than the config's, or whose sizes do not halve."""
    channels = tuple(tap.shape[-1] for tap in taps)
    if channels != cfg.channels:
        raise ValueError(f"taps: channels {channels}; this classifier takes {cfg.channels}")
    return nnx.merge(_graph(cfg), params)(taps)


def abstract(cfg: Config | ClassifierConfig) -> Params:
    """The shapes of the parameters."""
    return jax.eval_shape(lambda: init(jax.random.key(0), cfg))


def count_params(cfg: Config | ClassifierConfig) -> int:
    """How many parameters there are."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract(cfg)))


def flops(pair: Pair, crop: int) -> dict[str, float]:
    """FLOPs of a crop in one step of each phase: two for a multiplication, and three times the forward pass.

    `dcpt` is two passes through the network, of which one ends at the last tap, and one through the classifier;
    `generation` and `fine_tune` are one pass through the network; `guided` is a fine-tuning step with the classifier.
    """
    whole, taps = pair.network.macs(crop), pair.network.macs(crop, head=False)
    classifier = pair.classifier.macs(crop)
    return {
        "dcpt": 6 * (whole + taps + classifier),
        "generation": 6 * whole,
        "fine_tune": 6 * whole,
        "guided": 6 * (whole + classifier),
    }


def save(path: str | os.PathLike[str], cfg: Config | ClassifierConfig, params: Params) -> None:
    """Writes `config.json` and `model.safetensors` into a folder, each whole or not at all."""
    from safetensors.numpy import save_file

    leaves = jax.tree_util.tree_leaves_with_path(params)
    tensors = {path_name(name): np.ascontiguousarray(jax.device_get(leaf)) for name, leaf in leaves}
    with atomic.replacing(Path(path) / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    atomic.write_text(Path(path) / "config.json", json.dumps(dataclasses.asdict(cfg)))


def load(path: str | os.PathLike[str], cfg: Config | ClassifierConfig) -> Params:
    """The parameters in a folder that `save` wrote. All must be there, and nothing else.

    Raises WeightsError for a folder that is not there, damaged, or of another model, naming what differs.
    """
    source = Safetensors(Path(path))
    wanted = abstract(cfg)
    if wrong := differences(shapes(wanted), source.shapes, "is not in this model"):
        raise WeightsError(f"{path}: of another model: {'; '.join(wrong[:5])}; use the config.json beside it")
    return jax.tree_util.tree_map_with_path(
        lambda name, leaf: jnp.asarray(source.read(path_name(name), (slice(None),) * leaf.ndim), jnp.float32), wanted
    )


def load_config(path: str | os.PathLike[str]) -> Config:
    """The config of a network that `save` wrote. Raises WeightsError when it is not readable."""
    kinds = {"nafnet": NAFNetConfig, "restormer": RestormerConfig}
    try:
        values = json.loads((Path(path) / "config.json").read_text())
        return fields.build(kinds[values["kind"]], values, f"{path}/config.json")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}/config.json: no config of a restoration network ({error!r})") from None


def _network(params: Params, cfg: Config) -> NAFNet | Restormer:
    return nnx.merge(_graph(cfg), params)


@functools.lru_cache
def _graph(cfg: Config | ClassifierConfig) -> nnx.GraphDef:
    return nnx.graphdef(jax.eval_shape(lambda: _MODULES[type(cfg)](cfg, jax.random.key(0))))
