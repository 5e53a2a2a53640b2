"""Where things are kept that can be fetched or compiled again."""

import os
from pathlib import Path

from cptlaw.paths import local


def directory() -> Path:
    """`$CPTLAW_CACHE`, or `cptlaw` in the user's cache directory."""
    if path := os.environ.get("CPTLAW_CACHE"):
        return local(path, "CPTLAW_CACHE").expanduser()
    return local(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME").expanduser() / "cptlaw"


def keep_compiled() -> None:
    """Keeps JAX's compiled programs between processes, however small they are."""
    import jax

    # A caller's own choice, by flag or environment, stands.
    option = "jax_compilation_cache_dir"
    if getattr(jax.config, option) is None:
        jax.config.update(option, str(directory() / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
