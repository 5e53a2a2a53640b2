"""What a selection study's config says, and where its cells lie."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from cptlaw import fields, units
from cptlaw.fields import ConfigError, NotEmpty, OneOf, Seed, at_least, between
from cptlaw.laws import perplexity
from cptlaw.selection.landscape import Region
from cptlaw.selection.pool import BY
from cptlaw.studies import config as config_lib
from cptlaw.studies.settings import Study

SIZE = "model"  # the only size of a config that names none
Levels = Annotated[tuple[float, ...], between(0, 1, open_low=True, open_high=True, what="a level lies")]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a perplexity study's config says beside a study's own fields, as `config.subsets`.

    Attributes:
      share: token share of the domain in continual pre-training; the rest is the general corpus.
      chunk: tokens of a chunk.
      by: "chunk" or "document": what is taken or left whole.
      unit: what a chunk's x is measured in (see `selection.landscape`).
      spread: std or variance: what the law's sigma is (see `laws.perplexity`).
      winsor: quantile at which a chunk's x is clipped.
      fraction: share of the domain's chunks in every subset.
      mean_levels, spread_levels: where the cells lie in what subsets can reach, from 0 to 1: in the range of means,
        then in the range of spreads at this mean. Every mean is combined with every spread, and random text is added.
      seeds: each cell is drawn and trained with each of them.
      base_seeds: of base models, each with a study of its own. Empty: the study's seed alone.
      confirm_seeds: as `seeds`, of the chosen subsets and of random text. None is among `seeds`, so that no fit has
        seen their runs.
      control_seeds: how many of `confirm_seeds` low-, middle- and high-perplexity text is trained with.
      second_round: whether the base is trained on the choice once, its text scored again and chosen again, and this
        second choice held against the first.
      bootstrap: resamples over runs of each fit.
    """

    share: Annotated[float, between(0, 1, open_low=True, what="a token share,")] = 0.8
    chunk: Annotated[int, at_least(1)] = 64
    by: Annotated[str, OneOf(BY)] = "chunk"
    unit: Annotated[str, OneOf(units.PERPLEXITY)] = "log-perplexity"
    spread: Annotated[str, OneOf(perplexity.SPREADS)] = "std"
    winsor: Annotated[float, between(0, 1, open_low=True, what="a quantile,")] = 0.995
    fraction: Annotated[float, between(0, 1, open_low=True, open_high=True, what="a share of the chunks,")] = 0.2
    mean_levels: Levels = (0.1, 0.35, 0.6, 0.85)
    spread_levels: Levels = (0.15, 0.5, 0.85)
    seeds: Annotated[tuple[Seed, ...], NotEmpty()] = (0, 1, 2)
    base_seeds: tuple[Seed, ...] = ()
    confirm_seeds: tuple[Seed, ...] = (101, 102, 103, 104, 105, 106, 107, 108)
    control_seeds: Annotated[int, at_least(0)] = 3
    second_round: bool = False
    bootstrap: Annotated[int, at_least(0)] = 1000

    def __post_init__(self):
        for field in ("seeds", "base_seeds", "confirm_seeds", "mean_levels", "spread_levels"):
            values = getattr(self, field)
            if len(set(values)) < len(values):
                raise ConfigError(f"subsets.{field}", f"each once, not {', '.join(map(str, values))}")
        for field in ("mean_levels", "spread_levels"):
            if len(getattr(self, field)) < 2:
                raise ConfigError(f"subsets.{field}", "at least two: one mean or one spread leaves nothing to fit")
        if len(self.confirm_seeds) < 2 or set(self.confirm_seeds) & set(self.seeds):
            raise ConfigError("subsets.confirm_seeds", "at least two, and none of config.subsets.seeds")
        if self.control_seeds > len(self.confirm_seeds):
            raise ConfigError("subsets.control_seeds", f"at most the {len(self.confirm_seeds)} of confirm_seeds")


def parse(config: Mapping[str, Any]) -> tuple[Study, Plan]:
    """Reads a selection study's config: the fields of `Plan` under `subsets`, and those of a `Study`.

    The study itself sets grid and held_out, and asks no question.

    Raises:
      ConfigError: naming the field.
    """
    plain = config_lib.plain(config)
    plan: Plan = fields.build(Plan, plain.pop("subsets", {}), "config.subsets")
    sizes = plain.pop("sizes", None) or {SIZE: {}}
    if not isinstance(sizes, Mapping):
        raise ConfigError("config.sizes", f"expected fields, got {sizes!r}")
    part = {"domain_shares": (plan.share,), "base_seeds": plan.base_seeds}
    ours = {"grid": dict.fromkeys(sizes, part), "held_out": {"size": next(iter(sizes)), "tokens": 0}}
    for field in ours:
        if field in plain:
            raise ConfigError(f"config.{field}", "a perplexity study makes its own; remove it")
    study = config_lib.parse({**plain, "sizes": sizes, **ours})
    if plan.second_round and study.cpt.branch_cooldown:
        raise ConfigError("config.subsets.second_round", "goes on from a whole run, so cpt.branch_cooldown must be 0")
    return study, plan


def layout(region: Region, plan: Plan) -> dict[str, tuple[float, float]]:
    """The cells: name -> (mean, std), at the plan's levels of the reachable means, and of the stds at each of these."""
    pairs = region.grid(201)
    means = np.unique(pairs[:, 0])
    cells = {}
    for i, level in enumerate(plan.mean_levels):
        mean = means[round(level * (len(means) - 1))]
        at = pairs[pairs[:, 0] == mean, 1]
        for j, other in enumerate(plan.spread_levels):
            cells[f"m{i + 1}s{j + 1}"] = float(mean), float(at.min() + other * np.ptp(at))
    return cells


def inside(region: Region, cells: Mapping[str, tuple[float, float]]) -> np.ndarray:
    """(n, 2) reachable pairs between the cells: a law of seven parameters is not trusted outside them."""
    from scipy.spatial import Delaunay

    corners = np.array(list(cells.values()))
    pairs = region.grid(121)
    width = np.ptp(corners, axis=0)
    return pairs[Delaunay(corners / width).find_simplex(pairs / width) >= 0]
