"""The memory that a size of a study needs on one device, found without allocating any."""

import dataclasses
import math
from typing import Any, cast

import jax
import jax.numpy as jnp

from cptlaw.errors import UserError
from cptlaw.models import loss, transformer
from cptlaw.models.sharding import AXES, Layout, mesh_sizes
from cptlaw.studies import grid, inputs
from cptlaw.studies.settings import Study
from cptlaw.training.step import loss_sums, make_start


@dataclasses.dataclass(frozen=True)
class Footprint:
    """One size of a study on its mesh.

    Attributes:
      cfg, layout: the model, and its mesh.
      state: parameters and moments, bytes a device.
      gradients: bytes a device.
      activations: what the backward pass keeps of the forward pass, bytes a device.
      work: what the largest piece of a step needs meanwhile, bytes a device.
    """

    cfg: transformer.Config
    layout: Layout
    state: int
    gradients: int
    activations: int
    work: int

    @property
    def total(self) -> int:
        return self.state + self.gradients + self.activations + self.work


def footprint(study: Study, size: str, devices: int) -> Footprint:
    """Evaluates init and step of a size abstractly, on a mesh of `devices` that need not exist.

    `work` is one layer's arrays, computed again and differentiated (six of the feed-forward width and eight of the
    model's), or two float32 blocks of logits, whichever is more.

    Raises UserError for a model, a sharding or a batch that cannot be.
    """
    run = grid.base_run(study, size, vocabulary_ids(study), {})
    cfg = run.config
    sizes = mesh_sizes(devices, **study.mesh)
    mesh = jax.sharding.AbstractMesh(sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))
    layout = Layout(cast(jax.sharding.Mesh, mesh))  # only its shape and axes are read here
    _, state = make_start(cfg, run.make_optimizer(), layout)
    split = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"]
    if study.batch_size % split or study.eval_batch_size % split:
        raise UserError(
            f"config.batch_size {study.batch_size}, eval_batch_size {study.eval_batch_size}: not divisible by the "
            f"{split} devices that split a batch"
        )
    parts = max(study.microbatches, 1)
    rows = study.batch_size // split // parts
    kept = [_residuals(cfg, state.params, rows * times, study.seq_len) for times in (1, 2)]
    return Footprint(
        cfg=cfg,
        layout=layout,
        state=_bytes(state),
        gradients=_bytes(state.params) * min(parts, 2),  # those of a part, and their sum
        activations=kept[1] - kept[0],  # what does not grow with the rows is parameters, counted already
        work=rows * study.seq_len * max(_layer(cfg), _logits(cfg, study.batch_size // parts * study.seq_len)),
    )


def _layer(cfg: transformer.Config) -> int:
    return jnp.dtype(cfg.dtype).itemsize * (6 * cfg.d_ff + 8 * cfg.d_model)


def _logits(cfg: transformer.Config, tokens: int) -> int:
    return 2 * 4 * cfg.vocab_size // loss.blocks(cfg.vocab_size, tokens, cfg.loss_block)


def vocabulary_ids(study: Study) -> int:
    """Token ids of the vocabulary; 1 where every model brings a size of its own, so that the file need not be there."""
    if study.vocabulary.kind == "file" and set(study.grid_sizes().values()) <= set(study.init_from):
        return 1
    return inputs.vocabulary_ids(study)


def _residuals(cfg: transformer.Config, params: Any, rows: int, seq_len: int) -> int:
    """Bytes that the backward pass of `rows` rows is given."""
    batch = {
        name: jax.ShapeDtypeStruct((rows, seq_len), dtype)
        for name, dtype in {
            "tokens_BT": jnp.int32,
            "targets_BT": jnp.int32,
            "segments_BT": jnp.int32,
            "positions_BT": jnp.int32,
            "mask_BT": jnp.float32,
        }.items()
    }
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    backward = jax.eval_shape(lambda p, b: jax.vjp(lambda p: loss_sums(p, cfg, b)[0], p)[1], params, batch)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(backward))


def _bytes(tree: Any) -> int:
    """Bytes of a tree's shards on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
