"""Runs a grid: local worker processes, one progress bar, nothing lost when any of them dies.

Workers share the work through the run directories alone, so several sweeps (on several machines with a shared
file system that honours flock) may work on one grid.
"""

import contextlib
import dataclasses
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from cptlaw import atomic
from cptlaw.errors import UserError
from cptlaw.execution import devices, known, rundir, worker
from cptlaw.execution.run import Monitor, Run
from cptlaw.execution.rundir import RunDir
from cptlaw.execution.workdir import Workdir
from cptlaw.progress import bar as progress_bar
from cptlaw.training.memory import least_bytes

_MONITOR = Monitor()

# How long a worker may take to save; clusters give a job five minutes.
SAVE_SECONDS = 280

# How often a worker that is killed before it takes a run is started again.
STARTS = 3


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a sweep ended: run ids by state, and the reason of each failure."""

    finished: tuple[str, ...]
    failed: dict[str, str]


def sweep(
    runs: list[Run],
    workdir: str | os.PathLike[str],
    *,
    workers: int = 0,
    devices_per_run: int = 0,
    together: int = 1,
    sweeps: int = 1,
    listed: bool = False,
    checkpoint_seconds: float = 60.0,
    monitor: Monitor = _MONITOR,
    progress: bool = True,
    title: str = "grid",
) -> Summary:
    """Trains every run that is not finished or failed, and returns when all are.

    The workers need the accelerators, so the calling process must not have started JAX on them.

    Args:
      runs: the grid; a run's `init`, if not among them, must be finished already.
      workdir: where the token stores and the run directories are.
      workers: processes; 0 fills the machine (see `devices.share`).
      devices_per_run: how many devices a worker has to itself; 0: as many as the run's mesh says, or see
        `devices.share`.
      together: how many runs of one size a worker trains in one program at most; 0 chooses (see
        `training.together.most`). None takes more than its part of what is left, so that none is idle.
      sweeps: how many sweeps like this one work on the runs, itself included.
      listed: train them in their order here, rather than the longest first.
      checkpoint_seconds: how much work a crash may cost.
      monitor: what is watched while a run trains.
      progress: show a bar, on stderr.
      title: the bar's name.
    """
    workdir = Workdir(workdir)
    directories = {run.id: RunDir(workdir, run) for run in runs}
    left = _still_left(set(directories), directories)
    if not left:
        _drop_trunks(directories)
        return _summary(directories)
    verify_stores([directories[name].run for name in left], workdir)
    machine = devices.find()
    if machine.note:
        tqdm.write(machine.note, file=sys.stderr)
    # Runs of one size need as many devices as each other, and no run waits for one of another size.
    parts: dict[int, list[Run]] = {}
    for run in runs:
        parts.setdefault(_needed(run, machine, devices_per_run), []).append(run)
    options = {
        "workdir": str(workdir),
        "together": together,
        "sweeps": sweeps,
        "listed": listed,
        "checkpoint_seconds": checkpoint_seconds,
        "monitor": dataclasses.asdict(monitor),
    }
    with _bar(runs, title, progress) as update:
        for each, part in parts.items():
            if mine := left & {run.id for run in part}:
                count, each = devices.share(machine, workers, each)
                plan_path = workdir.new_plan()
                atomic.write_text(plan_path, json.dumps(options | {"runs": [dataclasses.asdict(run) for run in part]}))
                try:
                    left -= mine - _train(
                        mine, left, directories, plan_path, machine, min(count, len(mine)), each, update
                    )
                finally:
                    plan_path.unlink(missing_ok=True)
    _drop_trunks(directories)
    return _summary(directories)


def collect(runs: list[Run], workdir: str | os.PathLike[str], have: pd.DataFrame | None = None) -> pd.DataFrame:
    """The runs table of all finished runs, in the grid's order, whatever order they were trained in.

    `have` is a table whose rows stand for runs that the workdir does not hold.
    """
    rows = []
    for run in runs:
        directory = RunDir(workdir, run)
        if run.init is not None and directory.state() == rundir.FINISHED:
            rows += directory.measured()
    if not rows and (have is None or have.empty):
        raise UserError(f"{workdir}: no finished run to collect; run the sweep first")
    table = pd.DataFrame(rows)
    # A run's rows know the corpora that it is evaluated on: it trains on no other.
    for column in table.columns[table.isna().any()]:
        if column.startswith("w_"):
            table[column] = table[column].fillna(0.0)
        elif column.startswith("unique_tokens_"):
            table[column] = table[column].fillna(table[column].max()).astype(int)
    return table if have is None else known.merged(runs, table, have)


def _needed(run: Run, machine: devices.Devices, devices_per_run: int) -> int:
    """How many devices a worker must have for the run; 0: one, or more if there are.

    Raises UserError where one device cannot hold the run's state, or its mesh has another number of devices.
    """
    sizes = run.mesh.values()
    if sizes:
        mesh = machine.count if -1 in sizes else math.prod(sizes)
        if devices_per_run and -1 not in sizes and mesh != devices_per_run:
            raise UserError(
                f"config.devices_per_run: {devices_per_run}, but config.mesh has {mesh} devices; remove one"
            )
        return devices_per_run or mesh
    state = least_bytes(run.config, run.make_optimizer())
    if machine.memory is not None and state > machine.memory:
        raise UserError(
            f"config.mesh: a run of size {run.size!r} needs {state / 2**30:.1f} GiB for its parameters, their "
            f"gradients and the optimizer's state, and a device has {machine.memory / 2**30:.1f}; divide them over "
            "several, such as {'fsdp': -1}"
        )
    return devices_per_run


def _train(
    left: set[str],
    others: set[str],
    directories: dict[str, RunDir],
    plan: Path,
    machine: devices.Devices,
    count: int,
    each: int,
    update: Callable[[set[str], list[dict]], None],
) -> set[str]:
    """Lets `count` workers, of `each` devices, train what a plan has left; what is still left when they have ended.

    `others` are what the whole sweep has left, for the bar.
    """
    events: queue.Queue[dict] = queue.Queue()
    rest = others - left
    crew = [_Worker(index, count, plan, events, machine.environment(index, each)) for index in range(count)]
    try:
        while left := _still_left(left, directories):
            update(left | rest, _drain(events))
            if all(member.idle for member in crew):
                break
            time.sleep(0.5)
            for member in crew:
                member.check(directories)
        update(_still_left(left, directories) | rest, [])
    finally:
        for member in crew:
            member.ask_to_stop()
        for member in crew:
            member.wait()
    return left


class _Worker:
    """A worker process, restarted when it dies; its events arrive on a queue.

    Attributes:
      runs: what it was training when it spoke last; none until it has taken one.
      idle: it has found nothing left to do.
    """

    def __init__(self, index: int, count: int, plan: Path, events: queue.Queue, variables: Mapping[str, str | None]):
        self.index, self.count, self.plan, self.events = index, count, plan, events
        self.variables = variables
        self.idle = False
        self.full = ""
        self.starts = 0  # since it took a run
        self.start()

    def start(self) -> None:
        self.starts += 1
        self.runs: list[str] = []  # this process has not taken a run yet, whatever the one before it trained
        command = [
            sys.executable,
            "-m",
            "cptlaw.execution.worker",
            str(self.plan),
            f"{self.index}/{self.count}",
        ]
        # A session of its own: Ctrl-C reaches the sweep alone. A worker saves and leaves when its stdin closes, which
        # also happens when the sweep is killed.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=devices.changed(self.variables),  # before it starts: JAX takes every device that it sees
        )
        self.errors: list[str] = []
        self.readers = [
            threading.Thread(target=lambda s=stream, t=take: [t(line) for line in s], daemon=True)
            for stream, take in [(self.process.stdout, self._event), (self.process.stderr, self.errors.append)]
        ]
        for reader in self.readers:
            reader.start()

    def _event(self, line: str) -> None:
        with contextlib.suppress(ValueError):  # a line torn by the worker's death
            event = json.loads(line)
            if "note" in event:
                tqdm.write(event["note"], file=sys.stderr)
                return
            if "full" in event:
                self.full = event["full"]
                return
            self.runs, self.starts = event["together"], 0
            self.events.put(event)

    def check(self, directories: dict[str, RunDir]) -> None:
        """Notices a dead process: records the death at the runs it was working on, and starts another."""
        code = self.process.poll()
        if code is None or self.idle:
            return
        if code == 0:
            self.idle = True
            return
        if code == worker.EXIT_STOPPED:  # by a SIGTERM, which the sweep may outlive
            self.start()
            return
        for reader in self.readers:  # until they have read its last words
            reader.join(timeout=10)
        if code == worker.EXIT_FULL and self.full:
            raise UserError(self.full)
        reason = _how_it_died(code, self.errors)
        if not self.runs:
            if code > 0 or self.starts >= STARTS:
                raise UserError(f"a worker died before it took a run: {reason}")
            self.start()
            return
        if len(self.runs) > 1:
            # Which of them is to blame is not known. Each is trained alone from here on, so its next death is its own.
            reason += f", in which it was trained together with {len(self.runs) - 1} other runs"
        for name in self.runs:
            if directories[name].result() is None:  # else the worker died after it had ended the run
                directories[name].died(reason)
        self.start()

    def ask_to_stop(self) -> None:
        """Lets the process save and leave."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=SAVE_SECONDS)
            return
        self.process.kill()
        self.process.wait()


