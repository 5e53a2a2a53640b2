"""What a selection study found for one base model and domain, and what its confirming runs can tell."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cptlaw.fitting import Comparison, Fit
from cptlaw.planning.decision import Decision
from cptlaw.selection.landscape import Region
from cptlaw.selection.pool import Pool

CHOICE, LAW, RANDOM = "choice", "law", "random"
CONTROLS = (RANDOM, "low", "mid", "high")
AGAIN, FIRST = "again", "first"  # of the second round: chosen again under the updated base, and the first choice


@dataclasses.dataclass(frozen=True)
class Found:
    """What a study found for one base model and domain.

    Attributes:
      part: what tells this one from the study's others.
      size, base_seed: of the base model.
      domain: the corpus whose text was chosen.
      pool, test: its chunks under the base model, of the training and of the held-out documents.
      fraction: share of the pool's chunks in every subset.
      region: the means and spreads that subsets can have.
      cells: name -> (mean, std) of the subsets that were aimed at for the fit.
      table: the runs table of the cells and of random text.
      confirmed: the runs table of CHOICE, of LAW where it is another one, and of CONTROLS.
      values: rule -> x of the units that it takes with the first seed.
      fits: evaluated corpus -> the law of its loss.
      rankings: evaluated corpus -> the law among its null competitors, one subset left out at a time.
      decision: what the winner recommends; CHOICE is its best subset, recommended or not.
      of_law: what the law recommends; LAW is its best subset.
      winner: the fit, law or competitor, that knows perplexity and predicted left-out subsets best.
      gaps: as of the function `gaps`, of `confirmed`.
      again: the runs table of AGAIN and FIRST, if there was a second round.
    """

    part: str
    size: str
    base_seed: int
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
    of_law: Decision
    winner: Fit
    gaps: pd.DataFrame
    again: pd.DataFrame | None

    def gap(self, chosen: str = CHOICE, rule: str = RANDOM) -> pd.Series:
        """The line of `gaps` of the domain loss; the law's is the choice's where they are the same."""
        mine = self.gaps[(self.gaps["eval"] == self.domain) & (self.gaps["rule"] == rule)].set_index("chosen")
        return mine.loc[chosen if chosen in mine.index else CHOICE]

    @functools.cached_property
    def gaps_again(self) -> pd.DataFrame | None:
        """How much lower the losses are of what was chosen again than of the first choice, as of `gaps`."""
        return None if self.again is None else gaps(self.again, chosen=(AGAIN,), rules=(FIRST,))

    def second_round(self) -> pd.Series | None:
        """The line of `gaps_again` of the domain loss."""
        return None if self.gaps_again is None else self.gaps_again.set_index("eval").loc[self.domain]

    def text(self) -> str:
        """The answer and how it fared, for a terminal."""
        mean, std = self.test.moments()
        lines = [
            self.decision.text(),
            f"  measured there: {self.measured():.4f}",
            f"  held-out {self.domain} text: mean {mean:.4g}, spread {std:.4g}",
            "",
        ]
        for row in self.gaps.itertuples():
            lines.append(
                f"  {row.eval} loss, {row.chosen} less {row.rule:<8}{-row.gain:+.4f} nats "
                f"(95% {-row.high:+.4f} to {-row.low:+.4f}, {row.seeds} seeds)"
            )
        return "\n".join([*lines, "", f"  {verdict(self)}"])

    def measured(self) -> float:
        """The domain loss of the recommended text at the end, mean over seeds, beside `decision.losses`."""
        rule = CHOICE if self.decision.supported else RANDOM
        rows = self.confirmed[(self.confirmed["eval"] == self.domain) & (self.confirmed["subset"] == rule)]
        return float(rows.loc[rows["tokens"] == rows["tokens"].max(), "loss"].mean())


def gaps(
    table: pd.DataFrame,
    chosen: Sequence[str] = (CHOICE, LAW),
    rules: Sequence[str] = CONTROLS,
    level: float = 0.95,
) -> pd.DataFrame:
    """How much lower the final losses of the chosen subsets are than those of other rules, by Student's t over seeds.

    Columns: eval, chosen, rule, gain (nats, mean of differences paired by seed; positive: the chosen is better), low,
    high, seeds. Rules that the table does not have, or has with one seed only, have no line.
    """
    last = table[table["tokens"] == table["tokens"].max()]
    lines = []
    for corpus, rows in last.groupby("eval", sort=False):
        loss = rows.pivot(index="seed", columns="subset", values="loss")
        for mine in (name for name in chosen if name in loss):
            for rule in (name for name in rules if name in loss):
                gain = (loss[rule] - loss[mine]).dropna().to_numpy()
                if len(gain) > 1:
                    lines.append((corpus, mine, rule, *student(gain, level), len(gain)))
    return pd.DataFrame(lines, columns=["eval", "chosen", "rule", "gain", "low", "high", "seeds"])


def student(gain: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """(mean, low, high) of paired differences (n,), by Student's t."""
    from scipy import stats

    half = stats.t.ppf((1 + level) / 2, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain))
    return float(gain.mean()), float(gain.mean() - half), float(gain.mean() + half)


