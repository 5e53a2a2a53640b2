"""Scores a corpus of a study under one of its models: nats of every chunk, in Parquet shards.

    cptlaw score --config configs/demo.py --workdir runs/demo --corpus code --size small
    cptlaw score --config configs/demo.py --workdir runs/demo --corpus code --run small-code0.25-s0-1f2e3d4c

Without --run the model is the base of --size, which is trained first if need be; with --multihost by all processes of
the job together. Stop it with Ctrl-C; the same command continues. Next: `cptlaw landscape` and `cptlaw select`.
"""

import argparse

import jax

from cptlaw import cache
from cptlaw.errors import UserError
from cptlaw.launching import jobs
from cptlaw.paths import local
from cptlaw.selection import scores
from cptlaw.studies import grid, scoring
from cptlaw.training.guard import on_sigterm


def main(args: argparse.Namespace) -> None:
    cache.keep_compiled()
    study = jobs.study(args)
    if args.corpus not in study.names:
        raise UserError(f"--corpus: no corpus {args.corpus!r}; the study has {', '.join(study.names)}")
    if (args.size is None) == (args.run is None):
        raise UserError("--size, --run: name the model by one of them")
    if args.size is not None and args.size not in study.sizes:
        raise UserError(f"--size: no size {args.size!r}; config.sizes has {', '.join(study.sizes)}")
    prepared = jobs.prepare(args)
    if args.run is not None:
        run = scoring.find_run(prepared.workdir, args.run)
    else:
        run = grid.base_run(study, args.size, prepared.vocab_size, prepared.data)
        with on_sigterm() as stop:
            jobs.train_to_end(run, prepared.workdir, study, stop)
    out = scoring.score_run(
        prepared.workdir,
        run,
        args.corpus,
        args.split,
        chunk=args.chunk or study.seq_len,
        out=None if args.out is None else local(args.out, "--out"),
        batch_tokens=args.batch_tokens,
        progress=jax.process_index() == 0,
    )
    if jax.process_index() > 0:
        return
    parts = [(len(rows), rows["tokens"].sum(), rows["nats"].sum()) for rows in scores.shards(out)]
    chunks, tokens, nats = map(sum, zip(*parts))
    print(f"{out}: {chunks:,} chunks, {tokens:,} tokens, {nats / tokens:.4f} nats per token")
