"""Runs as trackers and evaluation tools keep them: Weights & Biases, TensorBoard's event files, lm-evaluation-harness.

Each source becomes the rows that its export would have: a run's name, its configuration in columns of its own, `step`,
and a column a metric. `read_runs` then maps them as `read` maps a file.
"""

import functools
import json
import math
import os
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cptlaw.paths import local
from cptlaw.runs import headers, reading
from cptlaw.runs.contract import TableError
from cptlaw.runs.text import Loaded

KINDS = ("wandb", "tensorboard", "lm-eval")
_OURS = ("run", "eval", "loss")  # what a configuration's field of this name is not about
# Metrics of lm-evaluation-harness in nats, the best first: how each becomes a loss, and its unit.
_HARNESS = {
    "bits_per_byte": (lambda value: value * math.log(2), "nats per byte"),
    "byte_perplexity": (math.log, "nats per byte"),
    "word_perplexity": (math.log, "nats per word"),
    "perplexity": (math.log, "nats per token of the answer"),
}


def is_source(text: str) -> bool:
    """Whether a text names runs of a tracker (`wandb:ENTITY/PROJECT`), and no file."""
    return text.partition(":")[0] in KINDS and ":" in text


def read_runs(
    source: str,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    *,
    eval: str | None = None,
    losses: Mapping[str, str] | None = None,
    join: str | os.PathLike[str] | None = None,
    constants: Mapping[str, Any] | None = None,
    tokens_per_step: float | None = None,
    trust_units: bool = False,
    per_byte: bool = False,
) -> pd.DataFrame:
    """Reads and checks the runs of a tracker as a runs table.

    Args:
      source: `wandb:ENTITY/PROJECT` (the extra wandb), `tensorboard:FOLDER` (a folder of runs, each a folder with event
        files; the package tensorboard), or `lm-eval:FOLDER` (results*.json, a run a file).
      columns, where, eval, losses, join, constants, tokens_per_step, trust_units, per_byte: as of `read`; headers are
        the names of metrics and of the configuration's fields (`model.layers`).

    Raises:
      TableError: there are no such runs, or what they hold is no runs table.
    """
    columns, losses = dict(columns or {}), dict(losses or {})
    kind, _, place = source.partition(":")
    tokens = headers.clean(columns.get("tokens", "tokens"))
    if kind not in KINDS or not place:
        raise TableError(f"{source}: write wandb:ENTITY/PROJECT, tensorboard:FOLDER or lm-eval:FOLDER")
    if kind == "wandb":
        frame, notes = _wandb(source, place, [*columns.values(), *losses.values(), "tokens"], tokens)
    else:
        folder = local(place, source)
        if not folder.exists():
            raise TableError(f"{source}: no such folder")
        read = functools.partial(_tensorboard, tokens=tokens) if kind == "tensorboard" else _harness
        frame, notes = read(source, folder)
    loss = headers.clean(columns.get("loss", "loss"))
    if loss in frame and not losses:  # steps at which only other metrics were logged
        frame = frame[frame[loss].notna()].reset_index(drop=True)
    if frame.empty:
        raise TableError(f"{source}: no runs with metrics in it")
    run = frame["run"].tolist()
    loaded = Loaded(frame, lambda row: f"run {run[row]}", notes)
    return reading.assembled(
        loaded, source, columns=columns, where=where, eval=eval, losses=losses, constants=constants,
        tokens_per_step=tokens_per_step, trust_units=trust_units, join=join, per_byte=per_byte,
        other=reading.joined(join, columns, losses),
    )  # fmt: skip


# Weights & Biases.


def _wandb(source: str, place: str, wanted: list[str], tokens: str) -> tuple[pd.DataFrame, list[str]]:
    """The history of the metrics that are asked for, of each run; a run without one has its summary as one row."""
    try:
        import wandb
    except ImportError:
        raise TableError(f"{source}: wandb is not installed; pip install 'cptlaw[wandb]'") from None
    if place.count("/") != 1:
        raise TableError(f"{source}: write wandb:ENTITY/PROJECT")
    try:
        found = [_wandb_run(run, wanted, tokens) for run in wandb.Api().runs(place)]
    except (wandb.errors.Error, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise TableError(
            f"{source}: {said[0]}. Is the project's name right, and are you logged in (wandb login)?"
        ) from None
    names = [name for name, *_ in found]
    frames = []
    for (name, id, about, rows), again in zip(found, (names.count(name) > 1 for name in names)):
        label = f"{name}-{id}" if again else name
        rows = rows.drop(columns=[column for column in about if column in rows])
        frames.append(rows.assign(run=label, **about))
    if not frames:
        return pd.DataFrame(), []
    frame = pd.concat(frames, ignore_index=True)
    return frame, [f"{len(frames)} runs, with the history of what --loss and --columns name"]


def _wandb_run(run: Any, wanted: list[str], tokens: str) -> tuple[str, str, dict[str, Any], pd.DataFrame]:
    """(name, id, configuration and status, rows) of a run."""
    about = {k: v for k, v in _flat(dict(run.config)).items() if k not in _OURS} | {"status": run.state}
    summary = {k: v for k, v in _flat(dict(run.summary)).items() if isinstance(v, (int, float)) and k[:1] != "_"}
    like = headers.Wanted(wanted)
    metrics = [name for name in summary if name in like and name not in about]
    series = []
    for name in metrics:  # of several keys at once, only rows that hold all of them would come
        rows = [
            (row["_step"], row[name]) for row in run.scan_history(keys=["_step", name]) if row.get(name) is not None
        ]
        series.append(pd.Series(dict(rows), name=name, dtype=object))
    history = _by_step([one for one in series if len(one)], "_step", tokens)
    if history.empty:
        history = pd.DataFrame([{**summary, "_step": dict(run.summary).get("_step")}])
    return str(run.name or run.id), str(run.id), about, history


# TensorBoard.


def _tensorboard(source: str, folder: Path, tokens: str) -> tuple[pd.DataFrame, list[str]]:
    """The scalars of each folder that holds event files, by step, and its hyperparameters."""
    if "tensorflow" not in sys.modules:
        # A module of this name keeps TensorBoard from loading TensorFlow, which would cost seconds.
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        raise TableError(f"{source}: tensorboard is not installed; pip install tensorboard") from None
    folders = sorted({path.parent for path in folder.rglob("*tfevents*") if path.is_file()})
    if not folders:
        raise TableError(f"{source}: no event files (events.out.tfevents...) in it or below it")
    frames = []
    for place in folders:
        events = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0})
        events.Reload()
        frame = _by_step(_scalars(events), "step", tokens)
        if not frame.empty:
            frames.append(frame.assign(run=_run_name(place, folder), **_hyperparameters(events)))
    return (pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()), [f"{len(frames)} runs of TensorBoard"]


