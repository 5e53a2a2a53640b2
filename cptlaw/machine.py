"""What this process may use of its machine, and how."""

import ctypes
import importlib.util
import os

# glibc's names for mallopt.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def cores() -> int:
    """The cores it is allowed to run on, where the system says; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Keeps freed memory for the next allocation, in a process that trains or scores on a CPU.

    A compiled program asks for all its temporary memory at every call, and glibc gives large pieces back to the system,
    which then has to clear every page again: an eighth of a training step (benchmarks/train_step.py). To be called
    before JAX starts its threads. Where JAX has plugins for accelerators, and without glibc, it does nothing.
    """
    accelerated = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or accelerated:
        return
    # One arena, because only the main one can grow; it grows for large pieces too, and never shrinks.
    for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)):
        mallopt(option, value)
