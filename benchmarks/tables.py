"""Reading, writing, checking and appending to a runs table of a million rows, beside the plain ways to do it.

    python -m benchmarks.tables [--rows N]

CPU seconds of one process; a ratio is the plain way's seconds over ours. The plain ways: `json.dumps` of a dictionary a
row and `json.loads` of a line a row (what JSONL cost here before), `pandas.read_csv` without checks, and an append that
first reads the file. Reading includes the checks.

Measured on 2 cores beside other work, a million rows of nine columns (ratio, our seconds): write JSONL 5.6 (1.7), read
JSONL 2.2 (3.1), append one row 190 (0.0005), write CSV 1.0 (4.4). Reading CSV takes 1.5 s and Parquet 1.0 s, of which
1.0 s are the checks that pandas alone (0.25 and 0.08 s) does not make. The hash of the content takes 3.5 s. What stood
here before took, in the same units: write JSONL 18.3, read JSONL 7.5, hash 10.5, append 0.1.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import runs


def table(rows: int) -> pd.DataFrame:
    """Runs of 50 checkpoints, two corpora each."""
    k = np.arange(rows)
    rng = np.random.default_rng(0)
    share = rng.random(rows // 100 + 1).round(3)[k // 100]
    return pd.DataFrame(
        {
            "run": [f"run-{i}" for i in k // 100], "params": 1e8 * (1 + k // 1000), "tokens": 1e8 * (1 + k % 100 // 2),
            "w_code": share, "w_web": 1 - share, "eval": np.where(k % 2, "code", "web"), "loss": rng.random(rows) + 2,
            "seed": k // 100 % 7, "status": "ok",
        }
    )  # fmt: skip


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def plain_write(df: pd.DataFrame, path: Path) -> None:
    """A dictionary a row."""
    path.write_text("".join(json.dumps(row) + "\n" for row in df.to_dict("records")))


def plain_read(path: Path) -> pd.DataFrame:
    """A line a row."""
    return pd.DataFrame([json.loads(line) for line in path.read_bytes().splitlines()])


def plain_append(path: Path, row: dict[str, Any]) -> None:
    """Reads the file to see whether its last line is whole."""
    with path.open("a+b") as file:
        file.seek(0)
        file.read().endswith(b"\n")
        file.write((json.dumps(row) + "\n").encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    df = table(rows)
    row = {"run": "new", "eval": "code", "loss": 2.0}
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, csv, parquet = (Path(folder) / name for name in ("a.jsonl", "b.jsonl", "a.csv", "a.parquet"))
        pairs = {
            "write JSONL": (lambda: runs.write(df, ours), lambda: plain_write(df, theirs)),
            "read JSONL": (lambda: runs.read(ours), lambda: plain_read(theirs)),
            "append a row to JSONL": (lambda: runs.append(ours, [row]), lambda: plain_append(theirs, row)),
            "write CSV": (lambda: runs.write(df, csv), lambda: df.to_csv(csv, index=False)),
            "read CSV": (lambda: runs.read(csv), lambda: pd.read_csv(csv)),
            "read Parquet": (lambda: runs.read(parquet), lambda: pd.read_parquet(parquet)),
        }
        df.to_parquet(parquet)
        for name, (mine, plain) in pairs.items():
            own, other = seconds(mine), seconds(plain)
            print(f"{name:24} {own:8.3f} s   plain {other:8.3f} s   ratio {other / own:8.2f}", flush=True)
    print(f"{'check':24} {seconds(lambda: runs.check(df)):8.3f} s")
    print(f"{'digest':24} {seconds(lambda: runs.digest(df)):8.3f} s")


if __name__ == "__main__":
    main()
