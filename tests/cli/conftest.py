"""The tables and fits of the rooms' own tests: a command is tested on what its room is tested on."""

import importlib.util
from pathlib import Path
from types import ModuleType


def _fixtures(room: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{room}_fixtures", Path(__file__).parents[1] / room / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chinchilla_table, dcpt_table = _fixtures("fitting").chinchilla_table, _fixtures("fitting").dcpt_table
general, code = _fixtures("planning").general, _fixtures("planning").code
study = _fixtures("report").study
