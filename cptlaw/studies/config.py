"""What a study's config may say, and the checks that name the field when it says something else.

Configs are `ml_collections` ConfigDicts (`configs/*.py`), because command lines override those; here they
become frozen dataclasses, so that a misspelt field is an error and not a silent default.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cptlaw import fields as fields_lib
from cptlaw import laws
from cptlaw.execution.run import Monitor, Phase
from cptlaw.fields import ConfigError
from cptlaw.fitting.result import AUTO
from cptlaw.models import transformer
from cptlaw.models.config import COMPUTATION
from cptlaw.training.step import Optimizer
from cptlaw.training.writers import KINDS as WRITERS


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """`kind` is sentencepiece (of `size` ids, trained on the general corpus), bytes, or file: an open model's own.

    `path` is then its folder, its tokenizer.json or SentencePiece model; `eos` the token that ends a document, where
    the file does not say.
    """

    kind: str = "sentencepiece"
    size: int = 1024
    path: str = ""
    eos: str = ""


@dataclasses.dataclass(frozen=True)
class SizeGrid:
    """The continual pre-training runs of one model size.

    `domain_shares` are trained with the study's seed; `repeat_shares` again with each of `repeat_seeds`, which is
    how the noise between runs is measured.
    """

    domain_shares: tuple[float, ...]
    repeat_shares: tuple[float, ...] = ()
    repeat_seeds: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Rows of `size` with more than `tokens` tokens are never fitted: the law is judged on them."""

    size: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class Question:
    """The largest domain share whose general loss stays within `tolerance` (relative) of the base model's.

    It is to hold with the probability `confidence`.
    """

    tolerance: float = 0.03
    confidence: float = 0.9


@dataclasses.dataclass(frozen=True)
class Fit:
    law: str = "auto"
    bootstrap: int = 1000


