"""Runs trained together against runs alone: host time of a step, and how fast a grid is trained.

    python -m benchmarks.together --host              # host time of a step of 64 tiny runs, two ways of feeding them
    python -m benchmarks.together --cpu               # one core: runs in one program against one after the other
    python -m benchmarks.together --sweep             # the same by whole sweeps, on all cores
    python -m benchmarks.together --grid              # eight forced devices: a grid's runs over them, and all in one
    python -m benchmarks.together --device            # an accelerator: 8, 32 and 128 runs in one program against one

All ways of a comparison are compiled first and then take turns, so that a busy machine slows all of them. Ratios are of
medians, of processor time where it says so. What it printed is in benchmarks/together.md.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if "--grid" in os.sys.argv:  # before JAX starts
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
if "--device" not in os.sys.argv:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from cptlaw.data.batches import TrainBatches
from cptlaw.data.store import TokenStore, Writer
from cptlaw.execution import sweep
from cptlaw.execution.run import Run
from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.schedules import Schedule
from cptlaw.studies import config
from cptlaw.studies import grid as grid_lib
from cptlaw.training import feed, loop, step, together

VOCAB, SEQ, ROWS = 1024, 128, 16
SIZES = {  # as of configs/demo.py, and one that takes no time
    "1k": transformer.Config(VOCAB, d_model=8, layers=1, heads=1, kv_heads=1, d_ff=16),
    "27k": transformer.Config(VOCAB, d_model=32, layers=2, heads=2, kv_heads=1, d_ff=96),
    "104k": transformer.Config(VOCAB, d_model=64, layers=2, heads=2, kv_heads=1, d_ff=192),
    "323k": transformer.Config(VOCAB, d_model=96, layers=3, heads=3, kv_heads=1, d_ff=288),
    "1.9m": transformer.Config(VOCAB, d_model=192, layers=4, heads=3, kv_heads=1, d_ff=576),
}
ONE = Layout(make_mesh(devices=jax.devices()[:1]))
ADAMW = step.Optimizer()


def store(name: str, seed: int, documents: int = 4000) -> TokenStore:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 600, documents)
    tokens = rng.integers(2, VOCAB, lengths.sum()).astype("<u2")
    offsets = np.concatenate([[0], lengths.cumsum()])
    return TokenStore(tokens, offsets, 4 * lengths, {"name": name, "split": "train"})


STORES = {"code": store("code", 0), "prose": store("prose", 1)}


def members(cfg: transformer.Config, runs: int, rows: int = ROWS, steps: int = 10**5) -> list[loop.Member]:
    from cptlaw.training.start import first_state

    return [
        loop.Member(
            Schedule(1e-3, steps, warmup=2),
            TrainBatches(STORES, {"code": share, "prose": 1 - share}, SEQ, rows, seed=seed),
            lambda seed=seed: first_state(cfg, ADAMW, ONE, seed=seed),
        )
        for seed, share in enumerate(np.linspace(0, 1, runs))
    ]


class Program:
    """A program that makes `count` steps in a call of `turn`, all runs together."""

    def __init__(self, program: loop.Program, count: int):
        self.program, self.count = program, count
        self.at, self.state = program.start()
        self.host: list[float] = []

    def turn(self) -> None:
        until = self.at + self.count
        while self.at < until:
            begin = time.perf_counter()
            self.at, self.state, sums = self.program.advance(self.at, until, self.state)
            self.host.append(time.perf_counter() - begin)
        jax.block_until_ready((self.state, sums))


def alone(cfg: transformer.Config, runs: int, count: int) -> Callable[[], None]:
    programs = [Program(loop._Alone(cfg, member, ADAMW, ONE, None), count) for member in members(cfg, runs)]

    def turn() -> None:
        for program in programs:
            program.turn()

    return turn


def stacked(cfg: transformer.Config, runs: int, rows: int = ROWS, whole: bool = False) -> loop.Program:
    limit, feed._CPU_BYTES = feed._CPU_BYTES, 0 if whole else feed._CPU_BYTES
    try:
        return together._Stacked(cfg, members(cfg, runs, rows), ADAMW, ONE, None)
    finally:
        feed._CPU_BYTES = limit


def take_turns(turns: dict[str, Callable[[], None]], seconds: float) -> dict[str, tuple[float, float]]:
    """Median seconds of wall clock and of processor time of each, after one to compile."""
    wall: dict[str, list[float]] = {name: [] for name in turns}
    cpu: dict[str, list[float]] = {name: [] for name in turns}
    for turn in turns.values():
        turn()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(wall[next(iter(turns))]) < 3:
        for name, turn in turns.items():
            at, used = time.perf_counter(), time.process_time()
            turn()
            wall[name].append(time.perf_counter() - at)
            cpu[name].append(time.process_time() - used)
    return {name: (statistics.median(wall[name]), statistics.median(cpu[name])) for name in turns}


def host(seconds: float) -> None:
    """Python's time of a step: making or finding batches, placing them, and calling the program, which runs apart."""
    runs, count = 64, 320
    ways = {
        "fed whole batches, a step a call": Program(stacked(SIZES["1k"], runs, 16, whole=True), 8),
        "windows of streams on the device": Program(stacked(SIZES["1k"], runs, 16), count),
    }
    used = {}
    for name, way in ways.items():
        parts: list[float] = []
        program = way.program
        fetch = program.feed.of
        program.update = lambda state, *_: (state, None)  # what the device does is not the host's
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds / 2 or len(parts) < 3:
            at = time.process_time()
            first = way.at
            while way.at < first + way.count:
                # As in training: no call goes beyond a step that is logged, one in ten.
                until = min((way.at // 10 + 1) * 10, first + way.count)
                way.at, _, _ = program.advance(way.at, until, way.state)
            parts.append((time.process_time() - at) / way.count)
            way.at %= 50_000
        used[name] = statistics.median(parts)
        del fetch
    first = next(iter(used.values()))
    print(f"host, processor time of a step of {runs} runs of {ROWS} x {SEQ} tokens")
    for name, value in used.items():
        print(f"  {name:36} {value * 1e3:8.2f} ms  {first / value:6.1f}x")


def cpu(seconds: float) -> None:
    runs, count = 8, 20
    print(f"{runs} runs on {len(os.sched_getaffinity(0))} core(s), {count} steps each; ratios to one run after another")
    for size in ("27k", "104k", "323k"):
        cfg = SIZES[size]
        turns = {
            "one after another": alone(cfg, runs, count),
            "together, whole batches": Program(stacked(cfg, runs, whole=True), count).turn,
            "together, windows": Program(stacked(cfg, runs), count).turn,
        }
        found = take_turns(turns, seconds)
        wall, used = found["one after another"]
        for name, (a, b) in found.items():
            print(f"  {size:5} {name:26} wall {wall / a:5.2f}x   processor {used / b:5.2f}x   {a:.2f} s")


def grid(seconds: float) -> None:
    devices, count = jax.device_count(), 10
    cfg = SIZES["27k"]
    print(f"{devices} forced devices, {len(os.sched_getaffinity(0))} core(s): devices busy, steps of runs a second")
    for runs in (8, 11, 13, 22):
        program = stacked(cfg, runs)
        before = max(n for n in range(1, devices + 1) if runs % n == 0)
        ((wall, _),) = take_turns({"": Program(program, count).turn}, seconds).values()
        used, each = program.mesh.size, -(-runs // program.mesh.size)
        print(
            f"  {runs:3} runs: {used} devices with {each} each (the largest divisor: {before} with {runs // before}, "
            f"{runs // before / each:.1f}x as long), {runs * count / wall:.1f} steps/s"
        )


def device(seconds: float) -> None:
    """Steps of runs a second on one device, and how many times those of one run alone."""
    count = 64
    print(f"{jax.devices()[0].device_kind}, steps of {ROWS} x {SEQ} tokens")
    for size in ("27k", "323k", "1.9m"):
        cfg = SIZES[size]
        turns = {1: alone(cfg, 1, count)} | {runs: Program(stacked(cfg, runs), count).turn for runs in (8, 32, 128)}
        found = take_turns({str(runs): turn for runs, turn in turns.items()}, seconds)
        first = count / found["1"][0]
        for runs, (wall, _) in found.items():
            rate = int(runs) * count / wall
            print(f"  {size:5} {runs:>3} runs: {rate:12,.0f} steps/s   {rate / first:7.1f}x", flush=True)


def study(workdir: Path, mixes: int, steps: int) -> tuple[Run, list[Run]]:
    """A base model of 27k parameters and runs from it, their stores written."""
    for name, of in STORES.items():
        for split, documents in (("train", len(of.doc_bytes)), ("validation", 40)):
            with Writer(workdir / "data" / name / split, VOCAB) as writer:
                for first, end in zip(of.offsets[:documents], of.offsets[1:]):
                    writer.add(of.tokens[first:end], text_bytes=4)
                writer.finish(name, split, {})
    phase = {"peak_lr": 1e-3, "warmup_tokens": 0}
    settings = config.parse(
        {
            "name": "together", "corpora": {"prose": "-", "code": "-"}, "general": "prose", "domains": ("code",),
            "model": {"d_model": 32, "layers": 2, "heads": 2, "kv_heads": 1, "d_ff": 96}, "sizes": {"27k": {}},
            "base": {"tokens": SEQ * ROWS, **phase}, "cpt": {"tokens": steps * SEQ * ROWS, **phase},
            "eval_tokens": (steps // 2 * SEQ * ROWS, steps * SEQ * ROWS), "seq_len": SEQ, "batch_size": ROWS,
            "grid": {"27k": {"domain_shares": tuple(np.linspace(0, 1, mixes).tolist())}},
            "held_out": {"size": "27k", "tokens": steps * SEQ * ROWS},
        }
    )  # fmt: skip
    base, *runs = grid_lib.plan(settings, VOCAB, {"prose": "", "code": ""})
    return base, runs


def whole_sweep(seconds: float) -> None:
    """A grid of tiny models on this machine's cores, by `sweep.sweep`: all that a user waits for."""
    mixes, steps = 12, 60
    print(f"a sweep of {mixes} runs of 27k, {steps} steps, two evaluations, on {len(os.sched_getaffinity(0))} cores")
    found: dict[int, list[tuple[float, float]]] = {1: [], 6: []}
    for turn in range(2):  # the first fills the cache of compiled programs
        for count, times in found.items():
            with tempfile.TemporaryDirectory() as folder:
                base, runs = study(Path(folder), mixes, steps)
                sweep.sweep([base], folder, workers=1, progress=False)
                at, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
                sweep.sweep(runs, folder, together=count, progress=False)
                now = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
                if turn:
                    times.append((time.perf_counter() - at, spent))
    for count, times in found.items():
        wall, spent = (min(values) for values in zip(*times))
        print(f"  together={count}: {wall:.0f} s, processor time {spent:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("host", "cpu", "grid", "sweep", "device"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for the turns of one comparison")
    args = parser.parse_args()
    print(f"jax {jax.__version__}, {os.getloadavg()[0]:.1f} load at the start")
    for name, measure in {"host": host, "cpu": cpu, "grid": grid, "sweep": whole_sweep, "device": device}.items():
        if getattr(args, name):
            measure(args.seconds)


if __name__ == "__main__":
    main()
