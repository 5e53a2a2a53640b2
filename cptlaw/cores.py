"""How many cores this process may use."""

import os


def usable() -> int:
    """The cores it is allowed to run on, where the system says; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
