"""What a run is: everything that decides its numbers, and the conditions under which it trains, which decide none."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from cptlaw.fields import ConfigError, OneOf, above, at_least, between
from cptlaw.models import transformer
from cptlaw.registry import is_own
from cptlaw.schedules import DECAYS, KINDS, Schedule
from cptlaw.training.guard import Spike
from cptlaw.training.step import Optimizer
from cptlaw.training.writers import WRITERS

# A field of `Schedule` -> the one of `Phase` that it is made of.
_OF_PHASE = {
    "steps": "tokens",
    "peak": "peak_lr",
    "warmup": "warmup_tokens",
    "kind": "schedule",
    "final": "final_lr",
    "cooldown": "cooldown_tokens",
    "shape": "cooldown_shape",
    "stable": "stable_lr",
    "decay": "decay_tokens",
    "cycles": "cycles",
}


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training: pre-training of the base, or continual pre-training.

    Attributes:
      tokens: its length, in tokens of all corpora together.
      peak_lr, final_lr, stable_lr: learning rates, as of `schedules.Schedule`.
      warmup_tokens, cooldown_tokens, decay_tokens: lengths in tokens; the schedule rounds them up to whole steps.
      schedule: one of `schedules.KINDS`, or FILE.py:NAME. With a constant learning rate every checkpoint is a run of
        its own length; a schedule that decays over the run confounds its tokens with its learning rate.
      cooldown_shape, cycles: as of `schedules.Schedule`.
      branch_cooldown: of continual pre-training: above 0, every evaluation is at the end of a cool-down of its own,
        which takes this share of its tokens and branches off one long run (the trunk). So every row is annealed, and
        the trunk is paid for once.
      keep_optimizer: of continual pre-training: go on with the base run's optimizer state rather than with a new one.
    """

    tokens: Annotated[int, at_least(1)]
    peak_lr: Annotated[float, above(0, what="a learning rate,", example="3e-4")]
    warmup_tokens: Annotated[int, at_least(0)]
    schedule: Annotated[str, KINDS] = "constant"
    final_lr: Annotated[float, at_least(0)] = 0.0
    cooldown_tokens: Annotated[int, at_least(0)] = 0
    cooldown_shape: Annotated[str, OneOf(tuple(DECAYS))] = "linear"
    stable_lr: Annotated[float, at_least(0)] = 0.0
    decay_tokens: Annotated[int, at_least(0)] = 0
    cycles: Annotated[int, at_least(1)] = 1
    branch_cooldown: Annotated[float, between(0, 1, open_high=True, what="a share of the tokens,")] = 0.0
    keep_optimizer: bool = False

    def in_steps(self, tokens_per_step: int) -> Schedule:
        """The learning-rate schedule, in steps. Raises ConfigError naming the field of the phase, as phase.NAME."""
        values = {name: getattr(self, field) for name, field in _OF_PHASE.items()}
        values["steps"] = self.tokens // tokens_per_step
        for name in ("warmup", "decay", "cooldown"):  # a part of a step counts as a whole one
            values[name] = -(-values[name] // tokens_per_step)
        try:
            made = Schedule(**values)
            if is_own(self.schedule):  # one of the user's own is looked at before anything is trained by it
                made.learning_rates()
            return made
        except ConfigError as error:
            raise ConfigError(f"phase.{_OF_PHASE[error.field.removeprefix('schedule.')]}", error.said) from None


@dataclasses.dataclass(frozen=True)
class Monitor:
    """What is watched while runs train. None of it changes a finished run's numbers.

    Of runs that train together, stalls and profile are in the directory of the first, and the speed that each records
    is that of all.

    Attributes:
      log_steps: steps between two records in a run's metrics.jsonl.
      writers: where else records go, of `training.writers.WRITERS`, or FILE.py:NAME.
      spike: which losses end a run before its time; None, only those that are no number.
      stall_seconds: the stacks of a step that takes longer are in the run's stalls.txt; 0 watches for none.
      profile_steps: first and last step to trace into the run's profile/; (0, 0) traces none.
    """

    log_steps: Annotated[int, at_least(1)] = 10
    writers: Annotated[tuple[str, ...], WRITERS] = ()
    spike: Spike | None = None
    stall_seconds: Annotated[float, at_least(0)] = 600.0
    profile_steps: Annotated[tuple[int, int], at_least(0)] = (0, 0)

    def __post_init__(self):
        first, last = self.profile_steps
        if first > last:
            raise ConfigError("monitor.profile_steps", f"the first step, {first}, comes after the last, {last}")


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that decides one run's numbers, and nothing else.

    Attributes:
      id: a readable name and a digest of the other fields: another config, another id (see `studies.grid`).
      size: name of the model's size in the study.
      model: fields of `models.config.Config`.
      init: id of the run whose last parameters it starts from; None: from scratch, or from `weights`.
      shares: corpus -> token share of the training mix; they sum to 1.
      evals: corpora that are evaluated.
      phase: its length, in tokens, and its learning rates.
      eval_tokens: numbers of tokens at which every corpus in `evals` is evaluated.
      seed: of the order of the data, and of the initial parameters.
      seq_len: tokens of a sequence.
      batch_size: sequences of a step.
      optimizer: fields of `training.step.Optimizer`.
      mesh: sizes of the mesh axes data, fsdp and tensor; empty: data-parallel over as many devices as divide a batch.
      eval_batch_size: sequences of an evaluation's batch.
      eval_max_tokens: tokens of each corpus that are evaluated, at most; None: all of its validation split.
      data: corpus -> digest of its token store.
      microbatches: parts that a batch is taken in; 0: see `training.step.default_microbatches`.
      weights: Hugging Face folder that a base model comes from; it takes no training (0 tokens).
      trunk: of a cool-down branch: id of the run from whose checkpoint it goes on, where its cool-down begins.
      keep_tokens: of a trunk: numbers of tokens at which its checkpoints stay.
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

    @functools.cached_property
    def config(self) -> transformer.Config:
        """The architecture."""
        return transformer.Config(**self.model)

    def make_optimizer(self) -> Optimizer:
        base = self.optimizer.get("mup_base")
        return Optimizer(**{**self.optimizer, "mup_base": base and transformer.Config(**base)})

    @property
    def ema(self) -> float:
        """`Optimizer.ema`."""
        return self.optimizer.get("ema", 0.0)

    def schedule(self) -> Schedule:
        """The learning-rate schedule, in steps."""
        return self.phase.in_steps(self.seq_len * self.batch_size)

    def flops(self) -> float:
        """Training FLOPs: what its progress and its place in the queue are measured in."""
        return (self.tokens - self.first_token) * transformer.flops_per_token(self.config, self.seq_len)["training"]


# Called with the runs that are trained together, the one of them that came further, and the tokens that it has done
# (those of its trunk not counted).
Progress = Callable[[Sequence[Run], Run, int], Any]


@dataclasses.dataclass(frozen=True)
class Conditions:
    """How a process trains: none of it changes a finished run's numbers.

    Attributes:
      checkpoint_seconds: how much work a crash may cost.
      monitor: what is watched meanwhile.
      keep_checkpoint: keep the last checkpoint of a continual pre-training run, which the study itself needs no more.
      progress: told how far each run is.
      should_stop: asked after every step; when it says so, the runs are saved, and `job.Stopped` is raised.
    """

    checkpoint_seconds: float = 60.0
    monitor: Monitor = Monitor()
    keep_checkpoint: bool = False
    progress: Progress = lambda runs, run, tokens: None
    should_stop: Callable[[], bool] = lambda: False