def _run_name(place: Path, folder: Path) -> str:
    """The run's folder below the one that is read; a last folder that is only the writer's name is no part of it."""
    parts = place.relative_to(folder).parts
    parts = parts[:-1] if parts[-1:] == ("tensorboard",) else parts
    return "/".join(parts) or folder.resolve().name


def _scalars(events: Any) -> list[pd.Series]:
    """Each metric's values by step. torch writes scalars, TensorFlow 2 tensors of one value."""
    from tensorboard.util import tensor_util

    tags = events.Tags()
    found = [(tag, {e.step: e.value for e in events.Scalars(tag)}) for tag in tags["scalars"]]
    for tag in tags["tensors"]:
        values = {e.step: tensor_util.make_ndarray(e.tensor_proto) for e in events.Tensors(tag)}
        if all(value.size == 1 and value.dtype.kind in "iuf" for value in values.values()):
            found.append((tag, {step: float(value.reshape(())) for step, value in values.items()}))
    return [pd.Series(values, name=tag, dtype=float) for tag, values in found]


def _hyperparameters(events: Any) -> dict[str, Any]:
    """What the hparams plugin was told of a run."""
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    try:
        content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    except KeyError:
        return {}
    fields = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    values = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in fields.items() if value.WhichOneof("kind")
    }
    plain = {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}
    return {name: value for name, value in plain.items() if name not in _OURS}


# lm-evaluation-harness.


def _harness(source: str, folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """A row a task of each results file, whose loss is the metric of the task that measures likelihood."""
    files = sorted(folder.rglob("*.json")) if folder.is_dir() else [folder]
    rows, units, left_out = [], {}, set()
    for path in files:
        try:
            data = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise TableError(f"{path}: not JSON: {str(error)[:100]}") from None
        if not isinstance(data, dict) or not isinstance(data.get("results"), dict):
            continue
        config = data["config"] if isinstance(data.get("config"), dict) else {}
        about = {k: v for k, v in _flat({"config": config}).items() if isinstance(v, (int, float, str))}
        run = str(data.get("model_name") or path.relative_to(folder) if folder.is_dir() else path.name)
        for task, metrics in data["results"].items():
            told = _likelihood(metrics if isinstance(metrics, dict) else {})
            if told is None:
                left_out.add(str(task))
                continue
            loss, se, unit = told
            units[unit] = unit
            row = {"run": run, "eval": str(task), "loss": loss, "loss_se": se, "file": str(path), **about}
            if isinstance(size := config.get("model_num_parameters"), (int, float)) and size > 0:
                row["params"] = float(size)
            rows.append(row)
    if not rows:
        raise TableError(
            f"{source}: no results of lm-evaluation-harness with {', '.join(_HARNESS)}; a task must measure "
            f"likelihood, as wikitext, c4 and paloma do"
            + (f" ({', '.join(sorted(left_out)[:5])} do not)" if left_out else "")
        )
    notes = [f"losses of lm-evaluation-harness, in {' and '.join(units)}: never compare them with losses per token"]
    if left_out:
        notes.append(f"tasks without a likelihood are left out: {', '.join(sorted(left_out)[:8])}")
    frame = pd.DataFrame(rows)
    return (frame if frame["loss_se"].notna().any() else frame.drop(columns="loss_se")), notes


def _likelihood(metrics: Mapping[str, Any]) -> tuple[float, float | None, str] | None:
    """(loss, its standard error, unit) of a task's metrics, whose names may end with a filter's (`,none`)."""
    for name, (loss, unit) in _HARNESS.items():
        for key, value in metrics.items():
            if key.split(",")[0] == name and isinstance(value, (int, float)) and value > 0:
                spread = metrics.get(key.replace(name, f"{name}_stderr", 1))
                known = name == "bits_per_byte" and isinstance(spread, (int, float))
                return loss(value), (loss(spread) if known else None), unit
    return None


# What they have in common.


def _by_step(series: Iterable[pd.Series], step: str, tokens: str) -> pd.DataFrame:
    """Metrics side by side, a row a step, in the column `step`. Where `tokens` were logged at other steps than a loss,
    its row has the last count before it."""
    series = list(series)
    if not series:
        return pd.DataFrame()
    frame = pd.concat(series, axis=1).sort_index().infer_objects()
    if tokens in frame:
        frame[tokens] = frame[tokens].ffill()
    frame.index.name = step
    return frame.drop(columns=step, errors="ignore").reset_index()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `outer.inner`, plain values only."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, (bool, int, float, str)):
            found[f"{prefix}{name}"] = value
    return found
