"""A study as frozen dataclasses. Each field's range stands beside it; `config` checks how they must fit together."""

import dataclasses
import json
from typing import Annotated, Any

import pandas as pd

from cptlaw.errors import UserError
from cptlaw.execution.run import Monitor, Phase
from cptlaw.fields import ConfigError, NotEmpty, OneOf, Seed, at_least, between
from cptlaw.models.config import COMPUTATION
from cptlaw.studies.designs import SHARE, Share, Simplex
from cptlaw.studies.questions import AnyQuestion, TradeOff

Shares = Annotated[tuple[float, ...], SHARE]
SUMS = 1e-6  # shares whose sum is as near as this to 1 sum to 1
# SentencePiece needs an id for each of the 256 bytes, three for padding, end and unknown, and four for newlines and
# runs of spaces; every character that is frequent in the text wants one too.
LEAST_SENTENCEPIECE = 256 + 3 + 4 + 1


@dataclasses.dataclass(frozen=True)
class VocabularySettings:
    """Which vocabulary the corpora are tokenised with.

    Attributes:
      kind: sentencepiece (trained on the general corpus), bytes, or file (an open model's own).
      size: token ids of a SentencePiece vocabulary; the other kinds have a size of their own.
      path: of kind file: the model's folder, its tokenizer.json or its SentencePiece model.
      eos: of kind file: the token that ends a document, where the file does not name it.
    """

    kind: Annotated[str, OneOf(("sentencepiece", "bytes", "file"))] = "sentencepiece"
    size: Annotated[int, at_least(1)] = 1024
    path: str = ""
    eos: str = ""

    def __post_init__(self):
        if bool(self.path) != (self.kind == "file"):
            raise ConfigError("vocabulary.path", "give it with kind 'file', and with no other")
        if self.eos and self.kind != "file":
            raise ConfigError(
                "vocabulary.eos", "give it with kind 'file' alone; the other kinds have an end of their own"
            )
        if self.kind == "sentencepiece" and self.size < LEAST_SENTENCEPIECE:
            raise ConfigError(
                "vocabulary.size",
                f"must be at least {LEAST_SENTENCEPIECE} for sentencepiece, not {self.size} (512 to 8192 suits a few "
                "megabytes of text)",
            )


