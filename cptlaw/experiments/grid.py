"""A study's config as a list of runs with stable ids."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from cptlaw.experiments.config import ConfigError, Phase, Study
from cptlaw.models import transformer
from cptlaw.training.schedules import Schedule
from cptlaw.training.step import Optimizer


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that decides one run's numbers, and nothing else.

    `init` is the id of the run whose last parameters it starts from (None: from scratch, or from the Hugging Face
    folder `weights`, which takes no training: 0 tokens). `shares` are token shares
    of the training corpora; `eval_tokens` the token counts at which every corpus in `evals` is evaluated. A cool-down
    branch goes on from the checkpoint of its `trunk` (a run's id) where its cool-down begins; the trunk keeps its
    checkpoints at `keep_tokens`.
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
    microbatches: int = 0
    weights: str | None = None
    trunk: str | None = None
    keep_tokens: tuple[int, ...] = ()

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Run":
        """From what `dataclasses.asdict` made of one, JSON in between or not."""
        tuples = {name: tuple(fields[name]) for name in ("evals", "eval_tokens", "keep_tokens")}
        return cls(**{**fields, **tuples, "phase": Phase(**fields["phase"])})

    @property
    def tokens(self) -> int:
        return self.phase.tokens

    @property
    def first_token(self) -> int:
        """Tokens that its trunk has seen for it."""
        return self.tokens - self.phase.cooldown_tokens if self.trunk else 0

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the runs that must be finished before it."""
        return tuple(name for name in (self.init, self.trunk) if name)

    def steps(self, tokens: int) -> int:
        return tokens // (self.seq_len * self.batch_size)

    def make_optimizer(self) -> Optimizer:
        base = self.optimizer.get("mup_base")
        return Optimizer(**{**self.optimizer, "mup_base": base and transformer.Config(**base)})

    def schedule(self) -> Schedule:
        """The learning-rate schedule, in steps."""
        phase = self.phase
        warmup, decay, cooldown = (
            -self.steps(-tokens) for tokens in (phase.warmup_tokens, phase.decay_tokens, phase.cooldown_tokens)
        )
        return Schedule(
            peak=phase.peak_lr,
            steps=self.steps(phase.tokens),
            warmup=warmup,
            kind=phase.schedule,
            final=phase.final_lr,
            cooldown=cooldown,
            shape=phase.cooldown_shape,
            stable=phase.stable_lr,
            decay=decay,
            cycles=phase.cycles,
        )

    def flops(self) -> float:
        """Training FLOPs: what its progress and its place in the queue are measured in."""
        config = transformer.Config(**self.model)
        return (self.tokens - self.first_token) * transformer.flops_per_token(config, self.seq_len)["training"]


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
            for share, seed in cells:
                runs += cpt_runs(study, bases[size], {domain: share}, seed, data)
    return list({run.id: run for run in runs}.values())


def base_run(study: Study, size: str, vocab_size: int, data: dict[str, str]) -> Run:
    """The run that pre-trains the base model of `size` on the general corpus, or imports it."""
    weights = study.init_from.get(size)
    phase = Phase(tokens=0, peak_lr=0.0, warmup_tokens=0) if weights else study.base
    if phase is None:
        raise ConfigError(f"config.base: missing; {size} needs it, being in no config.init_from")
    return _with_id(
        f"base-{size}",
        size=size,
        model={**study.model_fields(size), "vocab_size": study.vocab_size(size, vocab_size)},
        init=None,
        weights=weights,
        shares={study.general: 1.0},
        phase=phase,
        eval_tokens=(phase.tokens,),
        seed=study.seed,
        **_common(study, data),
    )


def cpt_runs(study: Study, base: Run, domain_shares: dict[str, float], seed: int, data: dict[str, str]) -> list[Run]:
    """Continual pre-training from `base`: the domains at their shares, the general corpus the rest.

    One run; or, with `cpt.branch_cooldown`, the trunk and a branch for each of `eval_tokens`.
    """
    domains = {domain: share for domain, share in domain_shares.items() if share > 0}
    general = 1.0 - sum(domains.values())
    mix = "-".join(f"{domain}{share:.4g}" for domain, share in domains.items()) or study.general
    name = f"{base.size}-{mix}-s{seed}"
    common = {
        "size": base.size,
        "model": base.model,
        "init": base.id,
        "shares": {study.general: general, **domains} if general > 0 else domains,
        "seed": seed,
        **_common(study, data),
    }
    if not study.cpt.branch_cooldown:
        return [_with_id(name, phase=study.cpt, eval_tokens=study.eval_tokens, **common)]
    phases = {tokens: _branch(study, tokens) for tokens in study.eval_tokens}
    keep = tuple(tokens - phase.cooldown_tokens for tokens, phase in phases.items())
    stem = dataclasses.replace(study.cpt, tokens=max(keep), branch_cooldown=0.0)
    trunk = _with_id(name, phase=stem, eval_tokens=(), keep_tokens=keep, **common)
    return [trunk] + [
        _with_id(f"{name}-{tokens}", phase=phase, eval_tokens=(tokens,), trunk=trunk.id, **common)
        for tokens, phase in phases.items()
    ]


def _branch(study: Study, tokens: int) -> Phase:
    """The phase of trunk and branch together: `tokens` long, the last share of them a cool-down."""
    per_step = study.tokens_per_step()
    cooldown = max(1, round(study.cpt.branch_cooldown * tokens / per_step)) * per_step
    if cooldown == tokens:
        raise ConfigError(f"config.eval_tokens: {tokens} tokens are one step, too few for a trunk and a cool-down")
    schedule = "infinite" if study.cpt.schedule == "infinite" else "wsd"
    return dataclasses.replace(
        study.cpt, tokens=tokens, schedule=schedule, cooldown_tokens=cooldown, branch_cooldown=0.0
    )


def _common(study: Study, data: dict[str, str]) -> dict[str, Any]:
    return {
        "evals": (study.general, *study.domains),
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
    if run.tokens:
        run.schedule()  # one that cannot be is an error here, before anything is trained
    text = json.dumps({"name": name, **_chosen(run)}, sort_keys=True, default=_chosen)
    return dataclasses.replace(run, id=f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}")


def _chosen(fields: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default: so one that is new changes no id until it is used."""
    return {
        field.name: getattr(fields, field.name)
        for field in dataclasses.fields(fields)
        if getattr(fields, field.name) != field.default
    }
