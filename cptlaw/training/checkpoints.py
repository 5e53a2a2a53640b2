"""Checkpoints: the only file that knows Orbax.

A checkpoint is whole or absent (Orbax renames it when all is written) and is written while training goes on. Each
has three items: `params`, which other runs start from; `training`, the optimizer's state and the step; and
`checksums`, because the array format does not notice a flipped bit. With a spike rule there is a fourth, `memory`: what
the guard of the run remembers.
"""

import contextlib
import os
import re
import time
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from cptlaw import records
from cptlaw.errors import UserError
from cptlaw.models.transformer import Params
from cptlaw.models.tree import differences, path_name
from cptlaw.paths import local
from cptlaw.training.step import State


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another model."""


class UnreadableError(UserError):
    """Storage does not give a checkpoint back, which says nothing about whether it is sound."""


class CheckpointWarning(UserWarning):
    """A damaged checkpoint was passed over."""


class Checkpoints:
    """The checkpoints of one run, to be used as a context manager.

    Attributes:
      seconds: how much work a crash may cost; None, all of it.
      keep: steps after which to save whatever the time, and whose checkpoints stay.
      memory: that of the checkpoint that was restored; empty for none, and for one that was saved without.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        recent: int = 2,
        keep: Collection[int] = (),
        seconds: float | None = 60.0,
    ):
        """Keeps the `recent` last checkpoints and those of the steps in `keep`."""
        self.directory = local(directory).absolute()
        self.seconds = seconds
        self.keep = frozenset(keep)
        self.memory: list[float] = []
        self._saved, self._took = time.monotonic(), 0.0
        policy = managers.AnyPreservationPolicy([managers.LatestN(recent), managers.CustomSteps(sorted(self.keep))])
        self._manager = ocp.CheckpointManager(
            self.directory, options=ocp.CheckpointManagerOptions(preservation_policy=policy)
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def due(self, among: int = 1) -> bool:
        """Whether the time to save has come.

        On a slow disk it comes later, so that training waits for saves a tenth of its time at most, also when it waits
        for those of this run `among` several; at 0 `seconds`, always.
        """
        if self.seconds is None:
            return False
        wait = max(self.seconds, 9 * among * self._took) if self.seconds else 0.0
        return time.monotonic() - self._saved >= wait

    def save(self, step: int, state: State, memory: Sequence[float] = ()) -> None:
        """Starts writing; returns once the state may be donated. A step that is saved already is left alone.

        `memory` is what the guard of the run remembers (`Guard.memory`).
        """
        if step in self._manager.all_steps():
            return
        begin = time.monotonic()
        items = _items(state)
        items["checksums"] = {name: _checksums(tree) for name, tree in items.items()}
        arguments: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        if memory:
            arguments["memory"] = ocp.args.JsonSave(records.sealed({"losses": list(memory)}))
        self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)
        self._saved = time.monotonic()
        self._took = self._saved - begin

    def restore(self, abstract: State) -> tuple[int, State] | None:
        """(step, state) of the newest sound checkpoint, placed as `abstract` says; None when there is none.

        A damaged checkpoint is removed with a CheckpointWarning, and the one before is taken. Raises CheckpointError
        when all are damaged, or when one is of another model or optimizer; UnreadableError when storage fails.
        """
        self._manager.wait_until_finished()
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged = {}
        for step in steps:
            try:
                _memory(self.directory / str(step))
                items = _read(self.directory / str(step), _items(abstract))
            except _Damaged as error:
                damaged[step] = str(error)
                continue
            for bad, reason in damaged.items():
                self._manager.delete(bad)
                warnings.warn(
                    f"{self.directory}: the checkpoint of step {bad} is damaged ({reason}) and was removed; "
                    f"continuing from step {step}",
                    CheckpointWarning,
                    stacklevel=2,
                )
            self.memory = _memory(self.directory / str(step))
            return step, _state(items, abstract)
        if damaged:
            raise CheckpointError(
                f"{self.directory}: every checkpoint is damaged ({damaged[steps[0]]}); delete them to start over"
            )
        return None


def saved_steps(directory: str | os.PathLike[str]) -> list[int]:
    """The steps that a run's checkpoints are of, in order."""
    directory = local(directory).absolute()
    if not directory.is_dir():
        return []
    options = ocp.CheckpointManagerOptions(create=False)
    with contextlib.closing(ocp.CheckpointManager(directory, options=options)) as manager:
        return sorted(manager.all_steps())


def load_params(directory: str | os.PathLike[str], abstract: Params, step: int | None = None) -> Params:
    """The parameters in another run's checkpoint: its newest, or the one of `step`.

    Args:
      directory: the run's checkpoint directory.
      abstract: shapes, dtypes and shardings wanted (`make_start(...)[1].params`).
      step: which checkpoint.

    Raises CheckpointError when there is no such checkpoint, it is damaged, or it is of another model; UnreadableError
    when storage fails.
    """
    return _load(directory, {"params": abstract}, step)["params"]


def load_state(directory: str | os.PathLike[str], abstract: State, step: int | None = None) -> State:
    """Parameters, optimizer state and step in another run's checkpoint; otherwise as `load_params`."""
    return _state(_load(directory, _items(abstract), step), abstract)


