"""Trains one run of a study: a base model, or one continual pre-training mix from it (its base is trained first).

    cptlaw train --config configs/demo.py --workdir runs/one --size small --share code=0.25
    cptlaw train --config configs/demo.py --config.model.layers=4 --workdir runs/deeper

Without --size the model is `config.model` as it stands; without --share only its base is trained. Stop it with Ctrl-C
or SIGTERM; the same command continues, bitwise.
"""

import argparse
import dataclasses

import jax

from cptlaw import cache
from cptlaw.errors import UserError
from cptlaw.execution import job
from cptlaw.execution.run import Run
from cptlaw.launching import jobs
from cptlaw.models import transformer
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid
from cptlaw.training.guard import on_sigterm


def main(args: argparse.Namespace) -> None:
    cache.keep_compiled()
    settings = jobs.study(args)
    size = args.size or "model"
    if args.size is not None and size not in settings.sizes:
        raise UserError(f"--size: no size {size!r}; config.sizes has {', '.join(settings.sizes)}")
    shares = _shares(args.share, settings.domains)
    settings = dataclasses.replace(settings, sizes={"model": {}, **settings.sizes})
    config_lib.check_model(settings, size)
    prepared = jobs.prepare(args)
    base = grid.base_run(settings, size, prepared.vocab_size, prepared.data)
    runs = [base]
    if shares:
        seed = settings.seed if args.seed is None else args.seed
        runs += grid.cpt_runs(settings, base, shares, seed, prepared.data)
    if jax.process_index() == 0:
        print(_placement(runs[-1]))
    with on_sigterm() as stop:
        for run in runs:
            for row in jobs.train_to_end(run, prepared.workdir, settings, stop):
                error = "" if row["loss_se"] is None else f" +- {row['loss_se']:.4f}"
                print(f"{run.id}: {row['tokens']:>10,} tokens  {row['eval']:<12} {row['loss']:.4f}{error} nats")


def _placement(run: Run) -> str:
    """Which device holds what."""
    shapes = jax.eval_shape(lambda: transformer.init(jax.random.key(0), run.config))
    return job.layout(run).table(shapes)


def _shares(given: list[str], domains: tuple[str, ...]) -> dict[str, float]:
    """Domain -> token share, of the flags. Raises UserError for what is no share."""
    shares: dict[str, float] = {}
    for text in given:
        name, _, share = text.partition("=")
        if name not in domains:
            raise UserError(f"--share: no domain {name!r}; config.domains has {', '.join(domains)}")
        if name in shares:
            raise UserError(f"--share {text}: {name} has a share already")
        try:
            shares[name] = float(share)
        except ValueError:
            raise UserError(f"--share {text}: write NAME=SHARE, such as {domains[0]}=0.25") from None
        if not 0 <= shares[name] <= 1:
            raise UserError(f"--share {text}: a share lies between 0 and 1 (0.25 is a quarter)")
    if sum(shares.values()) > 1 + 1e-9:
        raise UserError(f"--share: the domains' shares sum to {sum(shares.values()):g}; they leave no room above 1")
    return shares
