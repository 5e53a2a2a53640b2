"""A study's config as a list of runs with stable ids."""

import dataclasses
import hashlib
import json
from typing import Any

import pandas as pd

from cptlaw.execution.run import Phase, Run
from cptlaw.fields import ConfigError
from cptlaw.models import transformer
from cptlaw.registry import by_content
from cptlaw.studies.settings import Study

NAMED = 4  # domains that a run's name holds
ROUNDING = 1e-9  # of a share that is what the others leave


def params(study: Study, size: str) -> int:
    """Non-embedding parameters of a size."""
    return transformer.count_params(transformer.Config(**study.model_fields(size), vocab_size=1))["non_embedding"]


def outline(study: Study) -> pd.DataFrame:
    """The runs table that the grid will make, every loss 1."""
    rows = []
    for run in plan(study, 1, dict.fromkeys(study.names, "")):
        facts = {"run": run.trunk or run.id, "params": params(study, run.size), "model": run.size, "seed": run.seed}
        facts |= {f"w_{name}": run.shares.get(name, 0.0) for name in study.names}
        for tokens in (0, *run.eval_tokens) if run.init else ():
            rows += [facts | {"tokens": tokens, "eval": name, "loss": 1.0} for name in run.evals]
    return pd.DataFrame(rows)


def plan(study: Study, vocab_size: int, data: dict[str, str]) -> list[Run]:
    """All runs of the grid, bases first.

    Args:
      study: the checked config.
      vocab_size: the vocabulary's size, known once it is built.
      data: a digest of each corpus's token store; a run's id changes with what it reads.
    """
    bases, mixes = [], []
    for part, size in study.grid_sizes().items():
        grid, of_part = study.grid[part], study.of_part(part)
        cells = grid.cells(study.general, study.domains, study.seed)
        for base_seed in grid.base_seeds or (study.seed,):
            base = base_run(study, size, vocab_size, data, base_seed)
            bases.append(base)
            for shares, seed in cells:
                mixes += cpt_runs(of_part, base, shares, seed, data)
    # A mix that is asked for twice is one run, as a share of 0 is of whatever domain.
    return list({run.id: run for run in bases + mixes}.values())


def base_run(study: Study, size: str, vocab_size: int, data: dict[str, str], seed: int | None = None) -> Run:
    """The run that pre-trains the base model of `size` on the general corpus and `base_shares`, or imports it.

    `seed` is that of its weights and of its data order; None is the study's.
    """
    seed = study.seed if seed is None else seed
    weights = study.init_from.get(size)
    phase = Phase(tokens=0, peak_lr=0.0, warmup_tokens=0) if weights else study.base
    if phase is None:
        raise ConfigError("config.base", f"missing; {size} needs it, being in no config.init_from")
    return _with_id(
        f"base-{size}" + _unless_first(study, seed),
        size=size,
        model={**study.model_fields(size), "vocab_size": study.vocab_size(size, vocab_size)},
        init=None,
        weights=weights,
        shares={study.general: 1.0} if weights else _mix(study, study.base_shares),
        phase=phase,
        eval_tokens=(phase.tokens,),
        seed=seed,
        **_common(study, data),
    )


def cpt_runs(study: Study, base: Run, domain_shares: dict[str, float], seed: int, data: dict[str, str]) -> list[Run]:
    """Continual pre-training from `base`: the domains at their shares, the general corpus the rest.

    One run; or, with `cpt.branch_cooldown`, the trunk and a branch for each of `eval_tokens`.
    """
    domains = {domain: share for domain, share in domain_shares.items() if share > 0}
    name = f"{base.size}{_unless_first(study, base.seed)}-{_named(domains) or study.general}-s{seed}"
    common = {
        "size": base.size,
        "model": base.model,
        "init": base.id,
        "shares": _mix(study, domains),
        "seed": seed,
        **_common(study, data),
    }
    if study.evaluate == "own" and domains:
        common["evals"] = (study.general, *domains, *study.evaluated)
    if not study.cpt.branch_cooldown:
        return [_with_id(name, phase=study.cpt, eval_tokens=study.eval_tokens, **common)]
    phases = study.branches()
    keep = tuple(tokens - phase.cooldown_tokens for tokens, phase in phases.items())
    trunk = _with_id(name, phase=study.trunk(), eval_tokens=(), keep_tokens=keep, **common)
    return [trunk] + [
        _with_id(f"{name}-{tokens}", phase=phase, eval_tokens=(tokens,), trunk=trunk.id, **common)
        for tokens, phase in phases.items()
    ]


def kept(run: Run) -> Run:
    """The run with its last checkpoint kept, so that others can start from it."""
    fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    name = fields.pop("id").rpartition("-")[0]
    return _with_id(name, **{**fields, "keep_tokens": (run.tokens,)})


def _mix(study: Study, domain_shares: dict[str, float]) -> dict[str, float]:
    """Corpus -> share, of those that have any: the general corpus has what the domains leave."""
    domains = {domain: share for domain, share in domain_shares.items() if share > 0}
    general = 1.0 - sum(domains.values())
    return {study.general: general, **domains} if general > ROUNDING else domains


def _named(domains: dict[str, float]) -> str:
    """Domains with their shares; of many, the largest, because it is part of a folder's name."""
    largest = sorted(domains, key=lambda name: -domains[name])[: NAMED if len(domains) > NAMED else None]
    texts = [f"{name}{share:.4g}" for name, share in domains.items() if name in largest]
    return "-".join([*texts, *([f"{len(domains) - NAMED}more"] if len(domains) > NAMED else [])])


def _unless_first(study: Study, base_seed: int) -> str:
    """What tells the runs of a further base model from those of the first in their names."""
    return "" if base_seed == study.seed else f"-b{base_seed}"


def _common(study: Study, data: dict[str, str]) -> dict[str, Any]:
    return {
        "evals": study.names,
        "seq_len": study.seq_len,
        "batch_size": study.batch_size,
        "optimizer": _optimizer(study),
        "mesh": study.mesh,
        "microbatches": study.microbatches,
        "eval_batch_size": study.eval_batch_size,
        "eval_max_tokens": study.eval_max_tokens,
        "data": data,
    }


def _optimizer(study: Study) -> dict[str, Any]:
    """Fields of the `Optimizer`, the size that muP's learning rate belongs to replaced by its model."""
    size = study.optimizer.get("mup_base")
    # No multiplier depends on the vocabulary.
    return (
        study.optimizer
        if size is None
        else {**study.optimizer, "mup_base": {**study.model_fields(size), "vocab_size": 1}}
    )


def _with_id(name: str, **fields: Any) -> Run:
    """A run named readably, with a digest of everything that decides its numbers: another config, another id."""
    run = Run(id="", **fields)
    # Of what a user's own file holds, the content decides, and not where it lies.
    phase = dataclasses.replace(run.phase, schedule=by_content(run.phase.schedule))
    optimizer = {key: by_content(value) if key == "kind" else value for key, value in run.optimizer.items()}
    decides = dataclasses.replace(run, phase=phase, optimizer=optimizer)
    text = json.dumps({"name": name, **_chosen(decides)}, sort_keys=True, default=_chosen)
    return dataclasses.replace(run, id=f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")


def _chosen(fields: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default: so one that is new changes no id until it is used."""
    return {
        field.name: getattr(fields, field.name)
        for field in dataclasses.fields(fields)
        if getattr(fields, field.name) != field.default
    }
