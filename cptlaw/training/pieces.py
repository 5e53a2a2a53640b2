"""Checkpoints in a bucket: every process writes the pieces of arrays that its devices hold, and an index of them.

Orbax has no S3, and needs TensorFlow or gcsfs for Google's buckets. This needs whole objects alone, which
`storage.versions` keeps, so any storage that has them will do, and a process that has lost its claim does no harm.
Pieces are read by ranges, by any number of devices, whatever number wrote them.
"""

import hashlib
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cptlaw.errors import UserError
from cptlaw.models.tree import path_name
from cptlaw.storage.bucket import StorageError
from cptlaw.storage.versions import Versions

Slices = tuple[tuple[int, int], ...]  # [begin, end) along every axis


class Damaged(Exception):
    """What was written cannot be read back."""


class Pieces:
    """Writes and reads checkpoints of a run; writes in a thread, one at a time.

    A checkpoint is items (name -> tree of arrays) and the run's `memory`.
    """

    def __init__(self, versions: Versions, recent: int = 2, keep: Collection[int] = ()):
        self._versions, self._recent, self._keep = versions, recent, frozenset(keep)
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None

    def __str__(self) -> str:
        return str(self._versions)

    def where(self, step: int) -> str:
        return self._versions.where(step)

    def steps(self) -> list[int]:
        self.wait()
        return self._versions.steps()

    def save(self, step: int, items: Mapping[str, Any], memory: Sequence[float]) -> None:
        """Starts writing; returns once the arrays may be donated. Raises what the writing before has failed of."""
        self.wait()
        index, arrays = _own(items)
        self._thread = threading.Thread(target=self._write, args=(step, index, arrays, list(memory)))
        self._thread.start()

    def wait(self) -> None:
        """Returns when everything is written. Raises what the writing has failed of."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def close(self) -> None:
        self.wait()

    def _write(self, step: int, index: list[dict[str, Any]], arrays: list[np.ndarray], memory: list[float]) -> None:
        try:
            for piece, array in zip(index, arrays):
                piece["sha256"] = hashlib.sha256(array.tobytes()).hexdigest()
            self._versions.write(step, jax.process_index(), {"pieces": index}, _parts(arrays))
            if jax.process_index() == 0:
                self._versions.commit(step, jax.process_count(), {"memory": memory})
                self._versions.delete(set(self._versions.steps()[: -self._recent]) - self._keep)
        except BaseException as error:
            self._failed = error

    def delete(self, step: int) -> None:
        if jax.process_index() == 0:
            self._versions.delete([step])

    def memory(self, step: int) -> list[float]:
        """The memory that was saved with a checkpoint."""
        try:
            return list(self._versions.facts(step)["memory"])
        except StorageError:
            raise
        except (FileNotFoundError, UserError, KeyError) as error:
            raise Damaged(f"memory: {error}") from None

    def shapes(self, step: int, name: str) -> dict[str, tuple[int, ...]]:
        """Array -> shape, of an item. Raises Damaged."""
        return {piece["array"]: tuple(piece["shape"]) for _, piece in self._index(step) if piece["item"] == name}

    def read(self, step: int, items: Mapping[str, Any]) -> dict[str, Any]:
        """Items of a checkpoint, placed as the trees of `items` say. Raises Damaged."""
        found: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
        for process, piece in self._index(step):
            found.setdefault((piece["item"], piece["array"]), []).append((process, piece))
        return {
            name: jax.tree_util.tree_map_with_path(
                lambda path, want, name=name: self._array(step, want, found.get((name, path_name(path)), [])), tree
            )
            for name, tree in items.items()
        }

    def _array(self, step: int, want: Any, pieces: list[tuple[int, dict[str, Any]]]) -> jax.Array:
        read: dict[tuple[int, int], np.ndarray] = {}  # what devices of this process have in common is fetched once

        def block(index: Any) -> np.ndarray:
            wanted = _slices(index, want.shape)
            values, left = np.empty([end - begin for begin, end in wanted], want.dtype), _size(wanted)
            for process, piece in pieces:
                held: Slices = tuple((begin, end) for begin, end in piece["slices"])
                common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(held, wanted))
                if any(begin >= end for begin, end in common):
                    continue
                key = (process, piece["begin"])
                if key not in read:
                    read[key] = self._piece(step, process, piece)
                values[_within(common, wanted)] = read[key][_within(common, held)]
                left -= _size(common)
            if left:
                raise Damaged(f"{left} values of an array are missing")
            return values

        return jax.make_array_from_callback(want.shape, want.sharding, block)

    def _piece(self, step: int, process: int, piece: Mapping[str, Any]) -> np.ndarray:
        begin, shape = piece["begin"], [end - begin for begin, end in piece["slices"]]
        dtype = jax.numpy.dtype(piece["dtype"])
        try:
            (data,) = self._versions.read(step, process, [(begin, begin + piece["bytes"])])
        except FileNotFoundError as error:
            raise Damaged(f"{type(error).__name__}: {error}") from None
        if hashlib.sha256(data).hexdigest() != piece["sha256"]:
            raise Damaged(f"wrong checksum of {piece['array']}")
        return np.frombuffer(data, dtype).reshape(shape)

    def _index(self, step: int) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            for process in range(self._versions.facts(step)["processes"]):
                for piece in self._versions.index(step, process)["pieces"]:
                    yield process, piece
        except StorageError:
            raise
        except (FileNotFoundError, UserError, KeyError) as error:
            raise Damaged(f"{type(error).__name__}: {error}") from None


def _own(items: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Where every piece that this process writes will lie, and the pieces, copied off the devices.

    Of what several devices hold, the first writes.
    """
    index, arrays, begin = [], [], 0
    for name, tree in items.items():
        for path, array in jax.tree_util.tree_leaves_with_path(tree):
            for shard in array.addressable_shards:
                if shard.replica_id:
                    continue
                data = np.array(shard.data)  # a copy: on a CPU the device's own memory is seen, which may be donated
                arrays.append(data)
                index.append(
                    {
                        "item": name,
                        "array": path_name(path),
                        "shape": array.shape,
                        "dtype": str(array.dtype),
                        "slices": _slices(shard.index, array.shape),
                        "begin": begin,
                        "bytes": data.nbytes,
                    }
                )
                begin += data.nbytes
    return index, arrays


def _parts(arrays: list[np.ndarray], size: int = 16 << 20) -> Iterator[bytes]:
    for array in arrays:
        flat = memoryview(array.tobytes())
        for begin in range(0, len(flat), size):
            yield bytes(flat[begin : begin + size])


def _slices(index: tuple[slice, ...], shape: Sequence[int]) -> Slices:
    return tuple(part.indices(length)[:2] for part, length in zip(index, shape))


def _size(slices: Slices) -> int:
    return int(np.prod([end - begin for begin, end in slices], dtype=np.int64))


def _within(part: Slices, whole: Slices) -> tuple[slice, ...]:
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(part, whole))
