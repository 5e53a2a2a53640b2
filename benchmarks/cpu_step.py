"""Tokens/s of small models on a CPU: what the choices in models/ and training/ are worth, side by side.

    taskset -c 0 python benchmarks/cpu_step.py            # one core, one run: what a worker of a sweep gets
    python benchmarks/cpu_step.py --sizes 0.2M --seconds 30

All variants of a size are compiled first and then take turns, so that a busy machine slows all of them; each is
given by its fastest turn. Compare the ratios; absolute figures hold for a quiet machine only. `cpu` is the processor
time of the median turn, which a busy machine changes less than the clock.
"""

import argparse
import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from cptlaw.models import attention, transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.scoring import evaluate
from cptlaw.training import feed, step, together

VOCAB, SEQ, ROWS, RUNS = 1024, 128, 16, 4
SIZES = {
    "0.05M": transformer.Config(VOCAB, d_model=48, layers=2, heads=2, kv_heads=1, d_ff=128),
    "0.2M": transformer.Config(VOCAB, d_model=64, layers=4, heads=2, kv_heads=1, d_ff=192),
    "0.8M": transformer.Config(VOCAB, d_model=128, layers=4, heads=4, kv_heads=2, d_ff=384),
}
PARTS = step.default_microbatches(SIZES["0.8M"], Layout(make_mesh()), ROWS, SEQ)  # the same for all of them


def plain_attention(q_BKGTC, k_BKSC, v_BKSC, bias_BTS, *_):
    """The same attention left to autodiff."""
    scores_BKGTS = jnp.einsum("bkgtc,bksc->bkgts", q_BKGTC, k_BKSC) * q_BKGTC.shape[-1] ** -0.5
    p_BKGTS = jax.nn.softmax(scores_BKGTS + bias_BTS[:, None, None])
    return jnp.einsum("bkgts,bksc->bkgtc", p_BKGTS, v_BKSC)


def plain_contract_rows(a, b):
    return jnp.einsum("...nm,...nk->...mk", a, b)


def unflattened_linear(x, weight, bias, inputs=1):
    """The same layer without taking the rows and positions of a batch for one dimension."""
    assert bias is None
    w = weight[...].astype(x.dtype)
    return jnp.tensordot(x, w, axes=inputs)


@contextlib.contextmanager
def replaced(names: tuple[str, ...]) -> Iterator[None]:
    """Puts the plain version of each named piece in its place while a step is traced."""
    with contextlib.ExitStack() as stack:
        if "attention" in names:
            stack.enter_context(mock.patch.object(attention, "attention", plain_attention))
        if "contract_rows" in names:
            stack.enter_context(mock.patch.object(attention, "contract_rows", plain_contract_rows))
        if "linear" in names:
            stack.enter_context(mock.patch.object(transformer, "_linear", unflattened_linear))
        yield


def batch(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "tokens_BT": rng.integers(0, VOCAB, (rows, SEQ), np.int32),
        "targets_BT": rng.integers(0, VOCAB, (rows, SEQ), np.int32),
        "segments_BT": np.sort(rng.integers(1, 4, (rows, SEQ), np.int32), axis=1),
        "positions_BT": np.tile(np.arange(SEQ, dtype=np.int32), (rows, 1)),
        "mask_BT": np.ones((rows, SEQ), np.float32),
    }


def trainer(cfg: transformer.Config, rows: int, microbatches: int, without: tuple[str, ...] = ()) -> Callable[[], None]:
    """A function that makes one compiled training step and waits for it."""
    layout, optimizer = Layout(make_mesh()), step.Optimizer()
    state = step.make_start(cfg, optimizer, layout)[0](step.make_init(cfg, layout)(0))
    update = step.make_step.__wrapped__(cfg, optimizer, layout, microbatches)
    data = layout.put(batch(rows), rows)
    with replaced(without):
        update = update.lower(state, data, 1e-3).compile()

    def turn() -> None:
        nonlocal state
        state, sums = update(state, data, 1e-3)
        sums.nats.block_until_ready()

    return turn


