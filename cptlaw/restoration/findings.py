"""What the finished runs say: paired differences between arms, learning curves, and from which compute on DCPT pays."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cptlaw import fitting
from cptlaw.errors import UserError
from cptlaw.laws.base import Param, law
from cptlaw.restoration.settings import Study
from cptlaw.restoration.study import OVERALL, Done

# What DCPT is compared with.
QUESTIONS = {
    "scratch": "scratch at equal steps of fine-tuning",
    "scratch_longer": "scratch at equal compute",
    "generation": "pre-training on clean images alone",
    "shuffled": "shuffled labels",
}
DRAWS, LEVEL, FAR = 2000, 0.9, 100.0


@law(
    [Param("E", low=0, linear=True), Param("A", low=0, linear=True), Param("a", 0, 3)],
    ["tokens"],
    title="Learning curve",
    equation="L = E + A (C / 1e9)^-a, C the compute in pixels of fine-tuning",
    source="the form of Hestness et al. 2017, arXiv 1712.00409",
)
def learning_curve(p, x, xp):
    return p.E + p.A * xp.exp(-p.a * xp.log(x.tokens / 1e9))


@dataclasses.dataclass(frozen=True)
class Difference:
    """The PSNR of DCPT less that of another arm, in dB at their ends: mean, the interval of `LEVEL`, and each
    seed's mean."""

    other: str
    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    def words(self) -> str:
        """One sentence."""
        verdict = "better" if self.low > 0 else "worse" if self.high < 0 else "not told apart"
        measured = f"{self.mean:+.2f} dB ({self.low:+.2f} to {self.high:+.2f})"
        return f"Against {QUESTIONS[self.other]} DCPT is {verdict}: {measured}."


def differences(done: Sequence[Done], labels: np.ndarray) -> list[Difference]:
    """DCPT less every other arm, paired by seed and test patch.

    The interval resamples seeds and patches, each by itself. Types count the same. It does not know other images than
    the few that are tested on.
    """
    by_arm = {arm: {one.seed: one.psnr for one in done if one.arm == arm} for arm in ("dcpt", *QUESTIONS)}
    rng = np.random.default_rng(0)
    found = []
    for other in QUESTIONS:
        seeds = sorted(set(by_arm["dcpt"]) & set(by_arm[other]))
        if not seeds:
            continue
        gaps_SN = np.stack([by_arm["dcpt"][seed] - by_arm[other][seed] for seed in seeds])
        kinds = [np.flatnonzero(labels == kind) for kind in np.unique(labels)]
        means = np.empty(DRAWS)
        for draw in range(DRAWS):
            of_seeds = gaps_SN[rng.integers(len(seeds), size=len(seeds))].mean(0)
            means[draw] = np.mean([of_seeds[rng.choice(kind, len(kind))].mean() for kind in kinds])
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        each = tuple(float(np.mean([gaps[kind].mean() for kind in kinds])) for gaps in gaps_SN)
        found.append(Difference(other, float(np.mean(each)), float(low), float(high), each))
    return found


@dataclasses.dataclass(frozen=True)
class Payback:
    """From which compute on the curve of DCPT lies below that of scratch, and stays there.

    Attributes:
      fits: of both arms.
      draws: of the crossing, in pixels of fine-tuning; infinite where there is none within `FAR` times the longest run.
      words: the answer.
    """

    fits: dict[str, "fitting.Fit"]
    draws: np.ndarray
    words: str


def payback(study: Study, table: pd.DataFrame) -> Payback:
    """Fits a learning curve to DCPT and to scratch, and compares their resamples.

    Raises UserError where an arm is missing or has too few rows for a fit.
    """
    arms = {"dcpt": "dcpt", "scratch": "scratch_longer" if "scratch_longer" in study.arms else "scratch"}
    fits, curves = {}, {}
    first, last = np.inf, 0.0
    for name, arm in arms.items():
        rows = table[(table["model"] == arm) & (table["eval"] == OVERALL) & (table["step"] > 0)]
        if rows["run"].nunique() < 2:
            raise UserError(f"arm {arm}: a fit with an interval needs two seeds, and there is {rows['run'].nunique()}")
        fits[name] = fitting.fit(rows, learning_curve, OVERALL, bootstrap=500)
        if name == "dcpt":
            first = float(rows["tokens"].min())
        last = max(last, float(rows["tokens"].max()))
    grid = np.geomspace(first, FAR * last, 400)
    for name, fit in fits.items():
        at = {key: np.append(values, fit.params[key])[:, None] for key, values in fit.samples.items()}
        curves[name] = at["E"] + at["A"] * (grid / 1e9) ** -at["a"]
    number = min(map(len, curves.values()))
    better = curves["dcpt"][-number:] < curves["scratch"][-number:]
    # The place after the last at which scratch is better.
    after = np.where(better.all(1), 0, len(grid) - np.argmax(~better[:, ::-1], 1))
    crossing = np.where(after < len(grid), grid[np.minimum(after, len(grid) - 1)], np.inf)
    return Payback(fits, crossing, _words(study, crossing, first, last))


def _words(study: Study, crossing: np.ndarray, first: float, last: float) -> str:
    pretrain = study.flops(study.pretrain) / (study.flops(study.fine_tune) / study.fine_tune.steps)
    unit = study.fine_tune.batch_size * study.fine_tune.crop**2
    never = float(np.isinf(crossing).mean())
    point = crossing[-1]
    said = f"Pre-training costs as much as {pretrain:.0f} steps of fine-tuning. "
    if np.isinf(point):
        said += f"By the fitted curves it never pays within {FAR:.0f} times the longest run"
    elif point <= first:
        said += "By the fitted curves it pays from its first test on"
    else:
        said += f"By the fitted curves it pays from {point / unit:,.0f} steps' compute on"
        said += ", beyond what was run" if point > last else ""
    finite = np.where(np.isinf(crossing), FAR * last, crossing)
    low, high = (float(x) for x in np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    most = f"{high / unit:,.0f}" if high < 0.99 * FAR * last else "never"
    return f"{said} ({LEVEL:.0%} interval: {low / unit:,.0f} to {most}; in {never:.0%} of the resamples never)."
