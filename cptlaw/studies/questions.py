"""What a study asks: the questions of `cptlaw plan` that recommend a run, each with the fields that it has there.

A question knows which parts of the grid it is asked of, has `planning` decide it, and says which run its answer is. The
general corpus and the domains are the study's, sizes are named, and base losses are the measured ones.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import pandas as pd

from cptlaw import planning, runs
from cptlaw.fields import ConfigError, OneOf, above, at_least, between, unknown
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.mixture import limits
from cptlaw.studies.designs import Share, rounded

if TYPE_CHECKING:
    from cptlaw.fitting import Fit
    from cptlaw.studies.settings import Study

Nats = Annotated[float, above(0, what="nats per token are", example="2.5")]
Tokens = Annotated[float, at_least(1000, what="a count of tokens is", example="5e6")]
Weight = Annotated[float, at_least(0, what="a weight is")]
Confidence = Annotated[
    float, between(0, 1, open_high=True, what="a probability that the ceiling holds,", example="0.9 for 90%")
]
Rise = Annotated[
    float,
    between(0, 1, open_low=True, open_high=True, what="a relative rise of the general loss,", example="0.03 for 3%"),
]
ALL = "mixture"  # the part that is all of a study


@dataclasses.dataclass(frozen=True)
class Part:
    """One answer of a study, and the runs that it rests on.

    Attributes:
      name: of its files.
      mixed: the corpora of its mixes; its runs train on no other.
      evals: the corpora whose losses are fitted.
    """

    name: str
    mixed: tuple[str, ...]
    evals: tuple[str, ...]

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Its rows of the study's runs table, without the columns of other corpora's shares."""
        return runs.of_mixes(table, self.mixed, self.evals)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a question is decided from.

    Attributes:
      study, part: the study and its part.
      table: the part's rows.
      fits: evaluated corpus -> fit.
      params: size -> non-embedding parameters.
    """

    study: "Study"
    part: Part
    table: pd.DataFrame
    fits: Mapping[str, "Fit"]
    params: Mapping[str, int]

    @property
    def general(self) -> "Fit":
        return self.fits[self.study.general]

    @property
    def domain(self) -> "Fit":
        """Of a part of two corpora, the fit of the one that is not the general corpus."""
        return self.fits[self.part.name]


@dataclasses.dataclass(frozen=True)
class Recommended:
    """The run that a decision recommends: a size of the study, tokens, and the domains' shares."""

    size: str
    tokens: int
    shares: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What all questions have in common.

    Attributes:
      kind: which question it is.
      level: of every interval, 0.9 for 90%.
    """

    reads: ClassVar[tuple[str, ...]] = ()  # what the law must read, beside the mix
    compares: ClassVar[tuple[str, ...]] = ()  # columns that the grid must vary, beside the mix

    kind: str
    level: Annotated[
        float, between(0, 1, open_low=True, open_high=True, what="a confidence,", example="0.9 for 90%")
    ] = 0.9

    def parts(self, study: "Study") -> list[Part]:
        """A part for each domain, of the mixes of it and the general corpus alone."""
        pairs = [(study.general, domain) for domain in study.domains]
        return [Part(pair[1], pair, (*pair, *study.evaluated)) for pair in pairs]

    def check(self, study: "Study") -> None:
        """Raises ConfigError for what the study's other fields do not allow."""

    def decide(self, asked: Asked) -> Decision:
        """Raises DecisionError where there is no answer."""
        raise NotImplementedError

    def recommended(self, decision: Decision, asked: Asked) -> Recommended:
        """The run to be trained, its shares as a person would type them and its tokens whole steps."""
        raise NotImplementedError

    def measured_bases(self, study: "Study") -> tuple[str, ...]:
        """Sizes whose base models' losses it needs, which the runs of the part must measure."""
        return ()

    def rebased(self, study: "Study") -> dict[str, str]:
        """Evaluated corpus -> the size to whose base model its losses are carried (`runs.rebased`)."""
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtOneSize(Question):
    """A question about the mix of a planned run.

    Attributes:
      size: of `config.sizes`; by default the held-out one.
      tokens: of all corpora together; by default those of `config.cpt`.
    """

    size: str = ""
    tokens: Annotated[int | None, at_least(1)] = None

    def planned(self, study: "Study") -> tuple[str, int]:
        """Size and tokens."""
        return self.size or study.held_out.size, self.tokens or study.cpt.tokens

    def run(self, asked: Asked) -> dict[str, float]:
        """The planned run's columns."""
        size, tokens = self.planned(asked.study)
        return {"params": asked.params[size], "tokens": tokens}

    def check(self, study: "Study") -> None:
        size, tokens = self.planned(study)
        if size not in study.sizes:
            raise ConfigError("config.question.size", f"no size {size!r}; config.sizes has {', '.join(study.sizes)}")
        try:
            study.lasting(tokens)
        except ConfigError as error:
            raise ConfigError("config.question.tokens", error.said) from error

    def recommended(self, decision: Decision, asked: Asked) -> Recommended:
        size, tokens = self.planned(asked.study)
        return Recommended(size, tokens, {asked.part.name: round(decision.point["share"], 3)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TradeOff(AtOneSize):
    """The domain share with the least domain loss whose general loss stays under a ceiling: `cptlaw plan trade-off`.

    Attributes:
      tolerance: allowed relative rise of the general loss over the base model's.
      rise: the same in nats per token, instead.
      confidence: the probability with which the ceiling is to hold; 0: the predicted loss is to meet it.
      corpus_tokens: tokens there are of each corpus; compares the mix in proportion to them.
    """

    kind: Annotated[str, OneOf(("trade-off",))] = "trade-off"
    tolerance: Rise = 0.03
    rise: Nats | None = None
    confidence: Confidence = 0.9
    corpus_tokens: dict[str, Tokens] = dataclasses.field(default_factory=dict)

    def check(self, study: "Study") -> None:
        super().check(study)
        _known(study, "corpus_tokens", self.corpus_tokens, (study.general, *study.domains))

    def measured_bases(self, study: "Study") -> tuple[str, ...]:
        return (self.planned(study)[0],)

    def rebased(self, study: "Study") -> dict[str, str]:
        return {study.general: self.planned(study)[0]}

    def decide(self, asked: Asked) -> Decision:
        run = self.run(asked)
        base_loss, error = planning.measured_base(asked.table, asked.study.general, run["params"])
        return planning.trade_off(
            asked.general,
            asked.domain,
            **run,
            base_loss=base_loss,
            base_loss_se=error,
            tolerance=self.tolerance,
            ceiling=None if self.rise is None else base_loss + self.rise,
            confidence=self.confidence or None,
            corpus_tokens=self.corpus_tokens or None,
            level=self.level,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareForLoss(AtOneSize):
    """The share at which a domain has a given loss: `cptlaw plan share`.

    Attributes:
      loss: the wanted loss, nats per token.
    """

    kind: Annotated[str, OneOf(("share",))] = "share"
    loss: Nats

    def decide(self, asked: Asked) -> Decision:
        return planning.share_for_loss(asked.domain, loss=self.loss, **self.run(asked), level=self.level)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LimitedData(AtOneSize):
    """The share that makes the most of little domain text: `cptlaw plan limited-data`.

    Attributes:
      tokens: the most that is trained on, both corpora together.
      domain_tokens: unique tokens of domain text; by default the training tokens that the study has.
      max_epochs: most passes over them.
      repetition: epochs after which repeated text is worth 1/e less; by default that of Muennighoff et al.
    """

    reads: ClassVar[tuple[str, ...]] = ("tokens",)
    compares: ClassVar[tuple[str, ...]] = ("tokens",)

    kind: Annotated[str, OneOf(("limited-data",))] = "limited-data"
    domain_tokens: Tokens | None = None
    max_epochs: Annotated[float, at_least(1)] = 1.0
    repetition: Annotated[float | None, above(0)] = None

    def decide(self, asked: Asked) -> Decision:
        run = self.run(asked)
        given = {} if self.repetition is None else {"repetition": self.repetition}
        return planning.limited_data(
            asked.domain,
            **run,
            domain_tokens=self.domain_tokens or self._there(asked),
            max_epochs=self.max_epochs,
            **given,
            level=self.level,
        )

    def recommended(self, decision: Decision, asked: Asked) -> Recommended:
        found = super().recommended(decision, asked)
        there, wanted = self._there(asked), decision.inputs["domain_tokens"]
        if (decision.point["epochs"] > 1 and abs(there - wanted) > 0.01 * wanted) or there < 0.99 * wanted:
            raise DecisionError(
                f"the study has {there:,.0f} tokens of {asked.part.name} and the question is about {wanted:,.0f}, so "
                "its text would be repeated another number of times"
            )
        return dataclasses.replace(found, tokens=asked.study.whole_steps(decision.point["tokens"]))

    def _there(self, asked: Asked) -> float:
        """Training tokens of the domain that the study has."""
        return float(asked.table[f"unique_tokens_{asked.part.name}"].iloc[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Question):
    """The best size, tokens and share for a compute budget: `cptlaw plan budget`.

    Attributes:
      flops: for training and inference together.
      share: of domain text; by default the best share is found too.
      sizes: of `config.sizes`, to choose from; by default all.
      ceiling: the most general loss allowed, nats per token.
      inference_tokens: tokens that the model will serve over its life.
    """

    reads: ClassVar[tuple[str, ...]] = ("params", "tokens")
    compares: ClassVar[tuple[str, ...]] = ("params", "tokens")

    kind: Annotated[str, OneOf(("budget",))] = "budget"
    flops: Annotated[float, above(0)]
    share: Share | None = None
    sizes: tuple[str, ...] = ()
    ceiling: Nats | None = None
    inference_tokens: Annotated[float, at_least(0)] = 0.0

    def check(self, study: "Study") -> None:
        for size in self.sizes:
            if size not in study.sizes:
                raise ConfigError("config.question.sizes", f"no size {size!r}; there are {', '.join(study.sizes)}")
        if self.ceiling is not None and self.share is not None:
            raise ConfigError("config.question.ceiling", "it chooses the share: give one of ceiling and share")

    def decide(self, asked: Asked) -> Decision:
        return planning.budget(
            asked.domain,
            *([] if self.ceiling is None else [asked.general]),
            flops=self.flops,
            share=self.share,
            sizes=[asked.params[size] for size in self._menu(asked.study)],
            ceiling=self.ceiling,
            inference_tokens=self.inference_tokens,
            level=self.level,
        )

    def recommended(self, decision: Decision, asked: Asked) -> Recommended:
        size = next(size for size in self._menu(asked.study) if asked.params[size] == decision.point["params"])
        share = decision.point.get("share", self.share)
        assert share is not None
        tokens = asked.study.whole_steps(decision.point["tokens"])
        return Recommended(size, tokens, {asked.part.name: round(share, 3)})

    def _menu(self, study: "Study") -> tuple[str, ...]:
        return self.sizes or tuple(study.sizes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(AtOneSize):
    """The shares of all corpora with the least weighted sum, or the least worst, of losses: `cptlaw plan mixture`.

    Attributes:
      weights: evaluated corpus -> weight of its loss; 0 for those left out, 1 each by default.
      worst: minimise the largest weighted loss, not the sum.
      floors, caps: corpus -> smallest and largest share.
      corpus_tokens, max_epochs: unique tokens there are of a corpus, and the most passes over them.
      ceilings: evaluated corpus -> most loss allowed, nats per token.
      tolerances: the same as a relative rise over the base model's.
      confidence: the probability with which all ceilings are to hold; 0: the predicted losses are to meet them.
      beyond: look outside the measured mixes and their blends too.
    """

    kind: Annotated[str, OneOf((ALL,))] = ALL
    weights: dict[str, Weight] = dataclasses.field(default_factory=dict)
    worst: bool = False
    floors: dict[str, Share] = dataclasses.field(default_factory=dict)
    caps: dict[str, Share] = dataclasses.field(default_factory=dict)
    corpus_tokens: dict[str, Tokens] = dataclasses.field(default_factory=dict)
    max_epochs: Annotated[float, above(0)] = 1.0
    ceilings: dict[str, Nats] = dataclasses.field(default_factory=dict)
    tolerances: dict[str, Rise] = dataclasses.field(default_factory=dict)
    confidence: Confidence = 0.9
    beyond: bool = False

    def parts(self, study: "Study") -> list[Part]:
        return [Part(ALL, (study.general, *study.domains), study.names)]

    def check(self, study: "Study") -> None:
        super().check(study)
        for field in ("weights", "ceilings", "tolerances"):
            _known(study, field, getattr(self, field), study.names)
        for field in ("floors", "caps", "corpus_tokens"):
            _known(study, field, getattr(self, field), (study.general, *study.domains))
        if self.weights and not any(self.weights.values()):
            raise ConfigError("config.question.weights", "give one of the corpora a weight above 0")
        if both := sorted(self.ceilings.keys() & self.tolerances.keys()):
            raise ConfigError(f"config.question.tolerances.{both[0]}", "has a ceiling too; remove one of them")
        try:
            self.limits(study)
        except DecisionError as error:
            raise ConfigError("config.question", str(error)) from error

    def measured_bases(self, study: "Study") -> tuple[str, ...]:
        return (self.planned(study)[0],) if self.tolerances else ()

    def rebased(self, study: "Study") -> dict[str, str]:
        return {name: self.planned(study)[0] for name in self.tolerances if name == study.general}

    def limits(self, study: "Study") -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest share of the general corpus and each domain. Raises DecisionError where none fits."""
        return limits(
            (study.general, *study.domains), self.floors, self.caps, self.corpus_tokens, self.max_epochs,
            self.planned(study)[1],
        )  # fmt: skip

    def decide(self, asked: Asked) -> Decision:
        run = self.run(asked)
        bases = {name: planning.base_loss(asked.table, name, run["params"]) for name in self.tolerances}
        return planning.mixture(
            *asked.fits.values(),
            **run,
            weights=self.weights or None,
            worst=self.worst,
            floors=self.floors,
            caps=self.caps,
            corpus_tokens=self.corpus_tokens,
            max_epochs=self.max_epochs,
            ceilings=self.ceilings | {name: (1 + rise) * bases[name] for name, rise in self.tolerances.items()},
            confidence=self.confidence or None,
            beyond=self.beyond,
            level=self.level,
        )

    def recommended(self, decision: Decision, asked: Asked) -> Recommended:
        shares = rounded(decision.point)
        size, tokens = self.planned(asked.study)
        return Recommended(size, tokens, {name: shares[name] for name in asked.study.domains})


AnyQuestion = TradeOff | ShareForLoss | LimitedData | Budget | Mixture


def _known(study: "Study", field: str, given: Mapping[str, float], names: tuple[str, ...]) -> None:
    for name in given:
        if name not in names:
            raise unknown(f"config.question.{field}", name, names, "corpus")