def compared(line: pd.Series, mine: str, other: str) -> str:
    """A line of `gaps` as a clause: what is better, worse, or not told apart."""
    if line["low"] <= 0 <= line["high"]:
        return f"{mine} is not told from {other}"
    word = "better" if line["gain"] > 0 else "worse"
    return f"{mine} is {word} than {other}, by {abs(line['gain']):.3f} nats"


def verdict(found: Found) -> str:
    """What the confirming runs say of the choices, and whether the law earned its place, in a few sentences."""
    said = []
    for chosen in (CHOICE, LAW):
        mine = found.gaps[(found.gaps["eval"] == found.domain) & (found.gaps["chosen"] == chosen)]
        if mine.empty:  # the law is the winner, and its choice the choice
            continue
        better, worse = (list(mine["rule"][side]) for side in (mine["low"] > 0, mine["high"] < 0))
        same = [rule for rule in mine["rule"] if rule not in better + worse]
        named = (("better than", better), ("worse than", worse), ("not told from", same))
        parts = [f"{words} {', '.join(rules)}" for words, rules in named if rules]
        of = f"{found.winner.law.name}'s" if chosen == CHOICE else "the law's own"
        said.append(f"{of} choice is {' and '.join(parts)} text")
    ranking = found.rankings[found.domain].table
    miss = dict(zip(ranking["name"], ranking["mae"]))
    text = (
        f"On held-out {found.domain} loss {', '.join(said)}. On subsets left out the law misses by "
        f"{miss.pop('perplexity'):.4f} nats; the best without it ({min(miss, key=lambda name: miss[name])}) by "
        f"{min(miss.values()):.4f}."
    )
    again = found.second_round()
    if again is not None:
        text += f" After one update of the base, {compared(again, 'choosing again', 'the first choice')}."
    return text


def summary(founds: Sequence[Found]) -> pd.DataFrame:
    """A line for each base model and domain: what was predicted and recommended, and what the confirming runs measured.

    Columns: size, base_seed, domain, winner, recommended (CHOICE or RANDOM), and, in nats of domain loss: predicted
    (what the choice gains on random text), measured, law (what the law's own choice gains) and again (what choosing
    again gains on the first choice), each with _low and _high.
    """
    lines = []
    for found in founds:
        line = {"size": found.size, "base_seed": found.base_seed, "domain": found.domain}
        line |= {"winner": found.winner.law.name, "recommended": CHOICE if found.decision.supported else RANDOM}
        gain = found.decision.inputs["gain"]
        said = {"predicted": pd.Series({"gain": gain["point"], "low": gain["low"], "high": gain["high"]})}
        said |= {"measured": found.gap(), "law": found.gap(LAW)}
        if (again := found.second_round()) is not None:
            said["again"] = again
        for name, one in said.items():
            line |= {name: one["gain"], f"{name}_low": one["low"], f"{name}_high": one["high"]}
        lines.append(line)
    return pd.DataFrame(lines)
