"""Kills and pauses over a real server: nothing may be lost, doubled, or written over by who has lost its claim.

    python -m benchmarks.storage --on s3 --kills 200 --pauses 20        # SeaweedFS; --on gcs: fake-gcs-server
    python -m benchmarks.storage --on posix --kills 200 --pauses 20     # the same on a disk
    python -m benchmarks.storage --on s3 --speed                        # seconds of an operation

Workers (processes) take runs as the engine does, through `storage.tasks`: a claim, rows, checkpoints, an end. What a
run computes is a chain of hashes, of which every row holds a link, so a row that was lost, doubled, measured from the
wrong checkpoint or written by the wrong process shows. Workers are killed with SIGKILL, or stopped with SIGSTOP for
longer than the lease and let go on, at random moments; half of them believe to be on machines of their own, so that
their death shows by the lease alone. Extra `servers`.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import servers
from cptlaw.execution.workdir import Workdir
from cptlaw.storage import claims
from cptlaw.storage.claims import Lost
from cptlaw.storage.tasks import PosixTask, Task

LEASE = 2.0
STEPS, EVERY, BATCH = 500, 20, 5
WORKERS = 6


def link(run: str, step: int, before: str) -> str:
    return hashlib.sha256(f"{run} {step} {before}".encode()).hexdigest()[:16]


def work(task: Task, run: str, tell: Callable[[str], None]) -> None:
    """Does what is left of a run, as training does, and tells how it begins and ends."""
    with task.claim() as mine:
        if not mine:
            return
        tell("began")
        try:
            step, value = restore(task)
            while step < STEPS:
                step += 1
                value = link(run, step, value)
                time.sleep(0.004)
                if step % EVERY == 0:
                    task.append("rows", [{"step": step, "value": value}])
                    save(task, step, value)
            text = task.lines("rows")
            task.end(hashlib.sha256(text).hexdigest().encode())
            tell("ended")
        except Lost:
            tell("lost")


def save(task: Task, step: int, value: str) -> None:
    if isinstance(task, PosixTask):
        task.checkpoints.mkdir(exist_ok=True)
        unfinished = task.checkpoints / f"tmp-{uuid.uuid4().hex}"
        unfinished.write_text(value)
        unfinished.rename(task.checkpoints / str(step))
        for old in task.steps()[:-2]:
            (task.checkpoints / str(old)).unlink()
        return
    task.checkpoints.write(step, 0, {"pieces": []}, [value.encode()])
    task.checkpoints.commit(step, 1, {"memory": []})
    task.checkpoints.delete(task.checkpoints.steps()[:-2])


def restore(task: Task) -> tuple[int, str]:
    steps = task.steps()
    if not steps:
        return 0, ""
    if isinstance(task, PosixTask):
        return steps[-1], (task.checkpoints / str(steps[-1])).read_text()
    return steps[-1], task.checkpoints.read(steps[-1], 0, [(0, 16)])[0].decode()


def worker(place: str, host: str, log: str) -> None:
    """Takes runs until it is killed."""
    if host:
        claims.socket.gethostname = lambda: host  # type: ignore[assignment]
    home = Workdir(place)
    while True:
        runs = home.run_ids()
        random.shuffle(runs)
        for run in runs:
            task = home.task(run)

            def tell(how: str, run: str = run) -> None:
                with Path(log).open("a") as told:
                    told.write(json.dumps({"run": run, "how": how}) + "\n")

            if not task.has_ended():
                work(task, run, tell)
        time.sleep(0.05)


class Crew:
    """The workers, and what was done to them."""

    def __init__(self, place: str, folder: Path):
        self.place, self.folder = place, folder
        self.done: collections.Counter = collections.Counter()
        self.processes = [self.start(i) for i in range(WORKERS)]

    def start(self, index: int) -> subprocess.Popen:
        host = f"machine-{uuid.uuid4().hex[:6]}" if index % 2 else ""
        words = ["-m", "benchmarks.storage", "--worker", self.place, host, str(self.folder / f"told-{index}.jsonl")]
        return subprocess.Popen([sys.executable, *words], stdin=subprocess.DEVNULL)

    def busy(self) -> list[int]:
        """The workers that work on a run."""
        return [i for i in range(WORKERS) if (said := self.told(f"told-{i}.jsonl")) and said[-1]["how"] == "began"]

    def kill(self, index: int) -> None:
        self.processes[index].kill()
        self.processes[index].wait()
        with (self.folder / f"told-{index}.jsonl").open("a") as told:
            told.write(json.dumps({"run": "", "how": "killed"}) + "\n")
        self.processes[index] = self.start(index)
        self.done["kills"] += 1

    def pause(self, index: int) -> None:
        os.kill(self.processes[index].pid, signal.SIGSTOP)
        time.sleep(2.5 * LEASE)
        os.kill(self.processes[index].pid, signal.SIGCONT)
        self.done["pauses"] += 1

    def check(self) -> None:
        for process in self.processes:
            if process.poll() is not None:
                raise SystemExit(f"a worker ended with {process.returncode}")

    def told(self, name: str = "told-*") -> list[dict[str, Any]]:
        """What the workers said; a line torn by a kill was not said."""
        lines = [line for path in self.folder.glob(name) for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def wrong(home: Workdir, run: str) -> list[str]:
    """What is wrong with a run that has ended."""
    task, expected, value = home.task(run), {}, ""
    for step in range(1, STEPS + 1):
        value = link(run, step, value)
        if step % EVERY == 0:
            expected[step] = value
    text = task.lines("rows")
    rows = [json.loads(line) for line in text.splitlines()]
    found = []
    if {row["step"]: row["value"] for row in rows} != expected:
        found.append(f"{run}: its rows are others")
    if hashlib.sha256(text).hexdigest().encode() != task.outcome():
        found.append(f"{run}: its rows are not those that it ended with")
    if max(task.steps()) != STEPS or restore(task)[1] != value:
        found.append(f"{run}: its last checkpoint is another")
    return found


def torment(place: str, kills: int, pauses: int, rng: random.Random) -> None:
    home, begin = Workdir(place), time.monotonic()
    names: list[str] = []
    todo = ["kill"] * kills + ["pause"] * pauses
    rng.shuffle(todo)
    with tempfile.TemporaryDirectory() as folder:
        crew = Crew(place, Path(folder))
        try:
            while True:
                left = [run for run in names if not home.task(run).has_ended()]
                if todo and len(left) < BATCH:
                    names.append(f"run-{len(names):03}")
                    home.task(names[-1]).write("run.json", b"{}")
                    continue
                if not todo and not left:
                    break
                time.sleep(rng.uniform(0.05, 0.4))
                crew.check()
                if todo and (busy := crew.busy()):
                    index = rng.choice(busy)
                    crew.kill(index) if todo.pop() == "kill" else crew.pause(index)
            time.sleep(2 * LEASE)  # what the paused still write
            told = crew.told()
        finally:
            crew.stop()
    ended = collections.Counter(said["run"] for said in told if said["how"] == "ended")
    faults = [fault for run in names for fault in wrong(home, run)]
    faults += [f"{run}: ended {count} times" for run, count in ended.items() if count > 1]
    lost = sum(said["how"] == "lost" for said in told)
    again = {} if not home.in_bucket else {r: json.loads(home.task(r).read("state.json") or b"{}") for r in names}
    claimed = sum(state["generation"] for state in again.values())
    where = place.split(":")[0] if home.in_bucket else "posix"
    print(
        f"{where}: {crew.done['kills']} kills, {crew.done['pauses']} pauses, "
        f"{len(names)} runs, {claimed} claims, {lost} claims lost to another and told so, "
        f"{time.monotonic() - begin:.0f} s: {len(faults)} faults"
    )
    print("\n".join(faults))


def speed(place: str) -> None:
    """Median milliseconds of what a run does to storage."""
    task = Workdir(place).task("speed")
    took: dict[str, list[float]] = collections.defaultdict(list)

    @contextlib.contextmanager
    def timed(what: str) -> Any:
        begin = time.perf_counter()
        yield
        took[what].append(1e3 * (time.perf_counter() - begin))

    for _ in range(50):
        with timed("claim and release"), task.claim() as mine:
            assert mine
    with task.claim():
        for step in range(1, 51):
            with timed("add a row"):
                task.append("rows", [{"step": step, "value": "x" * 16}])
            with timed("has it ended"):
                task.has_ended()
        with timed("read 50 rows"):
            task.lines("rows")
        with timed("end"):
            task.end(b"{}")
    for what, times in took.items():
        print(f"{what:20} {sorted(times)[len(times) // 2]:8.2f} ms")


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return worker(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--on", choices=["posix", "s3", "gcs"], default="s3")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--pauses", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.environ |= {"CPTLAW_LEASE_SECONDS": str(LEASE), "CPTLAW_CACHE": f"{folder}/cache"}
        claims.LEASE, claims.SOON = LEASE, LEASE / 12
        place = f"{folder}/workdir"
        if args.on != "posix":
            os.environ |= stack.enter_context(servers.serve(args.on, folder))
            place = f"{'s3' if args.on == 's3' else 'gs'}://{servers.BUCKET}/workdir"
        speed(place) if args.speed else torment(place, args.kills, args.pauses, random.Random(args.seed))


if __name__ == "__main__":
    main()
