"""What a run is: everything that decides its numbers, and what is watched while it trains."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cptlaw.models import transformer
from cptlaw.schedules import Schedule
from cptlaw.training.guard import Spike
from cptlaw.training.step import Optimizer


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training: pre-training of the base, or continual pre-training."""

    tokens: int
    peak_lr: float
    warmup_tokens: int
    # With a constant learning rate every checkpoint is a run of its own length; a schedule that decays over the run
    # confounds its tokens with its learning rate.
    schedule: str = "constant"
    final_lr: float = 0.0
    cooldown_tokens: int = 0
    # The rest of `training.schedules.Schedule`, for those kinds that have it.
    cooldown_shape: str = "linear"
    stable_lr: float = 0.0
    decay_tokens: int = 0
    cycles: int = 1
    # Of continual pre-training: above 0, every evaluation is at the end of a cool-down of its own, which takes this
    # share of its tokens and branches off one long run (the trunk). So every row is annealed, and the trunk is paid
    # for once.
    branch_cooldown: float = 0.0
    # Of continual pre-training: go on with the base run's optimizer state rather than with a new one.
    keep_optimizer: bool = False


@dataclasses.dataclass(frozen=True)
class Monitor:
    """What is watched while runs train. None of it changes a finished run's numbers.

    Of runs that train together, stalls and profile are in the directory of the first, and the speed that each records
    is that of all.

    Attributes:
      log_steps: steps between two records in a run's metrics.jsonl.
      writers: where else records go, of `training.writers.KINDS`.
      spike: which losses end a run before its time; None, only those that are no number.
      stall_seconds: the stacks of a step that takes longer are in the run's stalls.txt; 0 watches for none.
      profile_steps: first and last step to trace into the run's profile/; (0, 0) traces none.
    """

    log_steps: int = 10
    writers: tuple[str, ...] = ()
    spike: Spike | None = None
    stall_seconds: float = 600.0
    profile_steps: tuple[int, int] = (0, 0)


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