@dataclasses.dataclass(frozen=True)
class SizeGrid:
    """Continual pre-training runs of one model size: which mixes, and which of them again with other seeds.

    The mixes of all three forms are trained with the study's seed.

    Attributes:
      domain_shares: pairs: token shares of each domain alone, the general corpus having the rest.
      mixes: any mixes, corpus -> share; a corpus left out has none.
      simplex: mixes of the general corpus and all domains, chosen by a rule.
      repeat_shares: shares of `domain_shares`'s kind that are trained with each of `repeat_seeds`, which measures the
        noise between runs.
      repeat_mixes: how many of `mixes` and then of `simplex`, from the first, are trained with each of them too.
      repeat_seeds: seeds of the data order.
      size: the model's size; "" for the one that the part is named after.
      base_seeds: seeds of base models, each pre-trained on its own: every run here is trained from each of them, which
        measures what a base model's seed does to its runs. Empty: the study's seed alone. Another part of the same
        size may ask for more of them at fewer shares.
      domains: the study's domains of `domain_shares`, `repeat_shares` and `simplex` here; empty for all.
      eval_tokens: tokens at which these runs are evaluated, the last of them their length; empty for the study's.
      branch_cooldown: of these runs, in place of `cpt.branch_cooldown`.
    """

    domain_shares: Shares = ()
    repeat_shares: Shares = ()
    repeat_seeds: tuple[Seed, ...] = ()
    size: str = ""
    base_seeds: tuple[Seed, ...] = ()
    domains: tuple[str, ...] = ()
    eval_tokens: tuple[int, ...] = ()
    branch_cooldown: Annotated[float, between(0, 1, open_high=True, what="a share of the tokens,")] | None = None
    mixes: tuple[dict[str, Share], ...] = ()
    simplex: Simplex | None = None
    repeat_mixes: Annotated[int, at_least(0)] = 0

    def __post_init__(self):
        if bool(self.repeat_shares or self.repeat_mixes) != bool(self.repeat_seeds):
            empty = "repeat_seeds" if not self.repeat_seeds else "repeat_shares"
            raise ConfigError(f"grid.{empty}", "must not be empty: runs are repeated with every share and every seed")
        if len(set(self.base_seeds)) < len(self.base_seeds):
            raise ConfigError("grid.base_seeds", f"each seed once, not {self.base_seeds}")
        for i, mix in enumerate(self.mixes):
            if abs(sum(mix.values()) - 1) > SUMS:
                raise ConfigError(f"grid.mixes[{i}]", f"its shares sum to {sum(mix.values()):.6g}, not to 1")
        if self.repeat_mixes > (most := len(self.mixes) + (self.simplex.count if self.simplex else 0)):
            raise ConfigError("grid.repeat_mixes", f"there are {most} in mixes and simplex, not {self.repeat_mixes}")

    @property
    def trains(self) -> bool:
        """Whether there is any mix to train."""
        return bool(self.domain_shares or self.repeat_shares or self.mixes or self.simplex)

    def cells(self, general: str, domains: tuple[str, ...], seed: int) -> list[tuple[dict[str, float], int]]:
        """(domain -> share, seed of the data order) of every run. Raises ConfigError for a simplex without such mixes.

        Args:
          seed: the study's.
        """
        own = self.domains or domains
        several = [*self.mixes, *(self.simplex.mixes((general, *own)) if self.simplex else ())]
        several = [{name: mix.get(name, 0.0) for name in domains} for mix in several]
        cells = [({d: share}, seed) for share in self.domain_shares for d in own]
        cells += [({d: share}, other) for share in self.repeat_shares for other in self.repeat_seeds for d in own]
        cells += [(mix, seed) for mix in several]
        cells += [(mix, other) for mix in several[: self.repeat_mixes] for other in self.repeat_seeds]
        return cells


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Rows of `size` with more than `tokens` tokens are never fitted: the law is judged on them.

    Attributes:
      size: the size whose last rows they are.
      tokens: rows with more are held out.
    """

    size: str
    tokens: Annotated[int, at_least(0)]

    def rows(self, table: pd.DataFrame) -> pd.Series:
        """Whether each row of a runs table is held out."""
        return (table["model"] == self.size) & (table["tokens"] > self.tokens)


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """How a study's losses are fitted.

    Attributes:
      law: NAME, NAME:option=value, or FILE.py:NAME, of a law that reads params, tokens and the domain share; or auto.
      bootstrap: resamples over runs; 0 gives no intervals.
      weights: whose losses: last, those of the step; or average, with `optimizer.ema`. The two behave differently, so
        they are in no fit together; the runs table holds both.
    """

    law: Annotated[str, NotEmpty()] = "auto"
    bootstrap: Annotated[int, at_least(0)] = 1000
    weights: Annotated[str, OneOf(("last", "average"))] = "last"

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a runs table that are asked about."""
        if "ema" not in table:
            return table
        return table[(table["ema"] > 0) == (self.weights == "average")].reset_index(drop=True)


@dataclasses.dataclass(frozen=True)
class CrossDomain:
    """Asks how well a domain is predicted from a short probe: each domain of the grid is left out in turn.

    Attributes:
      probe_tokens: two or three of the study's `eval_tokens`, rising, where the probe is evaluated.
      probe_size: the size whose run with the largest share of the domain is the probe; "" is the smallest.
      leave_out: domains that are left out at a time.
    """

    probe_tokens: tuple[int, ...]
    probe_size: str = ""
    leave_out: Annotated[int, at_least(1)] = 1


