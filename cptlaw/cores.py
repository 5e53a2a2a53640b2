"""How many cores this process may use."""

import contextlib
import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable() -> int:
    """The cores it is allowed to run on, where the system says, else all; of a container no more than its quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file, or no quota ("max 100000")
        quota, period = map(int, _QUOTA.read_text().split())
        allowed = min(allowed, max(1, math.ceil(quota / period)))
    return allowed
