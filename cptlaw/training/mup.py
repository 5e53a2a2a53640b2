"""Maximal update parametrisation (muP; Yang et al. 2022, Tensor Programs V, arXiv 2203.03466, table 8, Adam).

Models of several widths then share their best learning rate: that of the base, a narrow model. The multipliers of
output and attention are folded into weights and their learning rates, which under Adam is the same model: so a model
trained this way is an ordinary one, and exports as such. Relative to the base, with fan-in n times as large:

  weights of hidden layers   learning rate / n (their initial deviation is 1 / sqrt(fan-in) anyhow)
  final norm                 initial value and learning rate / n: the output multiplier
  queries                    both times sqrt(channels of the base's heads / channels): attention's 1 / channels
  embeddings, norms, biases  as they are

Weight decay is that of the base for all weights: independent of width.
"""

import math
import re
from typing import Any

import jax
import optax

from cptlaw.models import transformer
from cptlaw.models.config import Config
from cptlaw.models.transformer import Params
from cptlaw.models.tree import path_name


def scale_init(params: Params, base: Config) -> Params:
    """Random parameters of `transformer.init` as muP starts."""
    factors = _factors(params, base)
    if not base.norm_offset:
        return jax.tree.map(lambda p, factor: p * factor[0], params, factors)

    def scaled(path: Any, p: jax.Array, factor: tuple[float, float]) -> jax.Array:
        # The scale of these norms is 1 + p.
        return (1 + p) * factor[0] - 1 if path_name(path).endswith("norm") else p * factor[0]

    return jax.tree_util.tree_map_with_path(scaled, params, factors)


def scale_by_width(base: Config) -> optax.GradientTransformation:
    """Scales each weight's update by its learning rate relative to the base's."""

    def scale(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map(lambda update, factor: update * factor[1], updates, _factors(updates, base))

    return optax.stateless(scale)


def _factors(tree: Params, base: Config) -> Any:
    """(of the initial value, of the learning rate) for every array of a tree of a model's shape."""
    wanted = jax.eval_shape(lambda: transformer.init(jax.random.key(0), base))
    shapes = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)}
    scaled_query = r"attention/q_norm$" if base.qk_norm else r"attention/q(_bias)?$"

    def factors(path: Any, leaf: jax.Array) -> tuple[float, float]:
        name = path_name(path)
        ours, theirs = leaf.shape, shapes[name]
        if re.search(r"final_norm(_bias)?$", name):
            return theirs[0] / ours[0], theirs[0] / ours[0]
        query = math.sqrt(theirs[-1] / ours[-1]) if re.search(scaled_query, name) else 1.0
        return query, query * math.prod(theirs[d] / ours[d] for d in transformer.fan_in(name))

    return jax.tree_util.tree_map_with_path(factors, tree)
