"""Open weights by their path: a folder in Hugging Face's format, or one file of llama.cpp (GGUF).

Of a family that is none here, the folder comes after the user's own description of it: FILE.py:NAME:FOLDER.
"""

import os
import re
from pathlib import Path

from cptlaw.models import gguf, hf
from cptlaw.models.config import Config
from cptlaw.models.families import FAMILIES, Family
from cptlaw.models.transformer import Params

Weights = str | os.PathLike[str]


def _is_gguf(path: Weights) -> bool:
    return Path(path).suffix.lower() == ".gguf"


def read_config(path: Weights) -> Config:
    """The Config of the weights. Raises UserError as `hf.read_config` and `gguf.read_config`."""
    family, path = _family(path)
    return gguf.read_config(path) if _is_gguf(path) else hf.read_config(path, family)


def check(path: Weights) -> None:
    """Raises WeightsError when there are no readable weights at `path`; no tensor is read."""
    _, path = _family(path)
    if _is_gguf(path):
        gguf.read_config(path)
    else:
        hf.Safetensors(Path(path))


def load_params(path: Weights, cfg: Config, abstract: Params) -> Params:
    """The weights as parameters of `cfg`, as `hf.assemble`."""
    family, path = _family(path)
    return gguf.load_params(path, cfg, abstract) if _is_gguf(path) else hf.load_params(path, cfg, abstract, family)


_OWN = re.compile(r"(.+?\.py:\w+):(.+)")


def _family(path: Weights) -> tuple[Family | None, Weights]:
    """(the user's family, the folder) of FILE.py:NAME:FOLDER, which runs the file; (None, the path) of any other."""
    match = _OWN.fullmatch(os.fspath(path))
    return (None, path) if match is None else (FAMILIES.find(match[1]), match[2])
