"""Open weights by their path: a folder in Hugging Face's format, or one file of llama.cpp (GGUF)."""

import os
from pathlib import Path

from cptlaw.models import gguf, hf
from cptlaw.models.config import Config
from cptlaw.models.transformer import Params

Weights = str | os.PathLike[str]


def _is_gguf(path: Weights) -> bool:
    return Path(path).suffix.lower() == ".gguf"


def read_config(path: Weights) -> Config:
    """The Config of the weights. Raises UserError as `hf.read_config` and `gguf.read_config`."""
    return gguf.read_config(path) if _is_gguf(path) else hf.read_config(path)


def check(path: Weights) -> None:
    """Raises WeightsError when there are no readable weights at `path`; no tensor is read."""
    if _is_gguf(path):
        gguf.read_config(path)
    else:
        hf.Safetensors(Path(path))


def load_params(path: Weights, cfg: Config, abstract: Params) -> Params:
    """The weights as parameters of `cfg`, as `hf.assemble`."""
    load = gguf.load_params if _is_gguf(path) else hf.load_params
    return load(path, cfg, abstract)
