"""Which device holds what: ordered (path regex -> mesh axes) rules over a mesh (data, fsdp, tensor)."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from cptlaw.errors import UserError
from cptlaw.models.tree import path_name

AXES = ("data", "fsdp", "tensor")
Spec = tuple[str | None, ...]

# For the parameter tree of models.transformer. An axis of size 1 splits nothing, so the same rules serve pure data
# parallelism. A tensor axis splits heads, the feed-forward width and the vocabulary; fsdp splits the model width.
RULES: tuple[tuple[str, Spec], ...] = (
    (r"(^|/)(un)?embed$", ("tensor", "fsdp")),
    (r"attention/[qkv]$", (None, "fsdp", "tensor")),
    (r"attention/[qkv]_bias$", (None, "tensor")),
    (r"attention/o$", (None, "tensor", None, None, "fsdp")),
    (r"mlp/(gate|up)$", (None, "fsdp", "tensor")),
    (r"mlp/(gate|up)_bias$", (None, "tensor")),
    (r"mlp/down$", (None, "tensor", "fsdp")),
    (r"(norm|(norm|o|down)_bias)$", ()),
    (r"/ns_coeffs$", ()),  # three numbers in Muon's state
)


class ShardingError(UserError):
    """A mesh that does not fit the devices, or a parameter that the rules do not place."""


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """A mesh over all devices of all processes, or over those given; one size may be -1, "the rest".

    On a TPU its axes follow the slice's wires, on GPUs the order of processes: the last axes stay within a node.
    """
    sizes = mesh_sizes(jax.device_count() if devices is None else len(devices), data, fsdp, tensor)
    devices = jax.devices() if devices is None else devices
    if devices[0].platform == "tpu" and len({getattr(d, "slice_index", 0) for d in devices}) > 1:
        raise ShardingError("the devices are of several TPU slices; a run takes one slice")
    # Not jax.make_mesh: from JAX 0.11 on it takes the nodes of a GPU cluster for slices and refuses more than one (jax
    # pull request 37863), and it refuses axes that a torus has no dimensions for, such as 8 x 8 on a v5p of 4 x 4 x 4.
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(placed, AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)


def mesh_sizes(count: int, data: int = -1, fsdp: int = 1, tensor: int = 1) -> tuple[int, int, int]:
    """The sizes of the mesh's axes over `count` devices, -1 filled in. Raises ShardingError when they do not fit."""
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise ShardingError(f"mesh {dict(zip(AXES, sizes))}: sizes are positive, and one may be -1 for the rest")
    if -1 in sizes:
        sizes[sizes.index(-1)] = count // -math.prod(sizes)
    if math.prod(sizes) != count:
        raise ShardingError(f"mesh {dict(zip(AXES, sizes))}: does not multiply to the {count} devices there are")
    return sizes[0], sizes[1], sizes[2]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh with its rules; hashable, so that compiled steps are cached by it."""

    mesh: jax.sharding.Mesh
    rules: tuple[tuple[str, Spec], ...] = RULES

    @property
    def replicated(self) -> jax.NamedSharding:
        return jax.NamedSharding(self.mesh, jax.P())

    @property
    def batch(self) -> jax.NamedSharding:
        """Rows of a batch are split over data and fsdp."""
        return jax.NamedSharding(self.mesh, jax.P(("data", "fsdp")))

    def shardings(self, tree: Any) -> Any:
        """The sharding of every array of a tree (or of its shapes): the first rule whose regex is found in the path.

        Optimizer moments end in their parameter's path, so they follow it; scalars are replicated. Raises
        ShardingError naming a path without a rule, or a dimension that its axis does not divide.
        """
        return jax.tree_util.tree_map_with_path(self._sharding, tree)

    def _sharding(self, path: tuple[Any, ...], array: Any) -> jax.NamedSharding:
        if not array.shape:
            return self.replicated
        name = path_name(path)
        spec = next((spec for pattern, spec in self.rules if re.search(pattern, name)), None)
        if spec is None:
            raise ShardingError(f"parameter {name} {array.shape}: no sharding rule matches; add one to the config")
        if len(spec) > len(array.shape):
            raise ShardingError(f"parameter {name} {array.shape}: its rule {spec} has more axes than it has dimensions")
        for dimension, axis in enumerate(spec):
            if axis is None:
                continue
            if axis not in self.mesh.shape:
                raise ShardingError(f"parameter {name}: its rule names axis {axis!r}; the mesh has {', '.join(AXES)}")
            if array.shape[dimension] % self.mesh.shape[axis]:
                raise ShardingError(
                    f"parameter {name} {array.shape}: dimension {dimension} is not divisible by mesh axis {axis!r} of "
                    f"size {self.mesh.shape[axis]}; change the mesh or its rule"
                )
        return jax.NamedSharding(self.mesh, jax.P(*spec))

    def abstract(self, shapes: Any) -> Any:
        """A tree of shapes with the sharding of every array."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, self.shardings(shapes)
        )

    def table(self, tree: Any) -> str:
        """One line an array: path, shape, spec, MiB per device; then the total."""
        lines, total = [], 0.0
        shardings = jax.tree.leaves(self.shardings(tree))
        for (path, array), sharding in zip(jax.tree_util.tree_leaves_with_path(tree), shardings):
            mib = math.prod(sharding.shard_shape(array.shape)) * array.dtype.itemsize / 2**20
            total += mib
            lines.append(f"{path_name(path):40} {array.shape!s:24} {sharding.spec!s:40} {mib:10.3f}")
        head = f"{'path':40} {'shape':24} {'spec':40} {'MiB/device':>10}"
        return "\n".join([head, *lines, f"{'total':106} {total:10.3f}"])

    def rows(self, batch_size: int, process: int | None = None) -> np.ndarray:
        """The rows of a global batch that a process feeds: int64 indices, sorted, each once.

        They are not one range in general: a mesh on a TPU slice follows the wires, so the devices of a host lie apart
        in it. A process that has no device in the mesh feeds none.

        Args:
          batch_size: rows of the global batch.
          process: which process; None, this one.

        Raises ShardingError when the mesh does not divide the batch.
        """
        split = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        if batch_size % split:
            raise ShardingError(f"batch_size {batch_size}: not divisible by data x fsdp = {split} of the mesh")
        process = jax.process_index() if process is None else process
        owned = np.zeros(batch_size, bool)
        for device, index in self.batch.devices_indices_map((batch_size,)).items():
            if device.process_index == process:  # type: ignore[attr-defined]
                owned[index] = True
        return np.flatnonzero(owned)

    def put(self, local: Mapping[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
        """Global arrays (B, ...) from this process's rows of them, which are in the order of `rows`."""
        rows = self.rows(batch_size)
        return {name: _placed(self.batch, array, rows, batch_size) for name, array in local.items()}

    def replicate(self, value: np.generic) -> jax.Array:
        """A scalar that all processes have, on every device."""
        with jax.transfer_guard_host_to_device("allow"):
            return jax.make_array_from_process_local_data(self.replicated, np.asarray(value), ())


def _placed(sharding: jax.NamedSharding, local: np.ndarray, rows: np.ndarray, batch_size: int) -> jax.Array:
    def shard(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        # A device's rows are one range of the batch, and so one range of the process's rows too.
        begin, end = np.searchsorted(rows, index[0].indices(batch_size)[:2])
        return local[begin:end]

    # Asked for by name, though with several processes JAX's transfer guard takes it for an implicit transfer.
    with jax.transfer_guard_host_to_device("allow"):
        shape = batch_size, *local.shape[1:]
        return jax.make_array_from_callback(shape, sharding, shard, dtype=local.dtype)
