"""What to measure when a GPU or TPU is at hand for half an hour: one command, and each step's results as it ends.

    python -m benchmarks.device_day --out results                            kernels, MFU, runs together, scoring
    python -m benchmarks.device_day --out results --workdir runs/cpt8        then the open table's missing runs
    python -m benchmarks.device_day --out results --tiny                     a dry run for a CPU, minutes

Needs JAX for the accelerator, Flax, Optax and Orbax, and no TensorFlow; the workdir's token stores have to be there
(`cptlaw prepare`, on any machine), since nothing is fetched. A step is a process of its own, so that one that fails or
hangs costs its own time and no more. Its output is OUT/STEP.log; OUT/results.jsonl gets a line as it ends. The same
command goes on with the steps that have not ended well. --minutes bounds the whole: a step that would begin without
time to end is left out, and the table's runs get what is left and save what they have.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple


class Step(NamedTuple):
    """A command of Python's modules, and how long it may take."""

    name: str
    command: list[str]
    seconds: float


def steps(workdir: Path | None, out: Path, left: float) -> list[Step]:
    """What is measured, the most wanted first. MFU is taken at the kernel that `auto` chooses, and at the other."""
    mfu = ["benchmarks.mfu", "--steps", "10"]
    found = [
        Step("attention", ["benchmarks.attention"], 240),
        Step("mfu", [*mfu, "--profile", str(out / "trace")], 420),
        Step("mfu_triton", [*mfu, "--sizes", "135M", "1B", "--attention", "triton"], 240),
        Step("together", ["benchmarks.together", "--device", "--seconds", "15"], 300),
        Step("score", ["benchmarks.score", "--tokens", "3000000", "--batch-tokens", "131072"], 180),
    ]
    if workdir is not None:
        sweep = ["launch.sweep", "--config", "configs/cpt8.py", "--workdir", str(workdir), "--have", "cpt8"]
        found.append(Step("cpt8", sweep, left))
    return found


TINY = [
    Step("attention", ["benchmarks.attention", "--tiny", "--steps", "1"], 300),
    Step("mfu", ["benchmarks.mfu", "--sizes", "tiny", "--steps", "2"], 300),
    Step("score", ["benchmarks.score", "--tokens", "2000", "--rounds", "1"], 300),
]


def run(step: Step, out: Path, seconds: float) -> dict[str, object]:
    """Runs a step; after `seconds` it is asked to save and stop, and killed a minute later."""
    begin = time.monotonic()
    with (out / f"{step.name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", *step.command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            if isinstance(error, KeyboardInterrupt):
                raise
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return {"step": step.name, "code": code, "seconds": round(time.monotonic() - begin), "command": step.command}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, help="of configs/cpt8.py, its token stores prepared")
    parser.add_argument("--minutes", type=float, default=28.0)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    ledger = args.out / "results.jsonl"
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    done = {line["step"] for line in map(json.loads, lines) if line["code"] == 0}
    for step in TINY if args.tiny else steps(args.workdir, args.out, 60 * args.minutes):
        left = end - time.monotonic() - 60  # the minute in which a process that is stopped saves
        if step.name in done:
            print(f"{step.name}: done before")
        elif left < 30 or (step.name != "cpt8" and left < step.seconds / 2):
            print(f"{step.name}: left out, {max(left, 0):.0f} s remain")
        else:
            print(f"{step.name}: {' '.join(step.command)}", flush=True)
            found = run(step, args.out, min(step.seconds, left))
            with ledger.open("a") as file:
                file.write(json.dumps(found) + "\n")
            ended = "stopped at its limit" if found["code"] is None else f"ended with {found['code']}"
            print(f"{step.name}: {ended} after {found['seconds']} s")
            print((args.out / f"{step.name}.log").read_text()[-1500:], flush=True)


if __name__ == "__main__":
    main()
