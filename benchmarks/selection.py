"""What choosing costs as a corpus grows: time and memory, shard by shard and with all chunks in memory.

    python -m benchmarks.selection --chunks 1e6 1e7 1e8      100 million chunks take 2.3 GB of disk

Scores are made up (log-normal perplexities, documents of 1 to 12 chunks) and written as `launch.score` writes them. A
process of its own then chooses a fifth of the chunks by tilt. Time is wall clock and, in brackets, processor time;
memory is that process's largest. Up to --in-memory chunks the same is done by `choose.select`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

SHARD = 16_384  # rows: a shard of 4M tokens in chunks of 256
CHUNK = 256
TARGET = (0.1, 0.95)  # mean and std less and over the pool's, in its std


def write(folder: Path, chunks: int) -> None:
    """Scores of about `chunks` chunks."""
    rng = np.random.default_rng(0)
    document = number = 0
    while document * 6.5 < chunks:
        count = rng.integers(1, 13, SHARD // 7)
        total = int(count.sum())
        tokens = np.full(total, CHUNK, np.int32)
        tokens[count.cumsum() - 1] = rng.integers(1, CHUNK + 1, len(count))
        x = rng.normal(3, 0.3, len(count)).repeat(count) + rng.normal(0, 0.2, total)
        pd.DataFrame(
            {
                "document": document + np.arange(len(count)).repeat(count),
                "chunk": np.arange(total) - (count.cumsum() - count).repeat(count),
                "tokens": tokens,
                "bytes": 4 * tokens,
                "nats": x * tokens,
            }
        ).to_parquet(folder / f"shard-{number:05}.parquet", index=False)
        document, number = document + len(count), number + 1
    (folder / "scores.json").write_text(json.dumps({"shards": number, "chunk": CHUNK}))


def choose_one(folder: Path, how: str) -> None:
    """Chooses, and prints what it took."""
    from cptlaw.selection import choose, scores, shards
    from cptlaw.selection.pool import Pool

    begin = time.perf_counter()
    goal = (3 + TARGET[0] * 0.36, TARGET[1] * 0.36)
    if how == "shards":
        source = shards.Shards(folder, "chunk")
        subset = shards.select(source, folder / "list.parquet", {}, fraction=0.2, target=goal, seed=1).subset
    else:
        pool = Pool.of(scores.read(folder), CHUNK, by="chunk")
        chosen = choose.select(pool, fraction=0.2, target=goal, seed=1)
        choose.write_list(folder / "list.parquet", pool, chosen, {})
        subset = pool.moments(chosen)
    used = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "wall": time.perf_counter() - begin,
        "processor": used.ru_utime + used.ru_stime,
        "GiB": used.ru_maxrss / 2**20,
        "miss": max(abs(a - b) for a, b in zip(subset, goal)) / 0.36,
    }
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=float, nargs="+", default=[1e5, 1e6])
    parser.add_argument("--in-memory", type=float, default=1e7, help="chunks up to which that is measured too")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        choose_one(Path(args.one[0]), args.one[1])
        return
    for chunks in args.chunks:
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), int(chunks))
            size = sum(path.stat().st_size for path in Path(name).iterdir()) / 1e9
            print(f"{chunks:,.0f} chunks, {size:.2f} GB of scores", flush=True)
            for how in ("shards", "memory") if chunks <= args.in_memory else ("shards",):
                command = [sys.executable, "-m", "benchmarks.selection", "--one", name, how]
                found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                print(
                    "  {:7} {wall:8.1f} s ({processor:.1f} s)   {GiB:6.2f} GiB   moments missed by {miss:.1e} of the "
                    "pool's deviation".format(how, **found),
                    flush=True,
                )


if __name__ == "__main__":
    main()
