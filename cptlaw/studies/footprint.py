"""The memory that a size of a study needs on one device and on disk: an estimate, or what a compiler assigns."""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from cptlaw.errors import UserError
from cptlaw.execution.job import RECENT_CHECKPOINTS
from cptlaw.execution.run import Run
from cptlaw.models import attention, loss, transformer
from cptlaw.models.attention import spans
from cptlaw.models.sharding import AXES, Layout, make_mesh, mesh_sizes
from cptlaw.studies import grid, inputs
from cptlaw.studies.settings import Study
from cptlaw.training.memory import abstract_batch, residual_bytes, tree_bytes
from cptlaw.training.step import default_microbatches, make_start, make_step


@dataclasses.dataclass(frozen=True)
class Footprint:
    """One size of a study on its mesh, in bytes; those of memory are of one device, in a training step.

    Attributes:
      cfg, layout: the model, and its mesh.
      state: parameters, moments in their dtypes, and with `Optimizer.ema` the average of the parameters.
      gradients: of all parameters, as they are sharded; with microbatches those of a part and their sum.
      activations: what the backward pass keeps of the layers' forward passes.
      cast: weights in the dtype of the computation, as they are sharded, which compilers make of all layers at once.
      gathered: with parameters split over fsdp, what is whole for a while: weights of the layer that is computed and
        of the next, and the layer's gradients before they are split.
      layer: what a layer's backward pass makes again and makes besides.
      loss: logits, and what of the output embedding is whole beside them, before the layers' gradients are there; with
        microbatches the gradients of earlier parts too.
      update: what Muon makes of the layers' matrices after the backward pass. Other steps make less than that pass.
      checkpoint: one checkpoint of a run, of all devices together.
      kept: checkpoints of a run that are on disk at once, at most: the newest, and those of a trunk.
    """

    cfg: transformer.Config
    layout: Layout
    state: int
    gradients: int
    activations: int
    cast: int
    gathered: int
    layer: int
    loss: int
    update: int
    checkpoint: int
    kept: int

    @property
    def total(self) -> int:
        """Memory at the worst of three moments: the loss's gradient, that of the first layer, which is the last to be
        made, or the update."""
        backward = self.activations + self.cast + max(self.loss, self.gradients + self.gathered + self.layer)
        return self.state + max(backward, self.gradients + self.update)


def footprint(study: Study, size: str, devices: int, platform: str = "cuda") -> Footprint:
    """Evaluates init and step of a size abstractly, on a mesh of `devices` that need not exist.

    `platform`, cuda, tpu or cpu, decides the attention kernel.

    Raises UserError for a model, a sharding or a batch that cannot be.
    """
    run = grid.base_run(study, size, vocabulary_ids(study), {})
    mesh = jax.sharding.AbstractMesh(
        mesh_sizes(devices, **study.mesh), AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES)
    )
    layout = Layout(cast(jax.sharding.Mesh, mesh))  # only its shape and axes are read
    return estimate(run, layout, platform, _kept(study))


