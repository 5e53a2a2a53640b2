"""A study's config as a list of runs with stable ids."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cptlaw.experiments.config import Phase, Study
from cptlaw.models import transformer
from cptlaw.training.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that decides one run's numbers, and nothing else.

    `init` is the id of the run whose last parameters it starts from (None: from scratch). `shares` are token shares
    of the training corpora; `eval_tokens` the token counts at which every corpus in `evals` is evaluated.
    """

    id: str
    size: str
    model: dict[str, Any]
    init: str | None
    shares: dict[str, float]
    evals: tuple[str, ...]
    phase: Phase
    eval_tokens: tuple[int, ...]
    seed: int
    seq_len: int
    batch_size: int
    optimizer: dict[str, Any]
    mesh: dict[str, int]
    eval_batch_size: int
    eval_max_tokens: int | None
    data: dict[str, str]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Run":
        """From what `dataclasses.asdict` made of one, JSON in between or not."""
        tuples = {name: tuple(fields[name]) for name in ("evals", "eval_tokens")}
        return cls(**{**fields, **tuples, "phase": Phase(**fields["phase"])})

    @property
    def tokens(self) -> int:
        return self.phase.tokens

    def schedule(self) -> Schedule:
        """The learning-rate schedule, in steps."""
        per_step = self.seq_len * self.batch_size
        phase = self.phase
        return Schedule(
            peak=phase.peak_lr,
            steps=phase.tokens // per_step,
            warmup=-(-phase.warmup_tokens // per_step),
            kind=phase.schedule,
            final=phase.final_lr,
            cooldown=-(-phase.cooldown_tokens // per_step),
        )

    def flops(self) -> float:
        """Training FLOPs: what its progress and its place in the queue are measured in."""
        config = transformer.Config(**self.model)
        return self.tokens * transformer.flops_per_token(config, self.seq_len)["training"]


def plan(study: Study, vocab_size: int, data: dict[str, str]) -> list[Run]:
    """All runs of the grid, bases first.

    Args:
      study: the checked config.
      vocab_size: the vocabulary's size, known once it is built.
      data: a digest of each corpus's token store; a run's id changes with what it reads.
    """
    bases = {size: base_run(study, size, vocab_size, data) for size in study.grid}
    runs = list(bases.values())
    for size, grid in study.grid.items():
        for domain in study.domains:
            cells = [(share, study.seed) for share in grid.domain_shares]
            cells += [(share, seed) for share in grid.repeat_shares for seed in grid.repeat_seeds]
            # A share of 0 is the same run whatever the domain.
            runs += [cpt_run(study, bases[size], {domain: share}, seed, data) for share, seed in cells]
    return list({run.id: run for run in runs}.values())


def base_run(study: Study, size: str, vocab_size: int, data: dict[str, str]) -> Run:
    """The run that pre-trains the base model of `size` on the general corpus."""
    return _with_id(
        f"base-{size}",
        size=size,
        model={**study.model_fields(size), "vocab_size": vocab_size},
        init=None,
        shares={study.general: 1.0},
        phase=study.base,
        eval_tokens=(study.base.tokens,),
        seed=study.seed,
        **_common(study, data),
    )


def cpt_run(study: Study, base: Run, domain_shares: dict[str, float], seed: int, data: dict[str, str]) -> Run:
    """A continual pre-training run from `base`: the domains at their shares, the general corpus the rest."""
    domains = {domain: share for domain, share in domain_shares.items() if share > 0}
    general = 1.0 - sum(domains.values())
    shares = {study.general: general, **domains} if general > 0 else domains
    mix = "-".join(f"{domain}{share:.4g}" for domain, share in domains.items()) or study.general
    return _with_id(
        f"{base.size}-{mix}-s{seed}",
        size=base.size,
        model=base.model,
        init=base.id,
        shares=shares,
        phase=study.cpt,
        eval_tokens=study.eval_tokens,
        seed=seed,
        **_common(study, data),
    )


def _common(study: Study, data: dict[str, str]) -> dict[str, Any]:
    return {
        "evals": (study.general, *study.domains),
        "seq_len": study.seq_len,
        "batch_size": study.batch_size,
        "optimizer": study.optimizer,
        "mesh": study.mesh,
        "eval_batch_size": study.eval_batch_size,
        "eval_max_tokens": study.eval_max_tokens,
        "data": data,
    }


def _with_id(name: str, **fields: Any) -> Run:
    """A run named readably, with a digest of everything that decides its numbers: another config, another id."""
    text = json.dumps({"name": name, **fields}, sort_keys=True, default=dataclasses.asdict)
    run = Run(id=f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}", **fields)
    run.schedule()  # one that cannot be is an error here, before anything is trained
    return run
