"""Settings every test shares: eight CPU devices, quick compiles, and a compilation cache between runs."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # configs/ and launch/ are run from the checkout, not installed

# Set before anything imports jax. Multi-device code is tested on forced host devices; small programs spend
# their time in the compiler, so optimise less and keep what was compiled.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
).strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# Types and ranks are promoted by name or not at all.
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Two test processes share two cores: a second thread of OpenBLAS would only wait for the other process's.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# The backend starts now: a test that changes the flags for its children must not be what starts it in its worker.
jax.devices()

# The same examples every time: a new one that fails should not fail somebody else's change.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session")
def cases() -> Path:
    """Files that once went wrong, in a folder beside the checkout (or beside that of a worktree)."""
    for folder in (ROOT.parent, ROOT.parent.parent):
        if (folder / "shared" / "cases").is_dir():
            return folder / "shared" / "cases"
    pytest.skip("there is no ../shared/cases")
