"""A tiny model and its batches; as a script, one run in a process of its own.

python tiny_run.py CHECKPOINTS OUT STEPS KILL_AT [ADDRESS PROCESS]: trains, saving after every step, and writes OUT, a
JSON of what was logged and a digest of the final checkpoint. After step KILL_AT (0: never) it kills itself, while that
step's checkpoint is being written. With an address it is one of two processes.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from cptlaw.models import transformer
from cptlaw.training import loop
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.schedules import Schedule
from cptlaw.training.sharding import Layout, make_mesh
from cptlaw.training.step import Optimizer, make_init, make_start

CFG = transformer.Config(vocab_size=64, d_model=32, layers=2, heads=4, kv_heads=2, d_ff=48)


class Batches:
    """Random packed rows with ragged masks, a pure function of the step."""

    batch_size, seq_len = 8, 16

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(step)
        shape = self.batch_size, self.seq_len
        segments_BT = np.sort(rng.integers(1, 4, shape, np.int32), axis=1)
        starts_BT = np.diff(segments_BT, axis=1, prepend=0) != 0
        index_T = np.arange(self.seq_len, dtype=np.int32)
        batch = {
            # The next token is a function of this one, so that there is something to learn.
            "tokens_BT": (tokens_BT := rng.integers(0, 64, shape, np.int32)),
            "targets_BT": (7 * tokens_BT + 3) % 64,
            "segments_BT": segments_BT,
            "positions_BT": index_T - np.maximum.accumulate(np.where(starts_BT, index_T, 0), axis=1),
            "mask_BT": (rng.random(shape) < rng.random((shape[0], 1))).astype(np.float32),
            "documents_BT": segments_BT + 3 * np.arange(shape[0], dtype=np.int32)[:, None],
        }
        return {name: array[rows] for name, array in batch.items()}


def digest(tree) -> str:
    """SHA-256 over the bytes of all leaves."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()


def main(checkpoints: str, out: str, steps: int, kill_at: int, address: str = "", process: int = 0) -> None:
    if address:
        jax.distributed.initialize(address, num_processes=2, process_id=process)
    layout = Layout(make_mesh())
    logged = {}

    def log(metrics: loop.Metrics) -> None:
        logged[metrics.point.step] = [metrics.nats, metrics.count, metrics.grad_norm, metrics.point.lr]

    class Killing(Batches):
        def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
            if kill_at and step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().batch(step, rows)

    with Checkpoints(checkpoints, recent=2, seconds=0.0) as kept:
        result = loop.train(
            CFG,
            Schedule(1e-2, steps, warmup=3, kind="cosine"),
            Killing(),
            lambda: make_init(CFG, layout)(0),
            layout=layout,
            checkpoints=kept,
            log_every=1,
            log=log,
        )
        step, state = kept.restore(make_start(CFG, Optimizer(), layout)[1])
    assert step == steps
    Path(out).write_text(json.dumps({"status": result.status, "logged": logged, "state": digest(state)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:6], *map(int, sys.argv[6:7]))
