"""Names and shapes of a tree's arrays."""

from collections.abc import Mapping
from typing import Any

import jax


def path_name(path: tuple[Any, ...]) -> str:
    """`layers/attention/q` for a key path of jax.tree_util."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of a tree's arrays."""
    return {path_name(path): tuple(x.shape) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def differences(
    wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]], unknown: str
) -> list[str]:
    """What stored arrays (name -> shape) lack, have beside (it `unknown`) or have in another shape, one line each."""
    lines = [f"{name} {shape} is missing" for name, shape in wanted.items() if name not in stored]
    lines += [f"{name} {shape} {unknown}" for name, shape in stored.items() if name not in wanted]
    return lines + [
        f"{name} is {stored[name]}, this model's is {shape}"
        for name, shape in wanted.items()
        if stored.get(name, shape) != shape
    ]