def estimate(run: Run, layout: Layout, platform: str, kept: int = RECENT_CHECKPOINTS) -> Footprint:
    """The footprint of a run on a mesh, of which the shape alone counts.

    Within a tenth of what XLA assigns to a scanned model, see benchmarks/layout.md; tests/studies/test_footprint.py
    holds it to the compiler of CPUs and tests/models/test_topologies.py to that of TPUs.
    """
    cfg, optimizer = run.config, run.make_optimizer()
    _, state = make_start(cfg, optimizer, layout)
    split = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"]
    if run.batch_size % split or run.eval_batch_size % split:
        raise UserError(
            f"config.batch_size {run.batch_size}, eval_batch_size {run.eval_batch_size}: not divisible by the "
            f"{split} devices that split a batch"
        )
    parts = max(run.microbatches, 1)
    rows, seq_len = run.batch_size // split // parts, run.seq_len
    own = _of_one_device(cfg, layout.mesh.shape["tensor"])
    kernel = attention.choose(cfg, seq_len, platform)
    itemsize = jnp.dtype(cfg.dtype).itemsize
    gradient = jnp.dtype(cfg.gradient_dtype).itemsize if cfg.dtype == "bfloat16" else itemsize
    weights = sum(x.size for x in jax.tree.leaves(state.params["layers"])) // cfg.layers // layout.mesh.shape["tensor"]
    windows = collections.Counter(kind.window for kind in cfg.kind_of_each)
    scores = {window: rows * own.heads * itemsize * _pairs(seq_len, window) for window in windows}
    activations = 0
    for window, layers in windows.items():
        activations += layers * _kept_by_layers(
            dataclasses.replace(own, layer_kinds="", sliding_window=window), rows, seq_len
        )
        if kernel != "xla" and cfg.remat in ("none", "dots"):
            activations -= layers * scores[window]  # evaluated here with the kernel of CPUs, which keeps them
    if kernel == "splash" and cfg.remat == "attention":
        # A TPU keeps the kernel's output in lanes of 128 channels.
        activations += cfg.layers * rows * seq_len * own.heads * (-cfg.head_dim % 128) * itemsize
    widths = (3, 4) if cfg.remat == "none" else (9, 12)
    repeated = 4 * rows * seq_len * own.heads * cfg.head_dim * itemsize  # keys, values and their gradients
    masks = {"xla": max(scores.values()), "cudnn": 2 * 2 * rows * seq_len**2, "triton": repeated, "splash": 0}
    params = _bytes(state.params)
    return Footprint(
        cfg=cfg,
        layout=layout,
        state=_bytes(state),
        gradients=params * min(parts, 2),
        activations=activations,
        cast=params // 2 if cfg.dtype == "bfloat16" else 0,
        # Programs of accelerators gather ahead; those of CPUs hold one matrix at a time, which is next to nothing.
        gathered=weights * (2 * itemsize + gradient) if layout.mesh.shape["fsdp"] > 1 and platform != "cpu" else 0,
        # Arrays of the feed-forward width and of the model's: gradients, and what is made again. As many as the TPU
        # compiler's programs have at once. Of attention, what its kernel makes. Of a tied
        # embedding, its gradient from the lookup beside that from the logits.
        layer=rows * seq_len * itemsize * (widths[0] * own.d_ff + widths[1] * own.d_model)
        + masks[kernel]
        + (_bytes(state.params["embed"]) if cfg.tie_embeddings else 0),
        loss=_loss(own, rows * seq_len, run.batch_size // parts * seq_len) + params * (parts > 1),
        # Whole matrices of all layers in float32, however fsdp splits them: the momentum's direction, and what is made
        # of it, as measured.
        update=int(4 * transformer.count_hidden(own) * (2.5 if layout.mesh.shape["fsdp"] > 1 else 2))
        if optimizer.kind == "muon"
        else 0,
        checkpoint=tree_bytes(state),
        kept=kept,
    )


def compiled(study: Study, size: str, devices: Sequence[jax.Device]) -> int:
    """Bytes that the compiler for `devices`, which need not be here, assigns on one of them to a training step.

    Its arguments (the state and a batch), its results that take the place of none of them, and its temporary arrays.

    Raises UserError as `footprint` does, and when the compiler refuses a program that does not fit.
    """
    run = grid.base_run(study, size, vocabulary_ids(study), {})
    return compile_step(run, Layout(make_mesh(**study.mesh, devices=devices)))[0]


def compile_step(run: Run, layout: Layout) -> tuple[int, str]:
    """Bytes as of `compiled`, and the program as text."""
    cfg, optimizer = run.config, run.make_optimizer()
    parts = run.microbatches or default_microbatches(cfg, layout, run.batch_size, run.seq_len)
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=layout.replicated)
    step: Any = make_step(cfg, optimizer, layout, parts)
    batch = abstract_batch(run.batch_size, run.seq_len, layout.batch)
    lowered = step.lower(make_start(cfg, optimizer, layout)[1], batch, rate)
    try:
        made = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(f"config.sizes.{run.size}: does not fit a device, says its compiler: {error}") from None
    found = made.memory_analysis()
    total = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return total + found.temp_size_in_bytes, made.as_text()


