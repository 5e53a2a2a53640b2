"""Makes `tiny_scores` importable, and its fixtures known."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_scores import pool, target  # noqa: F401
