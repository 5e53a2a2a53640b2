"""Checkpoints in a directory: the only file that knows Orbax, which renames a checkpoint when all of it is written.

Beside its items a checkpoint has `checksums`, because the array format does not notice a flipped bit, and perhaps the
`memory` of the run.
"""

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from cptlaw import records
from cptlaw.errors import UserError
from cptlaw.models.tree import path_name, shapes
from cptlaw.training.pieces import Damaged


class UnreadableError(UserError):
    """Storage does not give a checkpoint back, which says nothing about whether it is sound."""


def steps(directory: Path) -> list[int]:
    """The steps of the whole checkpoints in a directory, in order."""
    if not directory.is_dir():
        return []
    options = ocp.CheckpointManagerOptions(create=False)
    with contextlib.closing(ocp.CheckpointManager(directory, options=options)) as manager:
        return sorted(manager.all_steps())


class Reader:
    """Reads the checkpoints of a directory."""

    def __init__(self, directory: Path):
        self.directory = directory

    def __str__(self) -> str:
        return str(self.directory)

    def where(self, step: int) -> str:
        return str(self.directory / str(step))

    def memory(self, step: int) -> list[float]:
        """The memory that was saved with a checkpoint. Raises Damaged."""
        try:
            found = records.read(self.directory / str(step) / "memory" / "metadata", {"losses": list}, "")
        except UserError as error:
            raise Damaged(f"memory: {error}") from None
        return [] if found is None else found["losses"]

    def shapes(self, step: int, name: str) -> dict[str, tuple[int, ...]]:
        """Array -> shape, of an item; none of one that was not saved. Raises Damaged, or UnreadableError when storage
        fails."""
        if not (self.directory / str(step) / name).exists() and name not in self._stored(step, "checksums"):
            return {}
        return shapes(self._stored(step, name))

    def read(self, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
        """Items of a checkpoint, placed as the trees of `items` say and compared with their checksums.

        Raises Damaged, or UnreadableError when storage fails.
        """
        # Placed, because without a sharding Orbax looks for the devices that saved it.
        everywhere = jax.NamedSharding(jax.tree.leaves(dict(items))[0].sharding.mesh, jax.P())
        checksums = {
            name: jax.ShapeDtypeStruct(meta.shape, meta.dtype, sharding=everywhere)
            for name, meta in self._stored(step, "checksums").items()
        }
        with contextlib.closing(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as reader:
            try:
                found = {
                    name: reader.restore(self.directory / str(step) / name, args=ocp.args.StandardRestore(tree))
                    for name, tree in {**items, "checksums": checksums}.items()
                }
            except (jax.errors.JaxRuntimeError, MemoryError):
                raise  # this machine failed, which says nothing about the checkpoint
            except Exception as error:
                raise _why_unread(self.where(step), error) from error
        for name in items:
            differ = np.flatnonzero(np.asarray(found["checksums"][name]) != np.asarray(_checksums(found[name])))
            if differ.size:
                paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(found[name])]
                raise Damaged("wrong checksum of " + ", ".join(paths[i] for i in differ))
        return {name: found[name] for name in items}

    def _stored(self, step: int, name: str) -> Any:
        handler = ocp.StandardCheckpointHandler()
        with contextlib.closing(ocp.Checkpointer(handler)):
            try:
                return handler.metadata(self.directory / str(step) / name)
            except Exception as error:
                raise _why_unread(self.where(step), error) from error


class Directory(Reader):
    """Writes the checkpoints of a run as well."""

    def __init__(self, directory: Path, recent: int, keep: Collection[int]):
        """Keeps the `recent` last checkpoints and those of the steps in `keep`."""
        super().__init__(directory)
        policy = managers.AnyPreservationPolicy([managers.LatestN(recent), managers.CustomSteps(sorted(keep))])
        options = ocp.CheckpointManagerOptions(preservation_policy=policy)
        self._manager = ocp.CheckpointManager(directory, options=options)

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, items: Mapping[str, Any], memory: Sequence[float]) -> None:
        """Starts writing; returns once the arrays may be donated."""
        checksums = {name: _checksums(tree) for name, tree in items.items()}
        trees = {**items, "checksums": checksums}
        arguments: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        if memory:
            arguments["memory"] = ocp.args.JsonSave(records.sealed({"losses": list(memory)}))
        self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)

    def delete(self, step: int) -> None:
        self._manager.delete(step)

    def wait(self) -> None:
        """Returns when everything is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


# What TensorStore's messages begin with when storage did not answer (absl's status codes); Orbax has no class for it.
_STORAGE = re.compile(
    "PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED|ABORTED|CANCELLED|UNKNOWN"
)


def _why_unread(checkpoint: str, error: Exception) -> Exception:
    """What to raise for a checkpoint that could not be read: that it is damaged, or that storage does not answer."""
    absent = isinstance(error, FileNotFoundError | NotADirectoryError)
    if _STORAGE.match(str(error)) or (isinstance(error, OSError) and not absent):
        return UnreadableError(
            f"{checkpoint}: cannot be read now ({_first_line(error)}); nothing was removed; mend the storage and "
            "train the run again (--retry-failed)"
        )
    return Damaged(_first_line(error))


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
