"""Where metrics go: a JSONL file always, TensorBoard and Weights & Biases when asked for.

A writer is a function of records, flat mappings with a `step`. A resumed run repeats the steps since its checkpoint:
its first record takes back what was written of that step and of later ones.
"""

import contextlib
import dataclasses
import json
import sys
import time
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from cptlaw import atomic, records
from cptlaw.errors import UserError
from cptlaw.registry import Registry, is_own, parts

Record = Mapping[str, Any]
Write = Callable[[Record], Any]


@dataclasses.dataclass(frozen=True)
class Writer:
    """A place for metrics.

    Attributes:
      open: (directory of its own, run id, the run's fields) -> context manager of the function that takes records.
    """

    open: Callable[[Path, str, Mapping[str, Any]], contextlib.AbstractContextManager[Write]]


WRITERS: Registry[Writer] = Registry("writer", Writer, "@cptlaw.training.writers.writer")


def writer(function: Callable[[Path, str, Mapping[str, Any]], Iterator[Write]]) -> Writer:
    """Makes a writer of a generator that yields the function which takes records, as `contextlib.contextmanager` does.

    In a file of your own; `FILE.py:NAME` is then one of a config's `monitor.writers`. Records are flat mappings of
    numbers with a `step`; a run that resumes begins with one that was written before.

    >>> @writer
    ... def posted(directory, name, config):
    ...     with urllib3.PoolManager() as pool:
    ...         yield lambda record: pool.request("POST", URL, json={"run": name, **record})
    """
    return Writer(contextlib.contextmanager(function))


@contextlib.contextmanager
def writers(kinds: Collection[str], directory: Path, name: str, config: Mapping[str, Any]) -> Iterator[Write]:
    """Writes to `metrics.jsonl` in `directory`, and to each of `kinds` (of `WRITERS`, or FILE.py:NAME).

    Raises UserError for a kind whose package is not installed.
    """
    with contextlib.ExitStack() as stack:
        writes = [stack.enter_context(jsonl(directory / "metrics.jsonl"))]
        for kind in kinds:
            folder = directory / (parts(kind)[1] if is_own(kind) else kind)
            writes.append(stack.enter_context(WRITERS.find(kind).open(folder, name, config)))
        yield lambda record: [write(record) for write in writes]


@contextlib.contextmanager
def jsonl(path: Path) -> Iterator[Write]:
    """Appends records to a JSONL file, which holds every step once, in order, however often the run was stopped."""
    with contextlib.ExitStack() as stack:
        file = None

        def write(record: Record) -> None:
            nonlocal file
            if file is None:
                _take_back(path, record["step"])
                file = stack.enter_context(path.open("a", buffering=1))
            file.write(json.dumps(record) + "\n")

        yield write


def _take_back(path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        known = records.read_lines(path, {"step": int}, "delete the file; it is about no result")
        atomic.write_text(path, "".join(f"{json.dumps(record)}\n" for record in known if record["step"] < step))


def tensorboard(directory: Path, name: str, config: Mapping[str, Any]) -> Iterator[Write]:
    """Scalars as event files, for `tensorboard --logdir`."""
    if "tensorflow" not in sys.modules:
        # A module of this name keeps TensorBoard from loading TensorFlow, which would cost seconds and take the
        # accelerator's memory.
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    try:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise UserError(f"monitor.writers: tensorboard is not installed ({error}); pip install tensorboard") from error
    with contextlib.closing(EventFileWriter(str(directory))) as events:
        started = False

        def write(record: Record) -> None:
            nonlocal started
            now, step = time.time(), record["step"]
            if not started:  # what makes TensorBoard forget later steps
                start = SessionLog(status=SessionLog.START)
                events.add_event(Event(wall_time=now, step=step, session_log=start))
                started = True
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _measured(record).items()]
            events.add_event(Event(wall_time=now, step=step, summary=Summary(value=values)))

        yield write


def wandb(directory: Path, name: str, config: Mapping[str, Any]) -> Iterator[Write]:
    """Weights & Biases: one run for a name, however often it resumes; the environment's WANDB_* are its settings.

    Runs that train together in one process are open at the same time, each with its own records.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError("monitor.writers: wandb is not installed; pip install wandb") from error
    directory.mkdir(parents=True, exist_ok=True)
    run = wandb.init(id=name, name=name, dir=str(directory), config=dict(config), resume="allow", reinit="create_new")
    try:
        yield lambda record: run.log(_measured(record), step=record["step"])
    finally:
        run.finish()


def _measured(record: Record) -> dict[str, float]:
    return {tag: value for tag, value in record.items() if tag != "step"}


for _function in (tensorboard, wandb):
    WRITERS.add(_function.__name__, writer(_function))
