"""What a choice of optimizer does to losses: averaged weights beside annealed ones, Muon beside AdamW at one rate.

    python -m benchmarks.optimizers            # minutes on 2 idle cores; tables in Markdown on stdout
    python -m benchmarks.optimizers --seeds 3  # more seeds; runs that are there already are not trained again

The demo's corpora, vocabulary and smallest size (27k parameters outside its embedding), pre-trained on prose as there,
then continued on half prose and half code, 8 x 64 tokens a step. Losses are those of all held-out documents up to the
demo's number of tokens. Every difference is between runs of the same seed, which read the same text in the same order;
their standard error is over seeds.

averages   at a constant rate: weights of the step, their averages, and weights after a cool-down of a fifth of the
           tokens to 0, which branches off the same run
muon       pre-training and continual pre-training with either, at three rates; and each continued by the other
choices    what else `config.optimizer` chooses, beside its default
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs import demo
from cptlaw import cache
from cptlaw.execution import rundir, sweep
from cptlaw.execution.run import Run
from cptlaw.studies import config as config_lib
from cptlaw.studies import grid, prepared
from cptlaw.studies.prepared import Prepared
from cptlaw.studies.settings import Study

SHARES = {"code": 0.5}
DECAYS = (0.98, 0.99, 0.995, 0.998)
COOLDOWN = 0.2
KINDS = ("adamw", "muon")
BASE_RATES = (3e-3, 1e-2)
RATES = (1e-3, 3e-3)
CHOICES: tuple[dict[str, Any], ...] = ({"moment_dtype": "bfloat16"}, {"z_loss": 1e-4}, {"decay_mask": "hidden"})
CORPORA = ("prose", "code")


def settings() -> Study:
    """The demo with its smallest size alone."""
    config = demo.get_config()
    with config.unlocked():
        config.sizes = {"small": config.sizes.small}
        config.grid = {"small": {"domain_shares": (SHARES["code"],)}}
        config.held_out.size = "small"
    return config_lib.parse(config)


def changed(study: Study, rate: float | None = None, **optimizer: Any) -> Study:
    """Continual pre-training at another rate and with other fields of the optimizer."""
    cpt = study.cpt if rate is None else dataclasses.replace(study.cpt, peak_lr=rate)
    return dataclasses.replace(study, cpt=cpt, optimizer={**study.optimizer, **optimizer})


def pretrained(made: Prepared, rate: float, **optimizer: Any) -> Run:
    """The base model at another rate, its cool-down ending at a third of it as the demo's does."""
    study = made.study
    assert study.base is not None
    base = dataclasses.replace(study.base, peak_lr=rate, final_lr=rate / 3)
    study = dataclasses.replace(study, base=base, optimizer=optimizer)
    return grid.base_run(study, "small", made.vocab_size, made.data)


def continued(made: Prepared, study: Study, base: Run, seeds: int) -> list[list[Run]]:
    """The runs of each seed."""
    return [grid.cpt_runs(study, base, SHARES, seed, made.data) for seed in range(seeds)]


def last(study: Study) -> Study:
    """Evaluated at the end alone."""
    return dataclasses.replace(study, eval_tokens=(study.cpt.tokens,))


def losses(made: Prepared, runs: Sequence[Sequence[Run]]) -> pd.DataFrame:
    """Seed, tokens, ema and a column of losses for each corpus."""
    found = []
    for seed, of_seed in enumerate(runs):
        rows = sweep.collect(list(of_seed), made.workdir)
        rows = rows[rows["tokens"] > 0].assign(ema=rows.get("ema", 0.0), seed=seed)
        found.append(rows.pivot_table(index=["seed", "tokens", "ema"], columns="eval", values="loss"))
    return pd.concat(found)[list(CORPORA)]


def base_losses(made: Prepared, base: Run) -> list[str]:
    result = rundir.read_result(made.workdir.task(base.id))
    assert result is not None
    of = {row["eval"]: row["loss"] for row in result["losses"]}
    return [f"{of[corpus]:.4f}" for corpus in CORPORA]


