"""Model FLOPs utilisation of the training step on an accelerator, and where the rest of its time goes.

    python -m benchmarks.mfu                            135M, 1B and an eight-layer slice of 8B, bfloat16
    python -m benchmarks.mfu --sizes 1B --remat dots --rows 16 --profile trace
    python -m benchmarks.mfu --sizes tiny               a dry run for a CPU, which has no peak to be held to

Needs JAX, Flax and Optax, and no TensorFlow. All devices there are share the batch (axis fsdp). The clock runs over
--steps steps that are dispatched one after the other, as in the loop; FLOPs are the model's own (recomputation is not
counted), the peak is the vendor's for dense bfloat16. --profile traces three more steps and sums the device's time by
operation.
"""

import argparse
import collections
import dataclasses
import re
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.train_step import OPTIMIZER, batch
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.training import step
from cptlaw.training.metrics import peak_flops

# name -> (model, rows a device, sequence). Vocabularies, widths and heads are SmolLM2's, Llama 3.2 1B's and Llama 3.1
# 8B's; of the last a quarter of the layers, which with Adam's moments fit one device of 80 GB (34 GB of state).
SIZES = {
    "tiny": (transformer.Config(512, d_model=64, layers=2, heads=2, kv_heads=1, d_ff=192), 4, 128),
    "135M": (transformer.Config(49_152, d_model=576, layers=30, heads=9, kv_heads=3, d_ff=1536), 32, 2048),
    "1B": (transformer.Config(128_256, d_model=2048, layers=16, heads=32, kv_heads=8, d_ff=8192), 8, 2048),
    "8B": (
        transformer.Config(128_256, d_model=4096, layers=8, heads=32, kv_heads=8, d_ff=14_336, tie_embeddings=False),
        4,
        2048,
    ),
}


def measure(name: str, args: argparse.Namespace) -> None:
    cfg, rows, seq = SIZES[name]
    cfg = dataclasses.replace(cfg, dtype=args.dtype, remat=args.remat, scan_layers=args.scan, attention=args.attention)
    layout = Layout(make_mesh(data=1, fsdp=-1))
    rows = (args.rows or rows) * layout.mesh.size
    seq = args.seq or seq
    tokens_BT = np.random.default_rng(0).integers(0, cfg.vocab_size, (rows, seq), np.int32)
    data = layout.put(batch(tokens_BT), rows)
    _, abstract = step.make_start(cfg, OPTIMIZER, layout)
    begin = time.perf_counter()
    update = step.make_step(cfg, OPTIMIZER, layout).lower(abstract, data, 1e-3).compile()
    compiling = time.perf_counter() - begin
    needs = update.memory_analysis()
    # Made in place: starting from parameters would hold a second copy of them.
    state = jax.jit(
        lambda: step.new_state(transformer.init(jax.random.key(0), cfg), OPTIMIZER),
        out_shardings=jax.tree.map(lambda x: x.sharding, abstract),
    )()
    for _ in range(3):
        state, sums = update(state, data, 1e-3)
    jax.block_until_ready(state)
    begin = time.perf_counter()
    for _ in range(args.steps):
        state, sums = update(state, data, 1e-3)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - begin) / args.steps
    device = jax.devices()[0]
    flops = transformer.flops_per_token(cfg, seq)["training"] * rows * seq
    peak = peak_flops(device.device_kind)
    mfu = "unknown peak" if peak is None else f"MFU {flops / seconds / (peak * jax.device_count()):.1%}"
    used = (device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    size = transformer.count_params(cfg)["total"] / 1e6
    gib = needs.argument_size_in_bytes / 2**30, needs.temp_size_in_bytes / 2**30, used
    print(
        f"\n{name}: {size:,.1f}M parameters, {rows} x {seq} tokens, {cfg.dtype}, remat {cfg.remat}, "
        f"loss {float(sums.nats / sums.tokens):.3f}\n"
        f"  {mfu}   {rows * seq / seconds:,.0f} tokens/s   {seconds:.3f} s a step   "
        f"{flops / seconds / 1e12:.1f} TFLOP/s\n"
        "  state {:.2f} GiB, temporary {:.2f} GiB, peak in use {:.2f} GiB; ".format(*gib)
        + f"compiled in {compiling:.0f} s",
        flush=True,
    )
    if args.profile:
        folder = Path(args.profile) / name
        with jax.profiler.trace(str(folder)):
            for _ in range(3):
                state, sums = update(state, data, 1e-3)
            jax.block_until_ready(state)
        by_operation(folder)


def by_operation(folder: Path, most: int = 15) -> None:
    """Prints what share of the device's busy time each kind of operation takes (`fusion.12` counts as `fusion`)."""
    (newest,) = sorted(folder.glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime)[-1:]
    planes = list(jax.profiler.ProfileData.from_file(str(newest)).planes)
    planes = [p for p in planes if p.name.startswith("/device:")] or [p for p in planes if p.name == "/host:CPU"]
    total: collections.Counter[str] = collections.Counter()
    for line in (line for plane in planes for line in plane.lines):
        # Modules, steps and name scopes hold operations, which would count twice.
        if line.name in ("XLA Modules", "Steps", "Framework Name Scope", "Framework Ops", "Source code"):
            continue
        for event in line.events:
            if not re.match(r"\$|Thunk|end:|\w+::", event.name):
                total[re.sub(r"[.\d]+$", "", event.name)] += event.duration_ns / 1e6
    whole = sum(total.values())
    print(f"  {folder}: {whole / 3:,.1f} ms of operations a step")
    for name, milliseconds in total.most_common(most):
        print(f"    {milliseconds / whole:6.1%}  {milliseconds / 3:9.2f} ms  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["135M", "1B", "8B"])
    parser.add_argument("--rows", type=int, default=0, help="rows a device; 0: the size's own")
    parser.add_argument("--seq", type=int, default=0, help="tokens a row; 0: the size's own")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--remat", choices=tuple(transformer.REMAT), default="dots")
    parser.add_argument("--attention", choices=("auto", "xla", "cudnn", "triton", "splash"), default="auto")
    parser.add_argument(
        "--scan", action=argparse.BooleanOptionalAction, default=True, help="one compiled layer for all"
    )
    parser.add_argument("--profile", metavar="DIR", help="trace three steps into it")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}")
    for name in args.sizes:
        measure(name, args)


if __name__ == "__main__":
    main()
