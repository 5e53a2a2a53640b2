"""Prints what a study's config needs: memory of each size on a device, FLOPs and hours of its grid. Allocates nothing.

    python -m launch.footprint --config configs/qwen.py --devices 64 --gib 16 --tflops 197

Memory is that of one device in a training step: the state (parameters and Adam's moments, float32) and the gradients,
as the mesh shards them; what the backward pass keeps of the forward pass; and an estimate of what the largest piece of
work needs meanwhile. Hours are FLOPs over devices x tflops x mfu.
"""

from absl import flags

from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.studies import grid
from cptlaw.studies.footprint import footprint, vocabulary_ids
from launch import common

_DEVICES = flags.DEFINE_integer("devices", 1, "How many devices a run has.", lower_bound=1)
_GIB = flags.DEFINE_float("gib", 0.0, "Memory of a device; what does not fit is an error.", lower_bound=0)
_TFLOPS = flags.DEFINE_float("tflops", 989.0, "Peak of a device, bfloat16 (H100 989, H200 989, v5e 197, v5p 459).")
_MFU = flags.DEFINE_float("mfu", 0.4, "Share of the peak that training reaches.", lower_bound=1e-9, upper_bound=1)


def main() -> None:
    study = common.study()
    head = ("size", "non-embedding", "total", "FLOPs/token", "state", "gradients", "activations", "work", "GiB in all")
    print(("{:10}" + "{:>14}" * 8).format(*head))
    sizes = dict.fromkeys(study.grid_sizes().values())
    for size in sizes:
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
    runs = grid.plan(study, vocabulary_ids(study), dict.fromkeys((study.general, *study.domains), ""))
    rate = _DEVICES.value * _TFLOPS.value * 1e12 * _MFU.value
    for size in sizes:
        mine = [run for run in runs if run.size == size]
        flops, tokens = sum(run.flops() for run in mine), sum(run.tokens - run.first_token for run in mine)
        print(f"{size:10}{len(mine)} runs, {tokens:,} tokens, {flops:.3g} FLOPs, {flops / rate / 3600:.1f} hours")
    flops = sum(run.flops() for run in runs)
    hours, devices = flops / rate / 3600, _DEVICES.value
    print(f"{len(runs)} runs, {flops:.3g} FLOPs: {hours:.1f} hours on {devices}, {hours * devices:.0f} device-hours")


if __name__ == "__main__":
    common.run(main, multihost=False, required=["config"])