def _kept(study: Study) -> int:
    """Checkpoints that a run has on disk at once, at most; a trunk keeps one for each of its branches."""
    return RECENT_CHECKPOINTS + (len(study.eval_tokens) if study.cpt.branch_cooldown else 0)


def _of_one_device(cfg: transformer.Config, tensor: int) -> transformer.Config:
    """The model with the heads, the feed-forward width and the token ids that one device of a tensor axis has."""
    return dataclasses.replace(
        cfg,
        head_dim=cfg.head_dim,
        heads=cfg.heads // tensor,
        kv_heads=cfg.kv_heads // tensor,
        d_ff=cfg.d_ff // tensor,
        vocab_size=cfg.vocab_size // tensor,
    )


def _pairs(seq_len: int, window: int) -> int:
    """Pairs of a query and a key whose scores are computed."""
    return sum((at.stop - at.start) * (seen.stop - seen.start) for at, seen in spans(seq_len, window))


def _kept_by_layers(cfg: transformer.Config, rows: int, seq_len: int) -> int:
    """Bytes that one layer's backward pass is given of `rows` rows: what grows both with the rows and with the layers,
    since the rest is parameters, tables and the loss."""

    def kept(layers: int, times: int) -> int:
        less = dataclasses.replace(cfg, layers=layers, scan_layers=False, vocab_size=8)
        return residual_bytes(less, rows * times, seq_len)

    return kept(2, 2) - kept(2, 1) - kept(1, 2) + kept(1, 1)


def _loss(cfg: transformer.Config, own: int, tokens: int) -> int:
    """Logits and their gradients in float32, two of each where the vocabulary is taken in blocks; the embedding of as
    many ids, and its gradient in float32. `own` tokens are this device's, of all `tokens`."""
    blocks = loss.blocks(cfg.vocab_size, tokens, cfg.loss_block)
    times = 1 if blocks == 1 else 2
    embedding = cfg.d_model * (jnp.dtype(cfg.dtype).itemsize + 4)
    return cfg.vocab_size // blocks * times * (own * 4 * 2 + embedding)


def vocabulary_ids(study: Study) -> int:
    """Token ids of the vocabulary; 1 where every model brings a size of its own, so that the file need not be there."""
    if study.vocabulary.kind == "file" and set(study.grid_sizes().values()) <= set(study.init_from):
        return 1
    return inputs.vocabulary_ids(study)


def _bytes(tree: Any) -> int:
    """Bytes of a tree's shards on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def check_fits(
    study: Study, size: str, platform: str, gib: float, needed: int, devices: int, pool: float = 1.0
) -> None:
    """Raises UserError when a size that needs so many bytes does not fit devices of `gib`, with what would.

    `pool` is the share of a device's memory that JAX takes.
    """
    room = 0.95 * pool * gib * 2**30
    if needed > room:
        raise UserError(
            f"config.sizes.{size}: {needed / 2**30:.3g} GiB a device, but JAX has {pool * gib:.3g} of the {gib:.3g} "
            "GiB, and a twentieth is for what no estimate holds; " + _remedy(study, size, platform, room, devices)
        )


def _remedy(study: Study, size: str, platform: str, room: float, devices: int) -> str:
    """What to change: a batch in the fewest parts that fit, if any do."""
    split = math.prod(mesh_sizes(devices, **study.mesh)[:2])
    for parts in range(max(study.microbatches, 1) + 1, study.batch_size // split + 1):
        if study.batch_size // split % parts == 0:
            one = footprint(dataclasses.replace(study, microbatches=parts), size, devices, platform)
            if one.total <= room:
                return f"config.microbatches={parts} needs {one.total / 2**30:.3g}"
    return "give it more devices on the fsdp axis, a smaller batch, or model.remat full"
