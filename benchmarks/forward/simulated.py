"""Tables of a known truth, law right and wrong, with and without base noise: the recommended share and a larger size.

The truth is that of `benchmarks/planning.py` (general loss of two corpora, three sizes). Losses have a run effect of sd
`noise`, a third of it a checkpoint, and an effect of the base model that all runs of a size share.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from benchmarks import planning
from cptlaw import fitting
from cptlaw.fitting.condition import condition
from cptlaw.fitting.draws import draw
from cptlaw.fitting.prior import Prior

TOKENS = np.geomspace(1e5, 1e6, 5)
LARGER = 2.5  # times the largest size
SHARES = np.linspace(0, 0.9, 721)
ASKED = np.array([0.2, 0.5, 0.8])

# What a wrong law misses, nats, by size, tokens and domain share; none of them is used to learn the prior.
WRONG: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "right": lambda n, d, s: 0 * (n + d + s),
    "rises": lambda n, d, s: 0.1 * s**4 * np.log(d / 0.25e6) + 0 * n,  # a general loss that rises with tokens
    "bend": lambda n, d, s: 0.01 * np.log(n / 2e5) ** 2 + 0 * (d + s),  # the power law of size is none
    "replay": lambda n, d, s: 0.05 * s * np.log(n / 2e5) + 0 * d,  # what size buys depends on the mix
}


@dataclass(frozen=True)
class Setting:
    """A design and a world: number of runs, run noise and base noise (nats), and a key of WRONG."""

    runs: int
    noise: float
    law: str = "right"
    base: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.runs} runs, noise {self.noise:g}, law {self.law}, base {self.base:g}"


SETTINGS = (
    Setting(10, 0.005), Setting(20, 0.005), Setting(10, 0.01), Setting(20, 0.008, "rises"), Setting(20, 0.005, "bend"),
    Setting(20, 0.005, "replay"), Setting(10, 0.005, base=0.006), Setting(20, 0.003, base=0.006),
)  # fmt: skip


def truth(setting: Setting, size: float, tokens: np.ndarray | float, share: np.ndarray | float) -> np.ndarray:
    """General loss without noise."""
    tokens, share = np.asarray(tokens, float), np.asarray(share, float)
    x = {"params": np.asarray(size), "tokens": tokens, "ratio": 1 - share}
    law = np.asarray(planning.LAW.predict(planning.TRUE["general"], x))
    return law + WRONG[setting.law](np.asarray(size, float), tokens, share)


def table(setting: Setting, seed: int) -> tuple[pd.DataFrame, float]:
    """A runs table of the general loss, and the effect of the largest size's base on its losses."""
    rng = np.random.default_rng([seed, setting.runs])
    sizes = planning.SIZES
    each = [setting.runs // len(sizes) + (i < setting.runs % len(sizes)) for i in range(len(sizes))]
    rows, effect = [], 0.0
    for size, count in zip(sizes, each):
        effect = setting.base * rng.standard_normal()
        for i, share in enumerate(np.linspace(0, 0.9, count)):
            loss = truth(setting, size, TOKENS, share) + effect + setting.noise * rng.standard_normal()
            loss = loss + setting.noise / 3 * rng.standard_normal(len(TOKENS))
            rows += [
                {
                    "run": f"{size:g}-{i}",
                    "params": size,
                    "tokens": d,
                    "w_general": 1 - share,
                    "w_code": share,
                    "loss": y,
                }
                for d, y in zip(TOKENS, loss)
            ]
    return pd.DataFrame(rows).assign(eval="general"), effect


def study(setting: Setting, tables: int, prior: Prior | None = None) -> Iterator[pd.DataFrame]:
    """A line a table and question: the recommended share, the share that holds in 90%, one new run at a larger size."""
    for seed in range(tables):
        rows, effect = table(setting, seed)
        fit = fitting.fit(
            rows, "dcpt:constrained=false", bootstrap=0, starts=16, hold_out=np.zeros(len(rows), bool), seed=seed
        )
        x = {
            "params": rows["params"].to_numpy(),
            "tokens": rows["tokens"].to_numpy(),
            "ratio": rows["w_general"].to_numpy(),
        }
        found = condition(fit.law, fit.params, x, rows["loss"].to_numpy(), rows["run"].tolist(), given=prior)
        yield pd.DataFrame([*_share(setting, found, effect, seed), *_larger(setting, found, seed)]).assign(
            setting=setting.name, table=seed
        )


def _share(setting: Setting, found, effect: float, seed: int) -> Iterator[dict]:
    size, tokens = planning.TARGET["params"], planning.TARGET["tokens"]
    base = planning.BASE + effect  # measured, of the base that the runs of this size start from
    ceiling = 1.03 * base
    gap = lambda s: float(truth(setting, size, tokens, s)) + effect - ceiling  # noqa: E731
    best = brentq(gap, 0, 0.9) if gap(0.9) > 0 else 0.9
    x = {"params": np.full(len(SHARES), size), "tokens": np.full(len(SHARES), tokens), "ratio": 1 - SHARES}
    mean, draws = draw(found, 1000, seed).at(x)
    holds = np.exp(draws) <= ceiling
    shares = SHARES[np.maximum(holds.shape[1] - 1 - holds[:, ::-1].argmax(axis=1), 0) * holds.any(axis=1)]
    low, high = np.quantile(shares, [0.05, 0.95])
    safe = SHARES[np.flatnonzero(holds.mean(axis=0) >= 0.9)[-1]] if (holds.mean(axis=0) >= 0.9).any() else 0.0
    point = SHARES[np.flatnonzero(np.exp(mean) <= ceiling)[-1]] if (np.exp(mean) <= ceiling).any() else 0.0
    yield {"what": "share", "cover": low <= best <= high, "width": high - low, "error": abs(point - best)}
    yield {"what": "share, breach of the safe one", "cover": gap(safe) > 0, "width": best - safe}


def _larger(setting: Setting, found, seed: int) -> Iterator[dict]:
    size, tokens = LARGER * planning.SIZES[-1], TOKENS[-1]
    x = {"params": np.full(3, size), "tokens": np.full(3, tokens), "ratio": 1 - ASKED}
    rng = np.random.default_rng([seed, 1])
    observed = truth(setting, size, tokens, ASKED) + setting.base * rng.standard_normal()
    observed = observed + setting.noise * np.sqrt(1 + 1 / 9) * rng.standard_normal(3)
    answer = found.predict(x, "run")
    low, high = answer.interval(0.9)
    for i in range(3):
        yield {
            "what": "one new run at 2.5x", "cover": low[i] <= observed[i] <= high[i], "width": high[i] - low[i],
            "error": abs(np.exp(answer.mean[i]) - observed[i]),
        }  # fmt: skip


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """By setting and question: cover (of the safe share: breaches), median width, mean error."""
    grouped = rows.groupby(["setting", "what"], sort=False)
    out = grouped.agg(
        cover=("cover", "mean"), width=("width", "median"), error=("error", "mean"), tables=("table", "nunique")
    )
    return out.reset_index()