def _load(directory: str | os.PathLike[str], abstract: dict[str, Any], step: int | None) -> dict[str, Any]:
    directory = local(directory).absolute()
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory; name the checkpoint directory of a finished run")
    steps = saved_steps(directory)
    if not steps or (step is not None and step not in steps):
        raise CheckpointError(f"{directory}: no checkpoint of step {step or 'any'}; it has {steps or 'none'}")
    step = steps[-1] if step is None else step
    try:
        return _read(directory / str(step), abstract)
    except _Damaged as error:
        raise CheckpointError(f"{directory}: the checkpoint of step {step} is damaged: {error}") from error


class _Damaged(Exception):
    """What was written cannot be read back."""


def _memory(checkpoint: Path) -> list[float]:
    """The memory that was saved with a checkpoint, as it was saved."""
    path = checkpoint / "memory" / "metadata"
    try:
        found = records.read(path, {"losses": list}, "")
    except UserError as error:
        raise _Damaged(f"memory: {error}") from None
    return [] if found is None else found["losses"]


def _items(state: State) -> dict[str, Any]:
    # A flat dictionary, so that what is stored has names (optimizer/1/mu/embed) and none of optax's classes.
    rest = jax.tree_util.tree_leaves_with_path({"step": state.step, "optimizer": state.optimizer})
    return {"params": state.params, "training": {path_name(path): leaf for path, leaf in rest}}


def _state(items: dict[str, Any], abstract: State) -> State:
    training = items["training"]
    moments = jax.tree_util.tree_map_with_path(
        lambda path, _: training[f"optimizer/{path_name(path)}"], abstract.optimizer
    )
    return State(step=training["step"], params=items["params"], optimizer=moments)


def _read(checkpoint: Path, abstract: dict[str, Any]) -> dict[str, Any]:
    """Some items of a checkpoint, compared with what is wanted before and with their checksums after."""
    wanted = dict(abstract)
    handler = ocp.StandardCheckpointHandler()
    with contextlib.closing(ocp.Checkpointer(handler)) as reader:
        try:
            stored = {name: handler.metadata(checkpoint / name) for name in (*abstract, "checksums")}
        except Exception as error:
            raise _why_unread(checkpoint, error) from error
        for name, tree in abstract.items():
            check_same(f"{checkpoint}, {name}", tree, stored[name])
        # Placed, because without a sharding Orbax looks for the devices that saved it.
        everywhere = jax.NamedSharding(jax.tree.leaves(abstract)[0].sharding.mesh, jax.P())
        wanted["checksums"] = {
            name: jax.ShapeDtypeStruct(meta.shape, meta.dtype, sharding=everywhere)
            for name, meta in stored["checksums"].items()
        }
        try:
            items = {
                name: reader.restore(checkpoint / name, args=ocp.args.StandardRestore(tree))
                for name, tree in wanted.items()
            }
        except (jax.errors.JaxRuntimeError, MemoryError):
            raise  # this machine failed, which says nothing about the checkpoint
        except Exception as error:
            raise _why_unread(checkpoint, error) from error
    for name in abstract:
        differ = np.flatnonzero(np.asarray(items["checksums"][name]) != np.asarray(_checksums(items[name])))
        if differ.size:
            paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(items[name])]
            raise _Damaged("wrong checksum of " + ", ".join(paths[i] for i in differ))
    return items


def check_same(where: str, wanted: Any, stored: Any) -> None:
    """Raises CheckpointError naming every array that is missing, unknown or of another shape."""
    want = {path_name(path): tuple(x.shape) for path, x in jax.tree_util.tree_leaves_with_path(wanted)}
    have = {path_name(path): tuple(x.shape) for path, x in jax.tree_util.tree_leaves_with_path(stored)}
    if wrong := differences(want, have, "is not in this model"):
        raise CheckpointError(
            f"{where}: of another model or optimizer: {'; '.join(wrong)}. Use its config, or another directory"
        )


# What TensorStore's messages begin with when storage did not answer (absl's status codes); Orbax has no class for it.
_STORAGE = re.compile(
    "PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|ABORTED|CANCELLED|UNKNOWN"
)


def _why_unread(checkpoint: Path, error: Exception) -> Exception:
    """What to raise for a checkpoint that could not be read: that it is damaged, or that storage does not answer."""
    absent = isinstance(error, FileNotFoundError | NotADirectoryError)
    if _STORAGE.match(str(error)) or (isinstance(error, OSError) and not absent):
        return UnreadableError(
            f"{checkpoint}: cannot be read now ({_first_line(error)}); nothing was removed; mend the storage and "
            "train the run again (--retry-failed)"
        )
    return _Damaged(_first_line(error))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


@jax.jit
def _checksums(tree: Any) -> jax.Array:
    """A uint32 for every array: its words, each times an odd weight by place, summed modulo 2^32.

    Integer sums do not depend on order, so neither do checksums on sharding; any single changed word changes them.
    """

    def checksum(x: jax.Array) -> jax.Array:
        kind = {2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
        words = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
        at = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):  # arange over the flat array would gather it whole on every device
            at = at * size + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        return (words * (2 * at + 1)).sum(dtype=jnp.uint32)

    return jnp.stack([checksum(x) for x in jax.tree.leaves(tree)])
