"""A restoration study as plain values: which images, network, phases and arms. Every field is checked by name."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from cptlaw import fields
from cptlaw.errors import UserError
from cptlaw.fields import ConfigError, NotEmpty, OneOf, Seed, at_least, between
from cptlaw.restoration import networks
from cptlaw.restoration.classifier import ClassifierConfig
from cptlaw.restoration.degradations import FIVE, check
from cptlaw.restoration.images import Source
from cptlaw.restoration.nafnet import NAFNetConfig
from cptlaw.restoration.networks import Pair
from cptlaw.restoration.restormer import RestormerConfig
from cptlaw.restoration.training import Phase

# arm -> what it is, as the page says it.
ARMS = {
    "scratch": "fine-tuning from scratch",
    "scratch_longer": "fine-tuning from scratch, with the compute of DCPT and fine-tuning",
    "generation": "pre-training on clean images alone, then fine-tuning",
    "dcpt": "DCPT, then fine-tuning",
    "shuffled": "DCPT with shuffled labels, then fine-tuning",
}
PRETRAINED = {"generation": "generation", "dcpt": "dcpt", "shuffled": "dcpt"}  # arm -> phase before fine-tuning


@dataclasses.dataclass(frozen=True)
class Test:
    """What networks are tested on: patches of held-out images, of every degradation type.

    Attributes:
      patch: their side in pixels.
      each: patches of an image, the same places for all types.
      probe: patches of each trained-on and held-out image for the k-NN probe.
    """

    patch: Annotated[int, at_least(11)] = 64
    each: Annotated[int, at_least(1)] = 8
    probe: Annotated[int, at_least(1)] = 2


@dataclasses.dataclass(frozen=True)
class Study:
    """One experiment.

    Attributes:
      kinds: degradation types, in the order of their labels (`degradations`).
      draws: degraded versions of an image with one type.
      blocks, expansion: of the classifier.
      pretrain, fine_tune: the two phases. With a `constant` rate every evaluation is that of a run of its own length,
        so "scratch" is read off "scratch_longer".
      evaluations: of a fine-tuning, at equal distances in steps, besides that of its start.
      data_seed: of the degradations and test patches.
      seeds: of initialisation and batches, one repetition each.
    """

    name: Annotated[str, NotEmpty()]
    images: Source
    network: NAFNetConfig | RestormerConfig
    pretrain: Phase
    fine_tune: Phase
    kinds: Annotated[tuple[str, ...], NotEmpty()] = FIVE
    draws: Annotated[int, at_least(1)] = 3
    blocks: Annotated[int, at_least(1)] = 2
    expansion: Annotated[int, at_least(1)] = 2
    test: Test = Test()
    evaluations: Annotated[int, between(1, 1000)] = 10
    data_seed: Seed = 0
    seeds: Annotated[tuple[Seed, ...], NotEmpty()] = (0,)
    arms: Annotated[tuple[Annotated[str, OneOf(tuple(ARMS))], ...], NotEmpty()] = tuple(ARMS)

    def __post_init__(self):
        fields.check(self, "config")
        for name, values in (("kinds", self.kinds), ("seeds", self.seeds), ("arms", self.arms)):
            if len(set(values)) != len(values):
                raise ConfigError(f"config.{name}", f"each once, not {values}")
        if len(self.kinds) < 2:
            raise ConfigError("config.kinds", "a classification needs two types or more")
        if self.images.kind != "pairs":
            try:
                check(self.kinds, "kinds")
            except UserError as error:
                raise ConfigError("config.kinds", str(error).partition(": ")[2]) from None
        for name, phase, kind in (("pretrain", self.pretrain, "dcpt"), ("fine_tune", self.fine_tune, "fine_tune")):
            if phase.kind != kind:
                raise ConfigError(f"config.{name}.kind", f"must be {kind}, not {phase.kind}")
        for name, phase in (("pretrain", self.pretrain), ("fine_tune", self.fine_tune)):
            if phase.crop % self.network.multiple:
                raise ConfigError(
                    f"config.{name}.crop", f"must be a multiple of {self.network.multiple}, not {phase.crop}"
                )
        if self.fine_tune.steps % self.evaluations:
            raise ConfigError("config.evaluations", f"must divide the {self.fine_tune.steps} steps of fine_tune")

    @property
    def pair(self) -> Pair:
        """The network and the classifier of its taps."""
        classifier = ClassifierConfig(self.network.channels, len(self.kinds), self.blocks, self.expansion)
        return Pair(self.network, classifier)

    def flops(self, phase: Phase) -> float:
        """Of a whole phase."""
        return phase.steps * phase.batch_size * networks.flops(self.pair, phase.crop)[phase.kind]

    def phases(self, arm: str) -> tuple[Phase | None, Phase]:
        """What an arm trains: its pre-training, and its fine-tuning."""
        if arm in PRETRAINED:
            return dataclasses.replace(self.pretrain, kind=PRETRAINED[arm]), self.fine_tune
        if arm == "scratch":
            return None, self.fine_tune
        per_step = self.flops(self.fine_tune) / self.fine_tune.steps
        steps = self.fine_tune.steps + round(self.flops(self.pretrain) / per_step)
        return None, dataclasses.replace(self.fine_tune, steps=steps)


def parse(config: Mapping[str, Any]) -> Study:
    """A config's fields as a Study. Raises ConfigError naming the field."""
    return fields.build(Study, config.to_dict() if hasattr(config, "to_dict") else config, "config")
