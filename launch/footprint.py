"""What a study's config asks of its devices: memory of each size, FLOPs and hours of its grid. Nothing is allocated.

    python -m launch.footprint --config configs/qwen.py --devices 64 --gib 16 --tflops 197

Memory is that of one device in a training step: the state (parameters and Adam's moments, float32) and the gradients,
as the mesh shards them; what the backward pass keeps of the forward pass; and an estimate of what the largest piece of
work needs meanwhile. Hours are FLOPs over devices x tflops x mfu.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from cptlaw.errors import UserError
from cptlaw.experiments import grid
from cptlaw.experiments.config import Study
from cptlaw.models import loss, transformer
from cptlaw.training.sharding import AXES, Layout, mesh_sizes
from cptlaw.training.step import loss_sums, make_start
from launch import common

_DEVICES = flags.DEFINE_integer("devices", 1, "How many devices a run has.")
_GIB = flags.DEFINE_float("gib", 0.0, "Memory of a device; what does not fit is an error.")
_TFLOPS = flags.DEFINE_float("tflops", 989.0, "Peak of a device, bfloat16 (H100 989, H200 989, v5e 197, v5p 459).")
_MFU = flags.DEFINE_float("mfu", 0.4, "Share of the peak that training reaches.")


@dataclasses.dataclass(frozen=True)
class Footprint:
    """One size of a study on its mesh; memory in bytes a device."""

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
    run = grid.base_run(study, size, _ids(study), {})
    cfg = transformer.Config(**run.model)
    sizes = mesh_sizes(devices, **study.mesh)
    layout = Layout(jax.sharding.AbstractMesh(sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES)))
    _, state = make_start(cfg, run.make_optimizer(), layout)
    split = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"]
    if study.batch_size % split or study.eval_batch_size % split:
        raise UserError(
            f"config.batch_size {study.batch_size}, eval_batch_size {study.eval_batch_size}: not divisible by the "
            f"{split} devices that split a batch"
        )
    rows = study.batch_size // split
    kept = [_residuals(cfg, state.params, rows * times, study.seq_len) for times in (1, 2)]
    return Footprint(
        cfg=cfg,
        layout=layout,
        state=_bytes(state),
        gradients=_bytes(state.params),
        activations=kept[1] - kept[0],  # what does not grow with the rows is parameters, counted already
        work=rows * study.seq_len * max(_layer(cfg), _logits(cfg)),
    )


def _layer(cfg: transformer.Config) -> int:
    return jnp.dtype(cfg.dtype).itemsize * (6 * cfg.d_ff + 8 * cfg.d_model)


def _logits(cfg: transformer.Config) -> int:
    return 2 * 4 * cfg.vocab_size // loss.blocks(cfg.vocab_size, cfg.loss_block)


def _ids(study: Study) -> int:
    """Token ids, as far as the config says; an imported model says the rest."""
    return 256 + 3 if study.vocabulary.kind == "bytes" else study.vocabulary.size


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


def main() -> None:
    study = common.study()
    head = ("size", "non-embedding", "total", "FLOPs/token", "state", "gradients", "activations", "work", "GiB in all")
    print(("{:10}" + "{:>14}" * 8).format(*head))
    for size in study.grid:
        found = footprint(study, size, _DEVICES.value)
        counts = transformer.count_params(found.cfg)
        gib = [f"{x / 2**30:.2f}" for x in (found.state, found.gradients, found.activations, found.work, found.total)]
        flops = transformer.flops_per_token(found.cfg, study.seq_len)["training"]
        print(
            f"{size:10}{counts['non_embedding']:14,}{counts['total']:14,}{flops:14.3g}"
            + "".join(f"{g:>14}" for g in gib)
        )
        if _GIB.value and found.total > 0.9 * _GIB.value * 2**30:
            raise UserError(
                f"config.sizes.{size}: {gib[-1]} GiB a device leave less than a tenth of {_GIB.value:g} free; give it "
                "more devices on the fsdp axis, a smaller batch, or model.remat full"
            )
    runs = grid.plan(study, _ids(study), dict.fromkeys((study.general, *study.domains), ""))
    rate = _DEVICES.value * _TFLOPS.value * 1e12 * _MFU.value
    for size in study.grid:
        mine = [run for run in runs if run.size == size]
        flops, tokens = sum(run.flops() for run in mine), sum(run.tokens - run.first_token for run in mine)
        print(f"{size:10}{len(mine)} runs, {tokens:,} tokens, {flops:.3g} FLOPs, {flops / rate / 3600:.1f} hours")
    flops = sum(run.flops() for run in runs)
    hours, devices = flops / rate / 3600, _DEVICES.value
    print(f"{len(runs)} runs, {flops:.3g} FLOPs: {hours:.1f} hours on {devices}, {hours * devices:.0f} device-hours")


if __name__ == "__main__":
    common.run(main, multihost=False, required=["config"])
