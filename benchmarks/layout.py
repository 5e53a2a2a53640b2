"""Memory and collectives of a training step on TPU slices that are elsewhere: estimate, compiler, program.

    PYTHON -m benchmarks.layout                    PYTHON has jax[tpu], see CONTRIBUTING.md; a few minutes a row
    PYTHON -m benchmarks.layout 8B --collectives   and what one program moves
    python -m benchmarks.layout --cpu              the same on eight forced CPU devices, with a model of their size

Nothing is allocated or run. benchmarks/layout.md has what was found.
"""

import argparse
import collections
import dataclasses
import math
import re
from typing import Any

import jax

from cptlaw.execution.run import Phase, Run
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.studies.footprint import compile_step, estimate

_SCANNED = {"dtype": "bfloat16", "remat": "full", "scan_layers": True}
LLAMA_8B = {
    **{"vocab_size": 128_256, "d_model": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "d_ff": 14_336},
    **{"tie_embeddings": False, **_SCANNED},
}
LLAMA_1B = {
    **{"vocab_size": 128_256, "d_model": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "d_ff": 8192},
    **_SCANNED,
}
SMOLLM_135M = {
    **{"vocab_size": 49_152, "d_model": 576, "layers": 30, "heads": 9, "kv_heads": 3, "d_ff": 1536},
    **_SCANNED,
}
SMALL = {
    **{"vocab_size": 8192, "d_model": 128, "layers": 4, "heads": 4, "kv_heads": 4, "d_ff": 384},
    **{"remat": "full", "scan_layers": True},
}


@dataclasses.dataclass(frozen=True)
class Point:
    """A training step: rows x seq_len tokens of a model on a mesh (data, fsdp, tensor) over a slice."""

    model: dict[str, Any]
    rows: int
    seq_len: int
    slice: str
    mesh: tuple[int, int, int]
    microbatches: int = 1

    def run(self) -> Run:
        none: dict[str, Any] = {"shares": {}, "evals": (), "eval_tokens": (), "optimizer": {}, "mesh": {}, "data": {}}
        return Run(
            id="",
            size="",
            model=self.model,
            init=None,
            phase=Phase(tokens=1, peak_lr=1e-3, warmup_tokens=0),
            seed=0,
            seq_len=self.seq_len,
            batch_size=self.rows,
            eval_batch_size=self.rows,
            eval_max_tokens=None,
            microbatches=self.microbatches,
            **none,
        )


POINTS = {
    "8B": Point(LLAMA_8B, 64, 2048, "v5e:8x8", (1, 64, 1)),
    "8B, float32 sums": Point({**LLAMA_8B, "gradient_dtype": "float32"}, 64, 2048, "v5e:8x8", (1, 64, 1)),
    "8B, 2 parts": Point(LLAMA_8B, 128, 4096, "v5e:8x8", (1, 64, 1), 2),
    "1B": Point(LLAMA_1B, 16, 2048, "v5e:2x4", (1, 8, 1)),
    "1B, tensor": Point(LLAMA_1B, 16, 2048, "v5e:2x4", (1, 4, 2)),
    "1B, attention": Point({**LLAMA_1B, "remat": "attention"}, 16, 2048, "v5e:2x4", (1, 8, 1)),
    "135M": Point(SMOLLM_135M, 16, 2048, "v5e:2x2", (4, 1, 1)),
}
CPU_POINTS = {
    "1B": Point({**LLAMA_1B, "dtype": "float32"}, 16, 2048, "", (1, 8, 1)),
    "fsdp": Point(SMALL, 32, 256, "", (1, 8, 1)),
    "data": Point(SMALL, 32, 256, "", (8, 1, 1)),
    "mixed": Point(SMALL, 32, 256, "", (2, 2, 2)),
    "fsdp, remat none": Point({**SMALL, "remat": "none"}, 32, 256, "", (1, 8, 1)),
    "fsdp, remat dots": Point({**SMALL, "remat": "dots"}, 32, 256, "", (1, 8, 1)),
    "fsdp, remat attention": Point({**SMALL, "remat": "attention"}, 32, 256, "", (1, 8, 1)),
    "fsdp, 4 parts": Point(SMALL, 32, 256, "", (1, 8, 1), 4),
    "data, not scanned": Point({**SMALL, "scan_layers": False}, 32, 256, "", (8, 1, 1)),
}


def devices(slice_: str) -> list[jax.Device]:
    """The devices of a TPU slice; those that are here for no slice."""
    if not slice_:
        return jax.devices()
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(slice_, "tpu").devices)


def collectives(text: str) -> collections.Counter[tuple[str, str]]:
    """(operation, type and shape of its result) -> how many a program has, those of a tuple one by one.

    Of a loop over layers, the program has one layer. A sum over groups of one device moves nothing and is left out.
    """
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    operations = "all-gather|all-reduce|all-to-all|reduce-scatter"
    for match in re.finditer(rf"= (\(.*?\)|\S+) ({operations})(?:-start)?\((.*)", text):
        if re.search(r"replica_groups=\{(\{\d+\},?)+\}", match[3]):
            continue
        for shape in re.findall(r"\w+\[[\d,]*\]", match[1]):
            found[match[2], shape] += 1
    return found


def size(shape: str) -> int:
    """Bytes of an array written as bf16[2,3]."""
    kind, dimensions = shape.rstrip("]").split("[")
    bits = 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])
    return math.prod(int(n) for n in dimensions.split(",") if n) * bits // 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="*", help=f"of {', '.join(POINTS)}; none: all")
    parser.add_argument("--cpu", action="store_true", help="on eight forced CPU devices")
    parser.add_argument("--collectives", action="store_true", help="what a program moves, 1 MB and more")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # topologies need no TPU, and no process may wait for one
    if args.cpu:
        jax.config.update("jax_num_cpu_devices", 8)
    points = CPU_POINTS if args.cpu else POINTS
    print(f"{'':24} {'parameters':>14} {'estimate':>10} {'compiler':>10} {'ratio':>6}   (MiB a device)")
    for name in args.points or points:
        point = points[name]
        layout = Layout(make_mesh(*point.mesh, devices=devices(point.slice)))
        found = estimate(point.run(), layout, "cpu" if args.cpu else "tpu").total
        assigned, text = compile_step(point.run(), layout)
        count = transformer.count_params(point.run().config)["total"]
        print(
            f"{name:24} {count:14,} {found / 2**20:10,.1f} {assigned / 2**20:10,.1f} {found / assigned:6.2f}",
            flush=True,
        )
        if args.collectives:
            for (operation, shape), n in sorted(collectives(text).items(), key=lambda item: -size(item[0][1])):
                if size(shape) >= 1e6:
                    print(f"    {n:3} {operation:14} {shape:28} {size(shape) / 1e6:9.1f} MB")


if __name__ == "__main__":
    main()
