"""Checkpoints of a run, in a directory (by Orbax) or in a bucket (by `pieces`).

A checkpoint is whole or absent and is written while training goes on. It has two items: `params`, which other runs
start from, and `training`, the optimizer's state and the step. With `Optimizer.ema` a third is the `average` of the
parameters. With a spike rule it has a `memory`: what the guard of the run remembers.
"""

import os
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from cptlaw.errors import UserError
from cptlaw.models.transformer import Params
from cptlaw.models.tree import differences, path_name, shapes
from cptlaw.paths import local
from cptlaw.storage.versions import Versions
from cptlaw.training import orbax_directory
from cptlaw.training.orbax_directory import UnreadableError as UnreadableError
from cptlaw.training.pieces import Damaged, Pieces
from cptlaw.training.step import State

# Where the checkpoints of a run are: a directory, or a place in a bucket.
Place = str | os.PathLike[str] | Versions


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another model."""


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
        directory: Place,
        *,
        recent: int = 2,
        keep: Collection[int] = (),
        seconds: float | None = 60.0,
    ):
        """Keeps the `recent` last checkpoints and those of the steps in `keep`."""
        self.seconds = seconds
        self.keep = frozenset(keep)
        self.memory: list[float] = []
        self._saved, self._took = time.monotonic(), 0.0
        self._kept = _kept(directory, recent, self.keep)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

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
        if step in self._kept.steps():
            return
        begin = time.monotonic()
        self._kept.save(step, _items(state), memory)
        self._saved = time.monotonic()
        self._took = self._saved - begin

    def restore(self, abstract: State) -> tuple[int, State] | None:
        """(step, state) of the newest sound checkpoint, placed as `abstract` says; None when there is none.

        A damaged checkpoint is removed with a CheckpointWarning, and the one before is taken. Raises CheckpointError
        when all are damaged, or when one is of another model or optimizer; UnreadableError when storage fails.
        """
        self._kept.wait()
        steps = sorted(self._kept.steps(), reverse=True)
        damaged = {}
        for step in steps:
            try:
                memory = self._kept.memory(step)
                items = _read(self._kept, step, _items(abstract))
            except Damaged as error:
                damaged[step] = str(error)
                continue
            for bad, reason in damaged.items():
                self._kept.delete(bad)
                warnings.warn(
                    f"{self._kept}: the checkpoint of step {bad} is damaged ({reason}) and was removed; "
                    f"continuing from step {step}",
                    CheckpointWarning,
                    stacklevel=2,
                )
            self.memory = memory
            return step, _state(items, abstract)
        if damaged:
            raise CheckpointError(
                f"{self._kept}: every checkpoint is damaged ({damaged[steps[0]]}); delete them to start over"
            )
        return None


def saved_steps(directory: Place) -> list[int]:
    """The steps that a run's checkpoints are of, in order."""
    if isinstance(directory, Versions):
        return directory.steps()
    return orbax_directory.steps(local(directory).absolute())


def load_params(directory: Place, abstract: Params, step: int | None = None, item: str = "params") -> Params:
    """The parameters in another run's checkpoint: its newest, or the one of `step`.

    Args:
      directory: where the run's checkpoints are.
      abstract: shapes, dtypes and shardings wanted (`make_start(...)[1].params`).
      step: which checkpoint.
      item: params; or average, that of the parameters, which runs with `Optimizer.ema` have.

    Raises CheckpointError when there is no such checkpoint, it is damaged, or it is of another model; UnreadableError
    when storage fails.
    """
    return _load(directory, {item: abstract}, step)[item]


def load_state(directory: Place, abstract: State, step: int | None = None) -> State:
    """Parameters, optimizer state and step in another run's checkpoint; otherwise as `load_params`."""
    return _state(_load(directory, _items(abstract), step), abstract)


def _load(directory: Place, abstract: dict[str, Any], step: int | None) -> dict[str, Any]:
    if not isinstance(directory, Versions):
        directory = local(directory).absolute()
        if not directory.is_dir():
            raise CheckpointError(f"{directory}: no such directory; name the checkpoint directory of a finished run")
    steps = saved_steps(directory)
    if not steps or (step is not None and step not in steps):
        raise CheckpointError(f"{directory}: no checkpoint of step {step or 'any'}; it has {steps or 'none'}")
    step = steps[-1] if step is None else step
    kept = Pieces(directory) if isinstance(directory, Versions) else orbax_directory.Reader(directory)
    try:
        return _read(kept, step, abstract)
    except Damaged as error:
        raise CheckpointError(f"{directory}: the checkpoint of step {step} is damaged: {error}") from error


def _kept(directory: Place, recent: int, keep: Collection[int]) -> "Pieces | orbax_directory.Directory":
    if isinstance(directory, Versions):
        return Pieces(directory, recent, keep)
    return orbax_directory.Directory(local(directory).absolute(), recent, keep)


def _read(kept: "Pieces | orbax_directory.Reader", step: int, items: dict[str, Any]) -> dict[str, Any]:
    """Some items of a checkpoint, compared with what is wanted before they are read."""
    for name, tree in items.items():
        check_same(f"{kept.where(step)}, {name}", tree, kept.shapes(step, name))
    return kept.read(step, items)


def _items(state: State) -> dict[str, Any]:
    # A flat dictionary, so that what is stored has names (optimizer/1/mu/embed) and none of optax's classes.
    rest = jax.tree_util.tree_leaves_with_path({"step": state.step, "optimizer": state.optimizer})
    items = {"params": state.params, "training": {path_name(path): leaf for path, leaf in rest}}
    return items if state.average is None else {**items, "average": state.average}


def _state(items: dict[str, Any], abstract: State) -> State:
    training = items["training"]
    moments = jax.tree_util.tree_map_with_path(
        lambda path, _: training[f"optimizer/{path_name(path)}"], abstract.optimizer
    )
    return State(step=training["step"], params=items["params"], optimizer=moments, average=items.get("average"))


def check_same(where: str, wanted: Any, stored: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError naming every array that is missing, unknown or of another shape.

    `wanted` is a tree of arrays, `stored` the shapes by name (`tree.shapes`).
    """
    if wrong := differences(shapes(wanted), stored, "is not in this model"):
        raise CheckpointError(
            f"{where}: of another model or optimizer: {'; '.join(wrong)}. Use its config, or another directory"
        )