def spread(values: Iterable[float]) -> str:
    """A mean over seeds with its standard error."""
    values = np.asarray(list(values), float)
    return f"{values.mean():+.4f} ({values.std(ddof=1) / np.sqrt(len(values)):.4f})"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def averages(made: Prepared, seeds: int) -> None:
    study, base = made.study, made.base("small")
    cooled_study = dataclasses.replace(study, cpt=dataclasses.replace(study.cpt, branch_cooldown=COOLDOWN))
    plain = {decay: continued(made, changed(study, ema=decay), base, seeds) for decay in DECAYS}
    branched = continued(made, cooled_study, base, seeds)
    made.sweep([base, *flat(*plain.values(), branched)], "averages")
    cooled = losses(made, branched).droplevel("ema")
    found = {decay: losses(made, runs) for decay, runs in plain.items()}
    raw = [one.xs(0.0, level="ema") for one in found.values()]
    assert all((other.to_numpy() == raw[0].to_numpy()).all() for other in raw[1:]), "an average changes no training"
    named = {"the step's weights": raw[0]}
    for decay, one in found.items():
        named[f"ema {decay:g} ({1 / (1 - decay):.0f} steps)"] = one.xs(decay, level="ema")
    for corpus in CORPORA:
        tokens = sorted(cooled.index.unique("tokens"))
        rows = [["cooled down: loss", *(f"{cooled[corpus].xs(t, level='tokens').mean():.4f}" for t in tokens)]]
        for name, one in named.items():
            off = one[corpus] - cooled[corpus]
            rows.append([f"{name}, less that", *(spread(off.xs(t, level="tokens")) for t in tokens)])
        steps = [f"{t // study.tokens_per_step()} steps" for t in tokens]
        table([corpus, *steps], rows)


def muon(made: Prepared, seeds: int) -> None:
    bases = {(kind, rate): pretrained(made, rate, kind=kind) for kind in KINDS for rate in BASE_RATES}
    study = last(made.study)
    plain = {
        (kind, rate): continued(made, changed(study, rate, kind=kind), made.base("small"), seeds)
        for kind in KINDS
        for rate in RATES
    }
    of_muon = {kind: continued(made, changed(study, kind=kind), bases["muon", 3e-3], seeds) for kind in KINDS}
    runs = [made.base("small"), *bases.values(), *flat(*plain.values(), *of_muon.values())]
    made.sweep(runs, "muon")
    table(
        ["pre-training", "peak rate", "prose loss", "code loss"],
        [[kind, f"{rate:g}", *base_losses(made, base)] for (kind, rate), base in bases.items()],
    )
    rows = []
    for of_base, group in (("adamw", plain), ("muon", {(kind, study.cpt.peak_lr): of_muon[kind] for kind in KINDS})):
        reference = losses(made, group["adamw", study.cpt.peak_lr])
        for (kind, rate), runs_of in group.items():
            one = losses(made, runs_of)
            cells = itertools.chain(*((f"{one[c].mean():.4f}", spread(one[c] - reference[c])) for c in CORPORA))
            rows.append([of_base, kind, f"{rate:g}", *cells])
    less = f"less adamw's at {study.cpt.peak_lr:g}"
    table(["base", "continued with", "rate", "prose loss", less, "code loss", less], rows)


def choices(made: Prepared, seeds: int) -> None:
    study, base = last(made.study), made.base("small")
    default = continued(made, study, base, seeds)
    others = [continued(made, changed(study, **choice), base, seeds) for choice in CHOICES]
    made.sweep([base, *flat(default, *others)], "choices")
    reference = losses(made, default)
    rows = []
    for choice, runs in zip(CHOICES, others):
        one = losses(made, runs)
        ((field, value),) = choice.items()
        rows.append([f"`{field}: {value}`", *(spread(one[corpus] - reference[corpus]) for corpus in CORPORA)])
    table(["choice", "prose loss, less the default's", "code loss, less the default's"], rows)


def flat(*groups: Sequence[Sequence[Run]]) -> list[Run]:
    return [run for group in groups for of_seed in group for run in of_seed]


PARTS = {"averages": averages, "muon": muon, "choices": choices}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="runs/optimizers", type=Path)
    parser.add_argument("--seeds", type=int, default=2, help="of the data order, in continual pre-training")
    parser.add_argument("--only", choices=tuple(PARTS), nargs="+", default=tuple(PARTS))
    args = parser.parse_args()
    cache.keep_compiled()
    made = prepared.prepare(settings(), args.workdir)
    for name in args.only:
        PARTS[name](made, args.seeds)


if __name__ == "__main__":
    main()
