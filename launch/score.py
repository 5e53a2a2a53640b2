"""Scores a corpus of a study under one of its models: nats of every chunk, in Parquet shards.

    python -m launch.score --config configs/demo.py --workdir runs/demo --corpus code --size small
    python -m launch.score --config configs/demo.py --workdir runs/demo --corpus code --run small-code0.25-s0-1f2e3d4c

Without --run the model is the base of --size, which is trained first if need be; with --multihost by all processes of
the job together. Stop it with Ctrl-C; the same command continues. Next: `cptlaw landscape` and `cptlaw select`.
"""

import jax
from absl import flags

from cptlaw import cache
from cptlaw.errors import UserError
from cptlaw.paths import local
from cptlaw.selection import scores
from cptlaw.studies import grid, scoring
from cptlaw.training.guard import on_sigterm
from launch import common

_CORPUS = flags.DEFINE_string("corpus", None, "Which corpus of the config.", required=True)
_SPLIT = flags.DEFINE_enum("split", "train", ["train", "validation"], "Which part of it.")
_SIZE = flags.DEFINE_string("size", None, "Score under the base model of this size of config.sizes.")
_RUN = flags.DEFINE_string("run", None, "Score under this run of the workdir (its checkpoint must have been kept).")
_CHUNK = flags.DEFINE_integer("chunk", None, "Tokens of a chunk; without it, config.seq_len.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_tokens", 16_384, "Positions of a batch.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Where the scores go; without it, a folder in WORKDIR/scores.")


def main() -> None:
    cache.keep_compiled()
    study = common.study()
    if _CORPUS.value not in study.names:
        raise UserError(f"--corpus: no corpus {_CORPUS.value!r}; the study has {', '.join(study.names)}")
    if (_SIZE.value is None) == (_RUN.value is None):
        raise UserError("--size, --run: name the model by one of them")
    if _SIZE.value is not None and _SIZE.value not in study.sizes:
        raise UserError(f"--size: no size {_SIZE.value!r}; config.sizes has {', '.join(study.sizes)}")
    prepared = common.prepare()
    if _RUN.value is not None:
        run = scoring.find_run(prepared.workdir, _RUN.value)
    else:
        run = grid.base_run(study, _SIZE.value, prepared.vocab_size, prepared.data)
        with on_sigterm() as stop:
            common.train_to_end(run, prepared.workdir, study, stop)
    out = scoring.score_run(
        prepared.workdir,
        run,
        _CORPUS.value,
        _SPLIT.value,
        chunk=_CHUNK.value or study.seq_len,
        out=None if _OUT.value is None else local(_OUT.value, "--out"),
        batch_tokens=_BATCH.value,
        progress=jax.process_index() == 0,
    )
    if jax.process_index() > 0:
        return
    parts = [(len(rows), rows["tokens"].sum(), rows["nats"].sum()) for rows in scores.shards(out)]
    chunks, tokens, nats = map(sum, zip(*parts))
    print(f"{out}: {chunks:,} chunks, {tokens:,} tokens, {nats / tokens:.4f} nats per token")


if __name__ == "__main__":
    common.run(main)
