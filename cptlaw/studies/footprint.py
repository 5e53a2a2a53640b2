"""The memory that a size of a study needs on one device and on disk: an estimate, or what a compiler assigns."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from cptlaw.errors import UserError
from cptlaw.execution.job import RECENT_CHECKPOINTS
from cptlaw.execution.run import Run
from cptlaw.models import loss, transformer
from cptlaw.models.sharding import AXES, Layout, make_mesh, mesh_sizes
from cptlaw.studies import grid, inputs
from cptlaw.studies.settings import Study
from cptlaw.training.step import default_microbatches, loss_sums, make_start, make_step

# What JAX takes of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise; TPUs are JAX's whole.
GPU_POOL = 0.75


@dataclasses.dataclass(frozen=True)
class Footprint:
    """One size of a study on its mesh, in bytes; those of memory are of one device, in a training step.

    Attributes:
      cfg, layout: the model, and its mesh.
      state: parameters and moments.
      gradients: of all parameters, as they are sharded.
      activations: what the backward pass keeps of the forward pass.
      gathered: with parameters split over fsdp, what is whole for a while: weights of the layer that is computed and
        of the next, and the layer's gradients before they are split.
      work: what the largest piece of a step needs meanwhile.
      checkpoint: one checkpoint of a run, of all devices together.
      kept: checkpoints of a run that are on disk at once, at most: the newest, and those of a trunk.
    """

    cfg: transformer.Config
    layout: Layout
    state: int
    gradients: int
    activations: int
    gathered: int
    work: int
    checkpoint: int
    kept: int

    @property
    def total(self) -> int:
        return self.state + self.gradients + self.activations + self.gathered + self.work


def footprint(study: Study, size: str, devices: int) -> Footprint:
    """Evaluates init and step of a size abstractly, on a mesh of `devices` that need not exist.

    `work` is one layer's arrays, computed again and differentiated (six of the feed-forward width and eight of the
    model's), or two float32 blocks of logits, whichever is more.

    Raises UserError for a model, a sharding or a batch that cannot be.
    """
    run = grid.base_run(study, size, vocabulary_ids(study), {})
    mesh = jax.sharding.AbstractMesh(
        mesh_sizes(devices, **study.mesh), AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES)
    )
    return estimate(run, Layout(cast(jax.sharding.Mesh, mesh)), _kept(study))  # only its shape and axes are read


def estimate(run: Run, layout: Layout, kept: int = RECENT_CHECKPOINTS) -> Footprint:
    """The footprint of a run on a mesh, of which the shape alone counts."""
    cfg = run.config
    _, state = make_start(cfg, run.make_optimizer(), layout)
    split = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"]
    if run.batch_size % split or run.eval_batch_size % split:
        raise UserError(
            f"config.batch_size {run.batch_size}, eval_batch_size {run.eval_batch_size}: not divisible by the "
            f"{split} devices that split a batch"
        )
    parts = max(run.microbatches, 1)
    rows = run.batch_size // split // parts
    kept_of = [_residuals(cfg, state.params, rows * times, run.seq_len) for times in (1, 2)]
    return Footprint(
        cfg=cfg,
        layout=layout,
        state=_bytes(state),
        gradients=_bytes(state.params) * min(parts, 2),  # those of a part, and their sum
        activations=kept_of[1] - kept_of[0],  # what does not grow with the rows is parameters, counted already
        gathered=_gathered(cfg, state.params, layout),
        work=rows * run.seq_len * max(_layer(cfg), _logits(cfg, run.batch_size // parts * run.seq_len)),
        checkpoint=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        kept=kept,
    )


def compiled(study: Study, size: str, devices: Sequence[jax.Device]) -> int:
    """Bytes that the compiler for `devices`, which need not be here, assigns on one of them to a training step.

    Its arguments (the state and a batch), its results that take the place of none of them, and its temporary arrays.

    Raises UserError as `footprint` does.
    """
    run = grid.base_run(study, size, vocabulary_ids(study), {})
    return compile_step(run, Layout(make_mesh(**study.mesh, devices=devices)))[0]


def compile_step(run: Run, layout: Layout) -> tuple[int, str]:
    """Bytes as of `compiled`, and the program as text."""
    cfg, optimizer = run.config, run.make_optimizer()
    parts = run.microbatches or default_microbatches(cfg, layout, run.batch_size, run.seq_len)
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=layout.replicated)
    step: Any = make_step(cfg, optimizer, layout, parts)
    made = step.lower(
        make_start(cfg, optimizer, layout)[1], _batch(run.batch_size, run.seq_len, layout.batch), rate
    ).compile()
    found = made.memory_analysis()
    total = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return total + found.temp_size_in_bytes, made.as_text()


def _kept(study: Study) -> int:
    """Checkpoints that a run has on disk at once, at most; a trunk keeps one for each of its branches."""
    return RECENT_CHECKPOINTS + (len(study.eval_tokens) if study.cpt.branch_cooldown else 0)


def _gathered(cfg: transformer.Config, params: Any, layout: Layout) -> int:
    """Layer weights of this device and the next one's in the dtype of the computation, and one layer's gradients."""
    if layout.mesh.shape["fsdp"] == 1:
        return 0
    layers = sum(x.size for x in jax.tree.leaves(params["layers"])) // cfg.layers // layout.mesh.shape["tensor"]
    itemsize = jnp.dtype(cfg.dtype).itemsize
    gradient = 4 if cfg.gradient_dtype == "float32" else itemsize
    return layers * (2 * itemsize + gradient)


def _layer(cfg: transformer.Config) -> int:
    return jnp.dtype(cfg.dtype).itemsize * (6 * cfg.d_ff + 8 * cfg.d_model)


def _logits(cfg: transformer.Config, tokens: int) -> int:
    return 2 * 4 * cfg.vocab_size // loss.blocks(cfg.vocab_size, tokens, cfg.loss_block)


def vocabulary_ids(study: Study) -> int:
    """Token ids of the vocabulary; 1 where every model brings a size of its own, so that the file need not be there."""
    if study.vocabulary.kind == "file" and set(study.grid_sizes().values()) <= set(study.init_from):
        return 1
    return inputs.vocabulary_ids(study)


def _batch(rows: int, seq_len: int, sharding: jax.sharding.Sharding | None = None) -> dict[str, jax.ShapeDtypeStruct]:
    integers = ("tokens_BT", "targets_BT", "segments_BT", "positions_BT")
    dtypes = {**dict.fromkeys(integers, jnp.int32), "mask_BT": jnp.float32}
    return {name: jax.ShapeDtypeStruct((rows, seq_len), dtype, sharding=sharding) for name, dtype in dtypes.items()}


def _residuals(cfg: transformer.Config, params: Any, rows: int, seq_len: int) -> int:
    """Bytes that the backward pass of `rows` rows is given."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    batch = _batch(rows, seq_len)
    backward = jax.eval_shape(lambda p, b: jax.vjp(lambda p: loss_sums(p, cfg, b)[0], p)[1], params, batch)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(backward))


def _bytes(tree: Any) -> int:
    """Bytes of a tree's shards on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
