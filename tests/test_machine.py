import os
import subprocess
import sys

from cptlaw import machine

FAULTS = """
import resource, sys
from cptlaw import machine
if sys.argv[1] == "keep":
    machine.keep_memory()
import jax, jax.numpy as jnp
x = jnp.ones((4096, 4096))
f = jax.jit(lambda x: jax.lax.optimization_barrier(jnp.sin(x)).sum())
seen = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x).block_until_ready()
    seen.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(seen[1:]))
"""


def faults(what: str) -> int:
    """The fewest pages that the system had to hand out in a call of a program with 64 MiB of temporary memory."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", FAULTS, what], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_process_that_keeps_its_memory_is_handed_no_new_pages():
    if sys.platform == "linux":
        assert faults("give back") > 2_000 > 100 > faults("keep")


def test_cores_are_those_that_may_be_used():
    assert 1 <= machine.cores() <= os.cpu_count()
