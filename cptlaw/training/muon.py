"""Muon: the momentum of every hidden matrix, made nearly orthogonal (Jordan et al. 2024), by Optax; AdamW for the rest.

Hidden matrices are the weights of attention and of the feed-forward layers, each layer's on its own: the heads of one
projection are one matrix of the model's width by heads x channels. Embeddings, norms and biases have AdamW.

An orthogonal matrix of n x m has elements of root mean square 1 / sqrt(max(n, m)), and AdamW's step one of about 0.2.
So the step of a matrix is scaled by 0.2 sqrt(max(n, m)) (Liu et al. 2025, Moonlight, arXiv 2502.16982, section 2.2).
The learning rate and the weight decay are then those of AdamW, for all weights alike.

Of matrices that a mesh splits over fsdp every device makes the whole, so its memory and its work grow with the model
and not with the device's part of it (`launch.footprint` counts it). That suits models whose layers' weights fit a
device two to three times over.
"""

import math
from typing import Any

import jax
import optax
import optax.contrib

from cptlaw.models import transformer
from cptlaw.models.tree import path_name

RMS = 0.2  # of a step before the learning rate, in its elements


def with_adamw(momentum: float, adam: optax.GradientTransformation, mu_dtype: str) -> optax.GradientTransformation:
    """The direction of the step: Muon's for hidden matrices, that of `adam` for other parameters.

    Args:
      momentum: decay of the average of gradients, which is Nesterov's.
      mu_dtype: of that average. It is orthogonalised, by five steps of Newton and Schulz, in the gradients' float32.
    """
    muon = optax.chain(
        optax.contrib.scale_by_muon(beta=momentum, mu_dtype=mu_dtype, weight_dimension_numbers=_dimensions),
        optax.stateless(lambda updates, _: jax.tree.map(_scaled, updates, _dimensions(updates))),
    )
    return optax.partition({"muon": muon, "adamw": adam}, _labels)


def _labels(params: optax.Params) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "muon" if transformer.fan_in(path_name(path)) else "adamw", params
    )


def _dimensions(matrices: optax.Params) -> Any:
    """Which dimensions are rows and which are columns; those of neither, the layers', count matrices."""

    def of(path: Any, x: jax.Array) -> optax.contrib.MuonDimensionNumbers:
        rows = transformer.fan_in(path_name(path))
        return optax.contrib.MuonDimensionNumbers(rows, tuple(range(1 + len(rows), x.ndim)))

    return jax.tree_util.tree_map_with_path(of, matrices)


def _scaled(update: jax.Array, dims: optax.contrib.MuonDimensionNumbers) -> jax.Array:
    sides = (math.prod(update.shape[d] for d in along) for along in dims)
    return update * (RMS * math.sqrt(max(sides)))
