"""Tokens/s of our training step beside that of `transformers` + torch: the same weights, batch, precision and machine.

    python -m benchmarks.train_step --peer-python PYTHON      PYTHON has torch and transformers
    python -m benchmarks.train_step --memory                  compile time and memory by rematerialisation policy

Both sides start from the same weights and must find the same loss; then they take turns, one step at a time, and the
other waits. Compare the ratios, of the fastest turns and of processor time, which a busy machine changes less. The last
column holds the model's FLOPs against those of XLA's product of two matrices of 2,048 x 2,048, of the same precision, in
the same processor time.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw.models import hf, transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.training import step

# Llama's shape: name -> (model, rows, sequence). 135M is SmolLM2-135M.
SIZES = {
    "10M": (transformer.Config(8192, d_model=320, layers=8, heads=5, kv_heads=5, d_ff=864), 8, 256),
    "135M": (transformer.Config(49152, d_model=576, layers=30, heads=9, kv_heads=3, d_ff=1536), 2, 256),
}
OPTIMIZER = step.Optimizer()
Turn = Callable[[], dict[str, float]]


def batch(tokens_BT: np.ndarray) -> dict[str, np.ndarray]:
    """Whole rows as single documents, so that no side has work that the other has not."""
    rows, seq = tokens_BT.shape
    mask_BT = np.ones((rows, seq), np.float32)
    mask_BT[:, -1] = 0
    return {
        "tokens_BT": tokens_BT,
        "targets_BT": np.roll(tokens_BT, -1, axis=1),
        "segments_BT": np.ones((rows, seq), np.int32),
        "positions_BT": np.tile(np.arange(seq, dtype=np.int32), (rows, 1)),
        "mask_BT": mask_BT,
    }


def ours(cfg: transformer.Config, layout: Layout, params: transformer.Params, tokens_BT: np.ndarray) -> Turn:
    rows, seq = tokens_BT.shape
    state = step.make_start(cfg, OPTIMIZER, layout)[0](params)
    update = step.make_step(cfg, OPTIMIZER, layout, step.default_microbatches(cfg, layout, rows, seq))
    data = layout.put(batch(tokens_BT), rows)

    def turn() -> dict[str, float]:
        nonlocal state
        wall, used = time.perf_counter(), time.process_time()
        state, sums = update(state, data, 1e-3)
        loss = float(sums.nats / sums.tokens)
        jax.block_until_ready(state)
        return {"loss": loss, "wall": time.perf_counter() - wall, "cpu": time.process_time() - used}

    return turn


def peak(dtype: str, side: int = 2048, turns: int = 5) -> float:
    """FLOPs of a matrix product in a second of processor time: the best of some."""
    a = jnp.ones((side, side), dtype)
    product = jax.jit(jnp.matmul).lower(a, a).compile()
    product(a, a).block_until_ready()
    found = []
    for _ in range(turns):
        begin = time.process_time()
        product(a, a).block_until_ready()
        found.append(time.process_time() - begin)
    return 2 * side**3 / min(found)


@contextlib.contextmanager
def theirs(python: str, folder: Path, tokens: Path, dtype: str) -> Iterator[tuple[Turn, str]]:
    """Turns of the other side, and its versions."""
    script = Path(__file__).with_name("train_step_torch.py")
    environment = {**os.environ, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "HF_HUB_OFFLINE": "1"}
    environment["OMP_WAIT_POLICY"] = "PASSIVE"  # else its threads spin while they wait, and that would count
    command = [python, str(script), str(folder), str(tokens), dtype]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdin is not None and process.stdout is not None

        def turn() -> dict[str, float]:
            process.stdin.write("\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield turn, json.loads(process.stdout.readline())["versions"]
        process.stdin.close()


def compare(size: str, python: str, turns: int, dtype: str) -> None:
    cfg, rows, seq = SIZES[size]
    cfg = dataclasses.replace(cfg, dtype=dtype)
    layout = Layout(make_mesh())
    params = step.make_init(cfg, layout)(0)
    tokens_BT = np.random.default_rng(0).integers(0, cfg.vocab_size, (rows, seq), np.int32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hf.save(folder / "model", cfg, params)
        np.save(folder / "tokens.npy", tokens_BT)
        mine = ours(cfg, layout, params, tokens_BT)
        with theirs(python, folder / "model", folder / "tokens.npy", dtype) as (peer, versions):
            first, second = mine(), peer()
            if abs(first["loss"] - second["loss"]) > (1e-3 if dtype == "float32" else 3e-2):
                raise SystemExit(f"{size}: not the same model: loss {first['loss']} here and {second['loss']} there")
            rate = peak(dtype)
            seen = [(mine(), peer()) for _ in range(turns)]
            rate = max(rate, peak(dtype))
    print(
        f"\n{size}: {transformer.count_params(cfg)['total']:,} parameters, {rows} x {seq} tokens, {dtype}; {versions}"
    )
    print(f"{'':10} {'tokens/s':>9} {'cpu s/step':>11} {'of peak':>8}")
    fastest = [min(turn[side]["wall"] for turn in seen) for side in (0, 1)]
    used = [statistics.median(turn[side]["cpu"] for turn in seen) for side in (0, 1)]
    flops = transformer.flops_per_token(cfg, seq)["training"] * rows * seq
    for side, title in enumerate(("ours", "torch")):
        print(f"{title:10} {rows * seq / fastest[side]:9,.0f} {used[side]:11.2f} {flops / used[side] / rate:8.0%}")
    print(f"{'ratio':10} {fastest[1] / fastest[0]:9.2f} {used[1] / used[0]:11.2f}")


def memory(size: str, dtype: str) -> None:
    """What the compiler says; nothing is allocated or run."""
    cfg, rows, seq = SIZES[size]
    layout = Layout(make_mesh())
    print(f"\n{size}, {rows} x {seq} tokens as one part, {dtype}: state and temporary memory in MiB, compile seconds")
    print(f"{'remat':8} {'scan':6} {'state':>8} {'temporary':>10} {'compile':>8}")
    shape = jax.ShapeDtypeStruct
    data = {
        name: shape(array.shape, array.dtype, sharding=layout.batch)
        for name, array in batch(np.zeros((rows, seq), np.int32)).items()
    }
    for scan in (False, True):
        for remat in transformer.REMAT:
            varied = dataclasses.replace(cfg, remat=remat, scan_layers=scan, dtype=dtype)
            _, abstract = step.make_start(varied, OPTIMIZER, layout)
            lowered = step.make_step(varied, OPTIMIZER, layout).lower(abstract, data, 1e-3)
            begin = time.perf_counter()
            found = lowered.compile().memory_analysis()
            took = time.perf_counter() - begin
            state, temporary = found.argument_size_in_bytes / 2**20, found.temp_size_in_bytes / 2**20
            print(f"{remat:8} {scan!s:6} {state:8,.0f} {temporary:10,.0f} {took:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--peer-python", help="a Python with torch and transformers")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    print(
        f"jax {jax.__version__}, {jax.device_count()} {jax.devices()[0].device_kind}, "
        f"{len(os.sched_getaffinity(0))} cores, load {load:.1f} at the start"
    )
    for size in args.sizes:
        if args.memory:
            memory(size, args.dtype)
        if args.peer_python:
            compare(size, args.peer_python, args.turns, args.dtype)


if __name__ == "__main__":
    main()
