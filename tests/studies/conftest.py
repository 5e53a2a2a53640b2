"""Makes `tiny_study` importable, and its fixtures known."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_study import forget, make_config, runs, study, workdir  # noqa: F401