def _how_it_died(code: int, errors: list[str]) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed (signal 9), as the system does when memory runs out"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}"
    last = next((line.strip() for line in reversed(errors) if line.strip()), "")
    return f"its process exited with code {code}: {last}"


def _still_left(left: set[str], directories: dict[str, RunDir]) -> set[str]:
    """Those of `left` that have not ended meanwhile: what has ended once is not looked at again."""
    return {name for name in left if not directories[name].has_ended()}


def verify_stores(runs: Iterable[Run], workdir: Workdir) -> None:
    """Compares the token stores that runs read with their hashes. One that is not there is left for its run to report.

    Raises StoreError for a damaged one.
    """
    from cptlaw.data.store import verify

    wanted = {(corpus, "train") for run in runs for corpus in run.shares}
    wanted |= {(corpus, "validation") for run in runs for corpus in run.evals}
    for corpus, split in sorted(wanted):
        verify(workdir.store(corpus, split))


def _drain(events: queue.Queue[dict]) -> list[dict]:
    drained = []
    with contextlib.suppress(queue.Empty):
        while True:
            drained.append(events.get_nowait())
    return drained


def _drop_trunks(directories: dict[str, RunDir]) -> None:
    """Drops the checkpoints of trunks whose branches are all finished: nobody starts from them any more."""
    for trunk in (directory for directory in directories.values() if directory.run.keep_tokens):
        branches = [directory for directory in directories.values() if directory.run.trunk == trunk.run.id]
        if branches and all(branch.state() == rundir.FINISHED for branch in branches):
            trunk.drop_checkpoints()