@dataclasses.dataclass(frozen=True)
class Study:
    """A whole study. Tokens are counts; shares are shares of tokens; learning rates are raw.

    `corpora` maps a name to a source, or to the fields of `data.corpora.Spec`; `model` holds the fields of
    `models.transformer.Config` but for vocab_size, and each of `sizes` overrides some of them; `optimizer` those of
    `training.step.Optimizer`, its `mup_base` as the name of a size. `base` pre-trains the sizes that are not in
    `init_from`, if there are any.
    """

    name: str
    corpora: dict[str, Any]
    general: str
    domains: tuple[str, ...]
    model: dict[str, Any]
    sizes: dict[str, dict[str, Any]]
    base: Phase | None
    cpt: Phase
    eval_tokens: tuple[int, ...]
    grid: dict[str, SizeGrid]
    held_out: HeldOut
    seq_len: int = 128
    batch_size: int = 16
    eval_batch_size: int = 32
    seed: int = 0
    vocabulary: Vocabulary = Vocabulary()
    # Expected share of the documents held out, and how many of their tokens an evaluation scores (None: all).
    validation_share: float = 0.05
    eval_max_tokens: int | None = None
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    # Parts to take a batch in, one after the other: less memory, the same gradient. 0 chooses, see
    # `training.step.default_microbatches`.
    microbatches: int = 0
    # Sizes of the mesh axes data, fsdp, tensor; all devices on data unless it says otherwise.
    mesh: dict[str, int] = dataclasses.field(default_factory=dict)
    # Size -> Hugging Face folder whose weights are its base model, and whose config.json is its architecture. The
    # vocabulary must be that model's; another folder's weights need another path.
    init_from: dict[str, str] = dataclasses.field(default_factory=dict)
    question: Question = Question()
    fit: Fit = Fit()
    # 0 chooses: one worker a core on a CPU (tiny models gain nothing from a second core), one in all elsewhere.
    workers: int = 0
    # How many runs of one size a worker trains in one program, which changes their numbers by rounding alone (1e-5).
    # A small model leaves most of an accelerator idle: there, for instance, 8. On a CPU more than 1 gain nothing
    # (benchmarks/cpu_step.py). Each on its own are still imported models, trunks and branches of `cpt.branch_cooldown`,
    # all runs if `mesh` is given, and a run whose process has died.
    together: int = 1
    checkpoint_seconds: float = 60.0
    monitor: Monitor = dataclasses.field(default_factory=Monitor)

    def tokens_per_step(self) -> int:
        return self.batch_size * self.seq_len

    def seeds(self) -> set[int]:
        """The seeds of all runs of the grid."""
        return {self.seed, *(seed for grid in self.grid.values() for seed in grid.repeat_seeds)}

    def model_fields(self, size: str) -> dict[str, Any]:
        """The model config fields of one size: the shared ones, overridden by the size's own.

        Of one in `init_from`: its architecture, and what of those fields is none (`models.config.COMPUTATION`).
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
                f"config.init_from.{size}: the model has {rows} token ids and config.vocabulary {vocabulary}; "
                "use the model's own vocabulary"
            )
        return rows

    def _imported(self, size: str) -> dict[str, Any]:
        from cptlaw.models import hf

        return dataclasses.asdict(hf.read_config(self.init_from[size]))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)


def parse(config: Mapping[str, Any]) -> Study:
    """Checks a config (ConfigDict or dict) and returns it as a `Study`. Raises ConfigError naming the field."""
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    study = fields_lib.build(Study, plain, "config")
    _check(study)
    return study


def _check(study: Study) -> None:
    for field in ("seq_len", "batch_size", "eval_batch_size", "together"):
        if getattr(study, field) < 1:
            raise ConfigError(f"config.{field}: must be at least 1, not {getattr(study, field)}")
    for field, names in {"general": (study.general,), "domains": study.domains}.items():
        for name in names:
            if name not in study.corpora:
                raise ConfigError(
                    f"config.{field}: no corpus {name!r} in config.corpora, which has {', '.join(study.corpora)}"
                )
    if study.general in study.domains or not study.domains:
        raise ConfigError("config.domains: name at least one corpus that is not the general one")
    for size in study.grid:
        if size not in study.sizes:
            raise ConfigError(f"config.grid.{size}: no such size; config.sizes has {', '.join(study.sizes)}")
        for field in ("domain_shares", "repeat_shares"):
            for share in getattr(study.grid[size], field):
                if not 0 <= share <= 1:
                    raise ConfigError(
                        f"config.grid.{size}.{field}: a share lies between 0 and 1, not {share} (0.25 is a quarter)"
                    )
    for size in study.init_from:
        if size not in study.sizes:
            raise ConfigError(f"config.init_from.{size}: no such size; config.sizes has {', '.join(study.sizes)}")
        for name in study.sizes[size]:
            if name not in COMPUTATION:
                raise ConfigError(f"config.sizes.{size}.{name}: the folder in config.init_from decides it; remove one")
    if study.base is None and (scratch := [size for size in study.grid if size not in study.init_from]):
        raise ConfigError(f"config.base: missing; {', '.join(scratch)} need it, being in no config.init_from")
    if study.held_out.size not in study.grid:
        raise ConfigError(f"config.held_out.size: {study.held_out.size!r} is not in config.grid")
    if sorted(study.eval_tokens) != list(study.eval_tokens) or not study.eval_tokens:
        raise ConfigError("config.eval_tokens: give increasing token counts, at least one")
    per_step = study.tokens_per_step()
    for field, tokens in [
        *([("base.tokens", study.base.tokens)] if study.base else []),
        ("cpt.tokens", study.cpt.tokens),
        *(("eval_tokens", t) for t in study.eval_tokens),
    ]:
        if tokens % per_step or tokens <= 0:
            near = max(per_step, round(tokens / per_step) * per_step)
            raise ConfigError(
                f"config.{field}: {tokens} is not a whole number of steps of {per_step} tokens "
                f"(batch_size x seq_len); the nearest is {near}"
            )
    if study.eval_tokens[-1] != study.cpt.tokens:
        raise ConfigError(
            f"config.eval_tokens: the last, {study.eval_tokens[-1]}, must be config.cpt.tokens, {study.cpt.tokens}"
        )
    _check_branches(study)
    for writer in study.monitor.writers:
        if writer not in WRITERS:
            raise ConfigError(f"config.monitor.writers: {', '.join(WRITERS)} are known, not {writer!r}")
    if study.together > 1 and "wandb" in study.monitor.writers:
        raise ConfigError("config.together: wandb follows one run of a process at a time; leave it at 1, or wandb out")
    if study.monitor.log_steps < 1:
        raise ConfigError(f"config.monitor.log_steps: must be at least 1, not {study.monitor.log_steps}")
    _check_fields("model", study.model, transformer.Config, but="vocab_size")
    for size, fields in study.sizes.items():
        _check_fields(f"sizes.{size}", fields, transformer.Config, but="vocab_size")
    _check_fields("optimizer", study.optimizer, Optimizer)
    if study.optimizer.get("mup_base") not in (None, *study.sizes):
        raise ConfigError(
            f"config.optimizer.mup_base: the size whose learning rate it is, one of {', '.join(study.sizes)}, "
            f"not {study.optimizer['mup_base']!r}"
        )
    if not study.grid[study.held_out.size].domain_shares:
        raise ConfigError(f"config.grid.{study.held_out.size}.domain_shares: the held-out size needs runs")
    if study.fit.law != AUTO:
        laws.for_table(study.fit.law, pd.DataFrame(columns=[f"w_{name}" for name in (study.general, *study.domains)]))
    if not 0 < study.question.tolerance < 1:
        raise ConfigError("config.question.tolerance: a relative rise of the general loss, such as 0.03 for 3%")
    if not 0 < study.question.confidence < 1:
        raise ConfigError("config.question.confidence: a probability that the ceiling holds, such as 0.9 for 90%")
    for axis in study.mesh:
        if axis not in ("data", "fsdp", "tensor"):
            raise ConfigError(f"config.mesh.{axis}: no such axis; data, fsdp and tensor are the mesh's axes")
    if study.vocabulary.kind not in ("sentencepiece", "bytes", "file"):
        raise ConfigError(f"config.vocabulary.kind: sentencepiece, bytes or file, not {study.vocabulary.kind!r}")
    if bool(study.vocabulary.path) != (study.vocabulary.kind == "file"):
        raise ConfigError("config.vocabulary.path: give it with kind 'file', and with no other")


def _check_branches(study: Study) -> None:
    share = study.cpt.branch_cooldown
    if not 0 <= share < 1:
        raise ConfigError(f"config.cpt.branch_cooldown: a share of the tokens, at least 0 and below 1, not {share}")
    if share and (study.cpt.schedule not in ("constant", "infinite") or study.cpt.cooldown_tokens):
        raise ConfigError(
            "config.cpt.branch_cooldown: branches cool down from a constant or infinite schedule without a cool-down, "
            f"not from {study.cpt.schedule} with {study.cpt.cooldown_tokens} cooldown_tokens"
        )
    for field in ("branch_cooldown", "keep_optimizer"):
        if study.base and getattr(study.base, field):
            raise ConfigError(f"config.base.{field}: belongs to config.cpt")


def _check_fields(path: str, given: Mapping[str, Any], kind: type, but: str = "") -> None:
    known = [field.name for field in dataclasses.fields(kind) if field.name != but]
    for name in given:
        if name not in known:
            raise fields_lib.unknown(f"config.{path}", name, known)
