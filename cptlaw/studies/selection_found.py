"""What a selection study found for one domain, and what its confirming runs can tell."""

import dataclasses
import itertools

import numpy as np
import pandas as pd

from cptlaw.fitting import Comparison, Fit
from cptlaw.planning.decision import Decision
from cptlaw.selection.landscape import Region
from cptlaw.selection.pool import Pool

CHOSEN = ("law", "competitor")
CONTROLS = ("random", "low", "mid", "high")


@dataclasses.dataclass(frozen=True)
class Found:
    """What a study found for one domain.

    Attributes:
      domain: the corpus whose text was chosen.
      pool, test: its chunks under the base model, of the training and of the held-out documents.
      fraction: share of the pool's chunks in every subset.
      region: the means and spreads that subsets can have.
      cells: name -> (mean, std) of the subsets that the law was fitted to.
      table: the runs table of the cells.
      confirmed: the runs table of the rules, CHOSEN and CONTROLS.
      values: rule -> x of the units that it takes with the first seed.
      fits: evaluated corpus -> the law of its loss.
      rankings: evaluated corpus -> the law among its null competitors, one subset left out at a time.
      decision: the subset that the law recommends.
      other: the one that the best competitor recommends.
      rival: the competitor's name.
      gaps: as of the function `gaps`.
    """

    domain: str
    pool: Pool
    test: Pool
    fraction: float
    region: Region
    cells: dict[str, tuple[float, float]]
    table: pd.DataFrame
    confirmed: pd.DataFrame
    values: dict[str, np.ndarray]
    fits: dict[str, Fit]
    rankings: dict[str, Comparison]
    decision: Decision
    other: Decision
    rival: str
    gaps: pd.DataFrame

    def text(self) -> str:
        """The answer and how it fared, for a terminal."""
        mean, std = self.test.moments()
        point = self.other.point
        lines = [
            self.decision.text(),
            f"  measured there: {self.measured():.4f}",
            f"  {self.rival} instead: mean {point['mean']:.4g}, spread {point['spread']:.4g}",
            f"  held-out {self.domain} text: mean {mean:.4g}, spread {std:.4g}",
            "",
        ]
        for row in self.gaps.itertuples():
            lines.append(
                f"  {row.eval} loss, {row.chosen}'s choice less {row.rule:<8}{-row.gain:+.4f} nats "
                f"(95% {-row.high:+.4f} to {-row.low:+.4f}, {row.seeds} seeds)"
            )
        return "\n".join([*lines, "", f"  {verdict(self)}"])

    def measured(self) -> float:
        """The domain loss of the law's choice at the end, mean over seeds, beside `decision.losses`."""
        rows = self.confirmed[(self.confirmed["eval"] == self.domain) & (self.confirmed["subset"] == "law")]
        return float(rows.loc[rows["tokens"] == rows["tokens"].max(), "loss"].mean())


def gaps(confirmed: pd.DataFrame, tokens: float, level: float = 0.95) -> pd.DataFrame:
    """How much lower the final losses of the chosen subsets are than the controls', by Student's t over seeds.

    Columns: eval, chosen (of CHOSEN), rule (of CONTROLS), gain (nats, mean of differences paired by seed; positive: the
    chosen is better), low, high, seeds.
    """
    from scipy import stats

    last = confirmed[confirmed["tokens"] == tokens]
    lines = []
    for corpus, rows in last.groupby("eval", sort=False):
        loss = rows.pivot(index="seed", columns="subset", values="loss")
        for chosen, rule in itertools.product(CHOSEN, CONTROLS):
            gain = (loss[rule] - loss[chosen]).dropna()
            half = stats.t.ppf((1 + level) / 2, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
            lines.append((corpus, chosen, rule, gain.mean(), gain.mean() - half, gain.mean() + half, len(gain)))
    return pd.DataFrame(lines, columns=["eval", "chosen", "rule", "gain", "low", "high", "seeds"])


def verdict(found: Found) -> str:
    """What the confirming runs say of both choices, and whether the law earned its place, in two sentences."""
    said = []
    for chosen in CHOSEN:
        mine = found.gaps[(found.gaps["eval"] == found.domain) & (found.gaps["chosen"] == chosen)]
        better, worse = (list(mine["rule"][side]) for side in (mine["low"] > 0, mine["high"] < 0))
        same = [rule for rule in mine["rule"] if rule not in better + worse]
        named = (("better than", better), ("worse than", worse), ("not told from", same))
        parts = [f"{words} {', '.join(rules)}" for words, rules in named if rules]
        said.append(f"the {chosen}'s choice is {' and '.join(parts)} text")
    ranking = found.rankings[found.domain].table
    miss = dict(zip(ranking["name"], ranking["mae"]))
    return (
        f"On held-out {found.domain} loss {', '.join(said)}. On subsets left out the law misses by "
        f"{miss.pop('perplexity'):.4f} nats; the best without it ({min(miss, key=lambda name: miss[name])}) by "
        f"{min(miss.values()):.4f}."
    )