def _summary(directories: dict[str, RunDir]) -> Summary:
    results = {name: directory.result() or {"state": None} for name, directory in directories.items()}
    return Summary(
        finished=tuple(name for name, result in results.items() if result["state"] == rundir.FINISHED),
        failed={n: result["reason"] for n, result in results.items() if result["state"] == rundir.FAILED},
    )


@contextlib.contextmanager
def _bar(runs: list[Run], title: str, progress: bool) -> Iterator[Callable[[set[str], list[dict]], None]]:
    """A bar over FLOPs, since a token of a large model takes longer than one of a small model."""
    flops = {run.id: run.flops() for run in runs}
    tokens = {run.id: run.tokens - run.first_token for run in runs}
    part: dict[str, float] = {}
    working_on: dict[int, str] = {}
    total, start = sum(flops.values()), time.monotonic()
    credit: float | None = None  # FLOPs that were done before this sweep, which its speed does not count
    with progress_bar(
        progress=progress, total=total, desc=title, bar_format="{desc} {percentage:3.0f}%|{bar:24}| {elapsed}{postfix}"
    ) as bar:

        def update(left: set[str], events: list[dict]) -> None:
            nonlocal credit
            for event in events:
                name, reached = event["run"], event["tokens"] / max(1, tokens[event["run"]])
                if reached and not part.get(name) and credit is not None:
                    credit += flops[name] * reached  # done before it resumed; the few steps since are neglected
                part[name] = max(reached, part.get(name, 0.0))
                more = len(event["together"]) - 1
                working_on[event["worker"]] = name.rsplit("-", 1)[0] + (f" and {more} more" if more else "")
            done = sum(flops[name] * (part.get(name, 0.0) if name in left else 1.0) for name in flops)
            credit = done if credit is None else credit
            speed = (done - credit) / (time.monotonic() - start)
            remaining = tqdm.format_interval((total - done) / speed) if speed > 0 else "?"
            ended = f"{len(flops) - len(left)}/{len(flops)} runs"
            bar.set_postfix_str(" · ".join([f"{remaining} left", ended, *working_on.values()]), refresh=False)
            bar.update(done - bar.n)

        yield update
