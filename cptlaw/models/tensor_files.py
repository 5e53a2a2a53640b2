"""Folders of safetensors: which of their files are the model, and slices of their tensors."""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cptlaw.errors import UserError
from cptlaw.lfs import refuse_pointer
from cptlaw.models.places import IGNORED
from cptlaw.storage.copies import folder

Index = tuple[slice, ...]
_FLOATS = ("F64", "F32", "F16", "BF16")
_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class WeightsError(UserError):
    """Weights that are not there, not readable, or not this model's."""


class WeightsWarning(UserWarning):
    """Files beside the weights that are not read, and may have been meant."""


class Source(Protocol):
    """Tensors under Hugging Face's names, of which any slice can be read alone."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str, index: Index) -> np.ndarray: ...


class Safetensors:
    """The tensors of model.safetensors, or of the files that model.safetensors.index.json names.

    Where a folder has both, the one file is read, as transformers does, with a warning.
    """

    def __init__(self, path: Path):
        """Raises WeightsError for files that are missing, damaged, no safetensors, or hold quantised weights."""
        self.path = path = folder(path)
        if (path / _ONE).exists():
            opened = {_ONE: _open(path / _ONE)}
            self._file = dict.fromkeys(opened[_ONE].keys(), opened[_ONE])
            if (path / _INDEX).exists() and set(_weight_map(path).values()) != {_ONE}:
                warnings.warn(f"{path}: {_ONE} is read; {_INDEX} beside it and its files are not", WeightsWarning, 3)
        elif (path / _INDEX).exists():
            weight_map = _weight_map(path)
            opened = {name: _open(path / name) for name in sorted(set(weight_map.values()))}
            held = {name: set(file.keys()) for name, file in opened.items()}
            if lost := [name for name, file in weight_map.items() if name not in held[file]]:
                raise WeightsError(
                    f"{path}: {weight_map[lost[0]]} lacks {lost[0]}, which {_INDEX} places there; {_AGAIN}"
                )
            self._file = {name: opened[file] for name, file in weight_map.items()}
        else:
            raise WeightsError(f"{path}: no readable safetensors: {_what_else(path)}")
        self.shapes = {}
        for name, file in self._file.items():
            tensor = file.get_slice(name)
            self.shapes[name] = tuple(tensor.get_shape())
            if tensor.get_dtype() not in _FLOATS and not re.search(IGNORED, name):
                raise WeightsError(
                    f"{path}: {name} is stored as {tensor.get_dtype()}, so these are quantised weights; download the "
                    "model in bfloat16, float16 or float32"
                )

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str, index: Index) -> np.ndarray:
        return self._file[name].get_slice(name)[index]


_AGAIN = "download the folder again"


def _open(file: Path) -> Any:
    import safetensors

    refuse_pointer(file, WeightsError)
    try:
        return safetensors.safe_open(file, "np")
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise WeightsError(f"{file}: no readable safetensors ({error}); download it again") from None


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file. Raises WeightsError for an index that is no such thing, or whose files are not all there."""
    refuse_pointer(path / _INDEX, WeightsError)
    try:
        weight_map = json.loads((path / _INDEX).read_text())["weight_map"]
        files = sorted({str(Path(file).name) for file in weight_map.values()})
        sound = all(isinstance(file, str) and Path(file).name == file for file in weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path / _INDEX}: not readable ({error!r}); {_AGAIN}") from None
    if not files or not sound:
        raise WeightsError(f"{path / _INDEX}: its weight_map names no files, or files elsewhere; {_AGAIN}")
    if not (path / _ONE).exists() and (missing := [file for file in files if not (path / file).exists()]):
        more = f" and {len(missing) - 1} more of {len(files)} files" if len(missing) > 1 else f" of {len(files)} files"
        raise WeightsError(f"{path}: {missing[0]}{more} that {_INDEX} names are missing; download them")
    return weight_map


def _what_else(path: Path) -> str:
    """What a folder without safetensors has in their place, and the way to get them."""
    names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []

    def first(pattern: str) -> str | None:
        return next((name for name in names if re.fullmatch(pattern, name)), None)

    if name := first(r"pytorch_model.*\.bin(\.index\.json)?"):
        return (
            f"{name} is a pickle, which is not opened; convert it with transformers: python -c 'from transformers "
            f'import AutoModelForCausalLM as M; M.from_pretrained("{path}").save_pretrained("{path}")\''
        )
    if name := first(r"model-\d+-of-\d+\.safetensors"):
        return f"{name} is there, and {_INDEX} is not; download that too"
    if name := first(r"adapter_model\.(safetensors|bin)"):
        return f"{name} is a LoRA adapter; merge it into its model with peft (merge_and_unload) and save that"
    if name := first(r".*\.gguf"):
        return f"{name} is of llama.cpp; name that file itself"
    if name := first(r"consolidated.*\.(safetensors|pth)|.*\.(h5|msgpack|ckpt|pth|pt|bin)"):
        return f"{name} is in another format; download the model's files model*.safetensors"
    return f"there is no {_ONE} and no {_INDEX}; download the whole folder"
