"""A tiny model and its batches; as a script, one run in a process of its own.

python tiny_run.py CHECKPOINTS OUT STEPS SIGNAL@STEP [ADDRESS PROCESS]: trains, saving after every step, and writes OUT,
a JSON of what was logged, which rows it made, its evaluations, a digest of the last checkpoint and its scores of a
corpus. After STEP it sends
itself the signal (KILL or TERM; no@0: none), while that step's checkpoint is being written. Stopped by SIGTERM it exits
with code 75. With an address it is one of two processes of two devices each, and the mesh takes the devices of both in
turn, as meshes of TPU slices do.
"""

import hashlib
import json
import os
import signal
import sys
import types
from pathlib import Path

import jax
import numpy as np

from cptlaw.models import transformer
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.schedules import Schedule
from cptlaw.scoring import chunks
from cptlaw.scoring.evaluate import Evaluator
from cptlaw.selection.scores import read
from cptlaw.training import loop, metrics
from cptlaw.training.checkpoints import Checkpoints
from cptlaw.training.guard import on_sigterm
from cptlaw.training.start import first_state
from cptlaw.training.step import Optimizer, make_init, make_start

CFG = transformer.Config(vocab_size=64, d_model=32, layers=2, heads=4, kv_heads=2, d_ff=48)


class Batches:
    """Random packed rows with ragged masks, a pure function of the step."""

    batch_size, seq_len = 8, 16

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
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


def documents() -> types.SimpleNamespace:
    """A store of ten documents, as scoring takes it."""
    offsets = np.concatenate([[0], np.cumsum(np.arange(5, 25, 2))])
    return types.SimpleNamespace(
        tokens=np.random.default_rng(0).integers(0, 64, offsets[-1]).astype(np.uint16),
        offsets=offsets,
        doc_bytes=np.diff(offsets),
        ledger={"name": "tiny", "split": "train", "tokens_sha256": "", "vocabulary": {"size": 64}},
    )


def digest(tree) -> str:
    """SHA-256 over the bytes of all leaves."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        sha.update(np.asarray(leaf).tobytes())
    return sha.hexdigest()


def main(checkpoints: str, out: str, steps: int, send: str, address: str = "", process: int = 0) -> None:
    signal_name, at = send.split("@")
    if address:
        jax.distributed.initialize(address, num_processes=2, process_id=process)
    devices = jax.devices()
    layout = Layout(make_mesh(devices=devices[::2] + devices[1::2] if address else devices))
    logged, made, scores = {}, set(), {}

    def log(seen: metrics.Metrics) -> None:
        logged[seen.point.step] = [seen.nats, seen.count, seen.grad_norm, seen.point.lr]

    class Signalling(Batches):
        def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> dict[str, np.ndarray]:
            if step == int(at) > 0:
                os.kill(os.getpid(), signal.Signals[f"SIG{signal_name}"])
            made.add(tuple(rows.tolist()))
            return super().batch(step, rows)

    def evaluate(point: metrics.Point, params: transformer.Params) -> None:
        seen = Evaluator(CFG, layout).score(params, [Batches().batch(1000 + i) for i in range(3)])
        scores[point.step] = [seen.nats, seen.tokens, seen.documents]

    with Checkpoints(checkpoints, recent=2, seconds=0.0) as kept, on_sigterm() as should_stop:
        result = loop.train(
            CFG,
            Schedule(1e-2, steps, warmup=3, kind="cosine"),
            Signalling(),
            lambda: first_state(CFG, Optimizer(), layout),
            layout=layout,
            checkpoints=kept,
            log_every=1,
            log=log,
            eval_steps=[0, steps],
            evaluate=evaluate,
            should_stop=should_stop,
        )
        step, state = kept.restore(make_start(CFG, Optimizer(), layout)[1])
    corpus, params = Path(out).parent / "scores", make_init(CFG, layout)(0)
    chunks.score(params, CFG, documents(), corpus, chunk=8, model={"seed": 0}, layout=layout, batch_tokens=64)
    found = {"logged": logged, "rows": sorted(made), "scores": scores, "state": digest(state)}
    found["nats"] = read(corpus)["nats"].tolist()
    Path(out).write_text(json.dumps(found))
    assert step == result.point.step
    if result.status == loop.STOPPED:
        raise SystemExit(75)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], *sys.argv[5:6], *map(int, sys.argv[6:7]))