def together_trainer(cfg: transformer.Config, runs: int) -> Callable[[], None]:
    """The same for `runs` models in one program."""
    mesh = together.make_mesh(runs)
    optimizer, seeds = step.Optimizer(), np.arange(runs)
    one = Layout(make_mesh(devices=jax.devices()[:1]))
    start = step.make_start(cfg, optimizer, one)[0]
    state = jax.vmap(lambda seed: start(step.make_init(cfg, one)(seed)))(seeds)
    data = {name: np.stack([array] * runs)[None] for name, array in batch(ROWS).items()}
    block, span = (data, np.full((1, runs), 1e-3, np.float32)), np.array([0, 1], np.int32)
    update = together.make_steps(cfg, optimizer, mesh, feed.Made(), PARTS)

    def turn() -> None:
        nonlocal state
        state, sums = update(state, (), block, span)
        sums.nats.block_until_ready()

    return turn


def scorer(cfg: transformer.Config, rows: int) -> Callable[[], None]:
    layout = Layout(make_mesh())
    params = step.make_init(cfg, layout)(0)
    nll = evaluate.make_token_nll(cfg, layout)
    data = {name: array for name, array in layout.put(batch(rows), rows).items() if name != "mask_BT"}
    return lambda: nll(params, data).block_until_ready()


def variants(cfg: transformer.Config) -> dict[str, Callable[[], Callable[[], None]]]:
    """Name -> what compiles it. Each but the baseline differs from the recommended step in what its name says."""
    return {
        "baseline: autodiff, whole batch": lambda: trainer(cfg, ROWS, 1, ("attention",)),
        "recommended": lambda: trainer(cfg, ROWS, PARTS),
        **{f"{m} microbatches": lambda m=m: trainer(cfg, ROWS, m) for m in (1, 2, 4, 8, 16)},
        "autodiff of attention": lambda: trainer(cfg, ROWS, PARTS, ("attention",)),
        "attention's matmuls in XLA's order": lambda: trainer(cfg, ROWS, PARTS, ("contract_rows",)),
        "linear layers by row and position": lambda: trainer(cfg, ROWS, PARTS, ("linear",)),
        "scan over layers": lambda: trainer(dataclasses.replace(cfg, scan_layers=True), ROWS, PARTS),
        f"recommended, {RUNS} runs together": lambda: together_trainer(cfg, RUNS),
        **{f"evaluation, {rows} rows": lambda rows=rows: scorer(cfg, rows) for rows in (4, 8, 32)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--seconds", type=float, default=20.0, help="time for the turns of one size")
    parser.add_argument("--only", default="", help="only variants with this in their name, and the baseline")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {len(os.sched_getaffinity(0))} core(s), {jax.device_count()} device(s)")
    for size in args.sizes:
        cfg = SIZES[size]
        turns, compile_seconds = {}, {}
        for name, make in variants(cfg).items():
            if args.only in name or name.startswith("baseline"):
                begin = time.perf_counter()
                turns[name] = make()
                turns[name]()
                compile_seconds[name] = time.perf_counter() - begin
        clock: dict[str, list[float]] = {name: [] for name in turns}
        cpu: dict[str, list[float]] = {name: [] for name in turns}
        begin = time.perf_counter()
        while time.perf_counter() - begin < args.seconds or len(clock["baseline: autodiff, whole batch"]) < 5:
            for name, turn in turns.items():
                wall, used = time.perf_counter(), time.process_time()
                turn()
                clock[name].append(time.perf_counter() - wall)
                cpu[name].append(time.process_time() - used)
        counts = transformer.count_params(cfg)
        print(f"\n{size}: {counts['non_embedding']:,} non-embedding parameters, vocabulary {VOCAB}, sequence {SEQ}")
        print(f"{'':34} {'tokens/s':>9} {'x baseline':>10} {'cpu':>8} {'x':>6} {'GFLOP/s':>8} {'compile s':>9}")
        for name in turns:
            rows = int(name.split()[1]) if name.startswith("evaluation") else ROWS
            rows *= RUNS if name.endswith("together") else 1
            kind = "forward" if name.startswith("evaluation") else "training"
            rate = rows * SEQ / min(clock[name])
            base = ROWS * SEQ / min(clock["baseline: autodiff, whole batch"])
            used = rows * SEQ / statistics.median(cpu[name])
            base_used = ROWS * SEQ / statistics.median(cpu["baseline: autodiff, whole batch"])
            flops = transformer.flops_per_token(cfg, SEQ)[kind] * rate / 1e9
            print(
                f"{name:34} {rate:9,.0f} {rate / base:10.2f} {used:8,.0f} {used / base_used:6.2f} {flops:8.1f} "
                f"{compile_seconds[name]:9.1f}"
            )


if __name__ == "__main__":
    main()
