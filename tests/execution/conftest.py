"""Runs are tested on the study of `tests/studies/tiny_study.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

from tiny_study import forget, make_config, runs, study, workdir  # noqa: F401