@dataclasses.dataclass(frozen=True)
class Study:
    """A whole study. Tokens are counts, shares are shares of tokens, learning rates are raw.

    Attributes:
      name: what the reports call it.
      corpora: name -> source, or the fields of `data.corpora.Spec`.
      general: the corpus that the base models are trained on, and that continual pre-training replays.
      domains: the other corpora that are trained on.
      evaluated: corpora whose losses are measured and fitted too, and that no run trains on.
      model: fields of `models.transformer.Config` but vocab_size, common to all sizes.
      sizes: name of a size -> the fields of `model` that it overrides.
      base: pre-training of the base models; may be None if every size is in `init_from`.
      base_shares: domain -> token share of that pre-training; the general corpus has the rest. Models that people
        continue have seen some text of every kind.
      cpt: continual pre-training.
      eval_tokens: tokens of `cpt` at which every corpus is evaluated; increasing, the last is `cpt.tokens`.
      grid: part of the grid -> its runs. A part is named after its size, or names it as `size`.
      held_out: the rows that the law is judged on.
      evaluate: the corpora that a run of the grid is evaluated on: all; or own, the general corpus and the domains that
        it trains on, since with many domains the evaluations would cost more than the training. Base models, and runs
        of the general corpus alone, are evaluated on all.
      seq_len: tokens of a sequence.
      batch_size: sequences of a training batch; a step takes batch_size x seq_len tokens.
      eval_batch_size: sequences of an evaluation batch.
      seed: of the base models' weights and of the data order.
      vocabulary: of all corpora.
      validation_share: expected share of the documents that are held out for evaluation.
      eval_max_tokens: held-out tokens of each corpus that an evaluation scores; None scores all.
      optimizer: fields of `training.step.Optimizer`; its `mup_base` is the name of a size here.
      microbatches: parts that a batch is taken in, one after the other: less memory, the same gradient. 0 chooses, see
        `training.step.default_microbatches`.
      mesh: sizes of the mesh axes data, fsdp and tensor, in devices; -1 is the rest. By default all are on
        data.
      init_from: size -> Hugging Face folder, here or in a bucket (gs://, s3://), or GGUF file (*.gguf), whose weights
        are its base model, and whose config.json, or keys, are its architecture. The vocabulary must be that model's.
        Other weights must lie under another name: a run's id holds the name, not the weights.
      question: what the study answers, see `questions`; its `kind` is that of `cptlaw plan`, a trade-off by default.
      cross_domain: how well the grid tells of a domain that it did not train; None does not ask.
      confirm_runs: runs trained at the recommendation, each with a seed of its own that no run of the grid has.
      fit: how its losses are fitted.
      first: parts of the grid that are trained before the others, in this order, and in each every domain at a share
        before the next share: so the table is of use before it is whole. Empty: the longest runs first, so that no core
        is left alone with one at the end.
      workers: processes that train, each on devices of its own. 0 fills the machine: on a CPU one a core (tiny models
        gain nothing from a second core), elsewhere as many as `devices_per_run` leaves devices for.
      devices_per_run: GPUs, or TPU chips, that a worker has to itself. 0: as many as `mesh` multiplies to, and without
        a mesh 1; or an equal part of the machine's, if `workers` says for how many. A model that is not divided by
        `mesh` is trained data-parallel on them.
      together: runs of one size that a worker trains in one program at most, which changes their numbers by rounding
        alone (1e-5). A small model leaves most of an accelerator idle, so 0 takes as many as fill its time and its
        memory (`training.together.most`), and on a CPU 1. Trunks of `cpt.branch_cooldown` go with trunks, and branches
        with those of their length. Imported models, all runs if `mesh` is given, and a run whose process has died are
        trained alone.
      checkpoint_seconds: seconds between two checkpoints: the work that a crash may cost.
      monitor: what is watched while runs train.
    """

    name: Annotated[str, NotEmpty()]
    corpora: Annotated[dict[str, Any], NotEmpty()]
    general: str
    domains: tuple[str, ...]
    model: dict[str, Any]
    sizes: Annotated[dict[str, dict[str, Any]], NotEmpty()]
    base: Phase | None
    cpt: Phase
    eval_tokens: tuple[int, ...]
    grid: dict[str, SizeGrid]
    held_out: HeldOut
    evaluate: Annotated[str, OneOf(("all", "own"))] = "all"
    seq_len: Annotated[int, at_least(1)] = 128
    batch_size: Annotated[int, at_least(1)] = 16
    eval_batch_size: Annotated[int, at_least(1)] = 32
    seed: Seed = 0
    vocabulary: VocabularySettings = VocabularySettings()
    validation_share: Annotated[
        float, between(0, 1, open_low=True, open_high=True, what="a share of the documents,", example="0.05")
    ] = 0.05
    eval_max_tokens: Annotated[int | None, at_least(1)] = None
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    microbatches: Annotated[int, at_least(0)] = 0
    mesh: dict[str, int] = dataclasses.field(default_factory=dict)
    init_from: dict[str, Annotated[str, NotEmpty()]] = dataclasses.field(default_factory=dict)
    evaluated: tuple[str, ...] = ()
    base_shares: dict[str, Share] = dataclasses.field(default_factory=dict)
    question: AnyQuestion = dataclasses.field(default_factory=TradeOff)
    cross_domain: CrossDomain | None = None
    confirm_runs: Annotated[int, at_least(0)] = 1
    fit: FitSettings = FitSettings()
    first: tuple[str, ...] = ()
    workers: Annotated[int, at_least(0)] = 0
    devices_per_run: Annotated[int, at_least(0)] = 0
    together: Annotated[int, at_least(0)] = 0
    checkpoint_seconds: Annotated[float, at_least(0)] = 60.0
    monitor: Monitor = dataclasses.field(default_factory=Monitor)

    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def names(self) -> tuple[str, ...]:
        """Every corpus that is evaluated: the general one, the domains, and those that no run trains on."""
        return (self.general, *self.domains, *self.evaluated)

    def whole_steps(self, tokens: float) -> int:
        """The nearest number of tokens that is a whole number of steps, and at least one."""
        return max(1, round(tokens / self.tokens_per_step())) * self.tokens_per_step()

    def lasting(self, tokens: int) -> "Study":
        """This study with a continual pre-training of so many tokens, whose schedule keeps its other lengths.

        Raises ConfigError where they are no whole number of steps or the schedule does not fit into them.
        """
        if tokens == self.cpt.tokens:
            return self
        if (near := self.whole_steps(tokens)) != tokens:
            raise ConfigError("cpt.tokens", f"{tokens} tokens are no whole number of steps; the nearest is {near}")
        evals = (*(t for t in self.eval_tokens if t < tokens), tokens)
        longer = dataclasses.replace(self, cpt=dataclasses.replace(self.cpt, tokens=tokens), eval_tokens=evals)
        for phase in (longer.trunk(), *longer.branches().values()) if self.cpt.branch_cooldown else (longer.cpt,):
            phase.in_steps(self.tokens_per_step())
        return longer

    def grid_sizes(self) -> dict[str, str]:
        """Part of the grid -> its size, in the order of `first`."""
        return {part: self.grid[part].size or part for part in dict.fromkeys((*self.first, *self.grid))}

    def of_part(self, part: str) -> "Study":
        """The study with the evaluations and the cool-downs of one part of the grid in place of its own."""
        grid, cpt = self.grid[part], self.cpt
        if grid.eval_tokens:
            cpt = dataclasses.replace(cpt, tokens=grid.eval_tokens[-1])
        if grid.branch_cooldown is not None:
            cpt = dataclasses.replace(cpt, branch_cooldown=grid.branch_cooldown)
        return dataclasses.replace(self, cpt=cpt, eval_tokens=grid.eval_tokens or self.eval_tokens)

    def seeds(self) -> set[int]:
        """The seeds of all runs of the grid."""
        return {self.seed, *(seed for grid in self.grid.values() for seed in grid.repeat_seeds)}

    def model_fields(self, size: str) -> dict[str, Any]:
        """The fields of `transformer.Config` of one size, without vocab_size.

        The config's own fields are the shared ones, overridden by the size's. A size in `init_from` takes its
        architecture from the folder, and from the config only how the model is computed (`models.config.COMPUTATION`).
        """
        given = {**self.model, **self.sizes[size]}
        if size not in self.init_from:
            return given
        architecture = {name: value for name, value in self._imported(size).items() if name != "vocab_size"}
        return architecture | {name: value for name, value in given.items() if name in COMPUTATION}

    def vocab_size(self, size: str, vocabulary: int) -> int:
        """The rows of one size's embedding for a vocabulary of so many ids, which an imported model may have padded."""
        if size not in self.init_from:
            return vocabulary
        rows = self._imported(size)["vocab_size"]
        if rows < vocabulary:
            raise ConfigError(
                f"config.init_from.{size}",
                f"the model has {rows} token ids and config.vocabulary {vocabulary}; use the model's own vocabulary",
            )
        return rows

    def branches(self) -> dict[int, Phase]:
        """With `cpt.branch_cooldown`: tokens of an evaluation -> the phase of trunk and branch together.

        It is as many tokens long, and its last share of them is a cool-down.

        Raises ConfigError where there is no room for both.
        """
        per_step, phases = self.tokens_per_step(), {}
        schedule = "infinite" if self.cpt.schedule == "infinite" else "wsd"
        for tokens in self.eval_tokens:
            cooldown = max(1, round(self.cpt.branch_cooldown * tokens / per_step)) * per_step
            if cooldown == tokens:
                raise ConfigError(
                    "config.eval_tokens", f"{tokens} tokens are one step, too few for a trunk and a cool-down"
                )
            phases[tokens] = dataclasses.replace(
                self.cpt, tokens=tokens, schedule=schedule, cooldown_tokens=cooldown, branch_cooldown=0.0
            )
        return phases

    def trunk(self) -> Phase:
        """With `cpt.branch_cooldown`: the one long run that all branches start from."""
        tokens = max(tokens - phase.cooldown_tokens for tokens, phase in self.branches().items())
        return dataclasses.replace(self.cpt, tokens=tokens, branch_cooldown=0.0)

    def _imported(self, size: str) -> dict[str, Any]:
        from cptlaw.models import weights

        try:
            cfg = weights.read_config(self.init_from[size])
        except UserError as error:
            raise ConfigError(f"config.init_from.{size}", str(error)) from error
        # The ids of runs of imported models hold all fields that there were then; younger ones where they are used.
        names = [field.name for field in dataclasses.fields(cfg) if field.compare]
        held = names[: names.index("gradient_dtype")]
        default = {field.name: field.default for field in dataclasses.fields(cfg)}
        return {n: getattr(cfg, n) for n in names if n in held or getattr(cfg, n) != default[n]}

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
