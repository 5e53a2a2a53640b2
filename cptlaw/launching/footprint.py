"""Prints what a study's config needs: memory of each size on a device, disk, FLOPs and hours of its grid.

    cptlaw footprint --config configs/qwen.py --devices 64 --platform tpu --gib 16 --tflops 197
    cptlaw footprint --config configs/qwen.py --topology v5e:8x8 --gib 16 --tflops 197   # asks the compiler
    cptlaw footprint --config configs/qwen.py --compile                                  # of what is here

Memory is that of one device in a training step, of which nothing is allocated: the state (parameters, the optimizer's
moments in their dtypes, with `optimizer.ema` the average of the weights); what the backward pass keeps of the forward
pass (kept); and what is there besides at the worst of three moments: the loss, the first layer's gradient, when all
gradients, weights in the dtype of the computation, gathered weights and the layer's own arrays are, or Muon's step. An
estimate, within a tenth of what XLA assigns to models whose layers are scanned (benchmarks/layout.md); with --topology
or --compile the compiler's own number stands beside it, and counts.

Of a GPU's memory JAX takes the share that XLA_PYTHON_CLIENT_MEM_FRACTION says, which launchers set to 0.9 (without them
it is 0.75), and all of a TPU's. Hours are FLOPs over devices x tflops x mfu.
"""

import argparse
import os
from collections.abc import Sequence

import jax

from cptlaw.errors import UserError
from cptlaw.launching import jobs
from cptlaw.models import transformer
from cptlaw.studies import grid
from cptlaw.studies.footprint import check_fits, compiled, footprint, vocabulary_ids
from cptlaw.studies.settings import Study


def main(args: argparse.Namespace) -> None:
    study = jobs.study(args)
    devices = _devices(args)
    count = args.devices if devices is None else len(devices)
    platform = "tpu" if args.topology else devices[0].platform if devices else args.platform
    platform = "cuda" if platform == "gpu" else platform
    head = ("size", "non-embedding", "total", "FLOPs/token", "state", "kept", "besides", "GiB in all", "compiler")
    print(("{:10}" + "{:>14}" * 8).format(*head))
    sizes = dict.fromkeys(study.grid_sizes().values())
    found = {}
    for size in sizes:
        found[size] = one = footprint(study, size, count, platform)
        assigned = None if devices is None else compiled(study, size, devices)
        counts = transformer.count_params(one.cfg)
        flops = transformer.flops_per_token(one.cfg, study.seq_len)["training"]
        bytes_ = (one.state, one.activations, one.total - one.state - one.activations, one.total, assigned)
        gib = ["" if x is None else f"{x / 2**30:.2f}" for x in bytes_]
        print(
            f"{size:10}{counts['non_embedding']:14,}{counts['total']:14,}{flops:14.3g}"
            + "".join(f"{g:>14}" for g in gib)
        )
        if args.gib:
            check_fits(study, size, platform, args.gib, assigned or one.total, count, _pool(platform))
    for size, one in found.items():
        each, disk = one.checkpoint / 1e9, one.checkpoint * one.kept / 1e9
        print(f"{size:10}a checkpoint is {each:.3g} GB, a run keeps {one.kept}: {disk:.3g} GB of disk")
    _grid(args, study, count)


def _devices(args: argparse.Namespace) -> Sequence[jax.Device] | None:
    """The devices to compile for; None, nothing is compiled."""
    if not args.topology:
        return jax.devices() if args.compile else None
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(args.topology, "tpu").devices
    except Exception as error:  # libtpu is not there, or knows no such slice
        raise UserError(
            f"--topology={args.topology}: {str(error).splitlines()[0]}. It needs libtpu (jax[tpu], which works "
            "without TPUs) and a slice such as v5e:8x8 or v5p:4x4x4"
        ) from None


def _pool(platform: str) -> float:
    """The share of a device's memory that JAX takes."""
    given = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", jobs.GPU_POOL)
    return float(given) if platform == "cuda" else 1.0


def _grid(args: argparse.Namespace, study: Study, devices: int) -> None:
    runs = grid.plan(study, vocabulary_ids(study), dict.fromkeys(study.names, ""))
    rate = devices * args.tflops * 1e12 * args.mfu
    for size in dict.fromkeys(study.grid_sizes().values()):
        mine = [run for run in runs if run.size == size]
        flops, tokens = sum(run.flops() for run in mine), sum(run.tokens - run.first_token for run in mine)
        print(f"{size:10}{len(mine)} runs, {tokens:,} tokens, {flops:.3g} FLOPs, {flops / rate / 3600:.1f} hours")
    flops = sum(run.flops() for run in runs)
    hours = flops / rate / 3600
    print(f"{len(runs)} runs, {flops:.3g} FLOPs: {hours:.1f} hours on {devices}, {hours * devices:.0f} device-hours")
