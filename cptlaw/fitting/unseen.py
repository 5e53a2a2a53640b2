"""How well a domain that was never fitted is predicted from its probe: every domain of a table left out in turn.

Beside the Cross-Domain D-CPT Law (Que et al. 2024, arXiv 2406.01375) stand what a practitioner would do without it.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cptlaw import runs
from cptlaw.fitting.estimate import fit
from cptlaw.fitting.result import Fit, FitError
from cptlaw.fitting.rows import column
from cptlaw.fitting.scores import score
from cptlaw.progress import bar_of_fits

COEFFICIENTS = ("K1", "K2", "K3", "K4")
POOLED = "dcpt:constrained=false"  # the same law without K
STARTS = 32
LEVEL = 0.9


@dataclass(frozen=True)
class Unseen:
    """What became of every left-out domain.

    Attributes:
      table: a line a domain and method: `domain`, `method`, `mean_log` (mean absolute log error), `r2`, `huber`,
        `cover` and `width` (relative) of the 90% interval where the method has one, `rows`, `runs`, `folds`.
      own: the method whose parameters saw the domain's own rows: what could be had, and no prediction.
    """

    table: pd.DataFrame
    own: str

    def summary(self) -> pd.DataFrame:
        """A line a method: means over domains, and in how many domains it errs less than "pooled + constant"."""
        error = self.table.pivot_table(index="method", columns="domain", values="mean_log", sort=False)
        out = self.table.groupby("method", sort=False)[["mean_log", "r2", "huber", "cover", "width"]].mean()
        out["better"] = (error.lt(error.loc["pooled + constant"], axis=1)).sum(axis=1)
        return out.sort_values("mean_log").reset_index()

    def headline(self) -> str:
        """Whether the law earns its coefficients."""
        lines = self.summary().set_index("method")
        error, count = lines["mean_log"], self.table["domain"].nunique()
        best = error.drop(self.own).idxmin()
        said = f"best: {best}, {error[best]:.2%}; a fit that saw the domain's rows {error[self.own]:.2%}."
        if not (with_k := [name for name in reversed(COEFFICIENTS) if name in error]):
            return f"On a domain not seen, {said}"
        k = "K3" if "K3" in error else with_k[0]
        return (
            f"{k} errs by {error[k]:.2%} on a domain that it has not seen, the pooled law plus one constant by "
            f"{error['pooled + constant']:.2%}: {k} is better in {int(lines.loc[k, 'better'])} of {count} domains; "
            f"{said}"
        )


def leave_out(
    table: pd.DataFrame,
    eval: str = runs.DOMAIN,
    *,
    tokens: Sequence[float],
    size: float | None = None,
    leave: int = 1,
    coefficients: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Unseen:
    """Leaves every set of `leave` domains out of a table of several, and predicts their rows beyond the probe.

    Methods: the law with each coefficient ("K3"), and under the process with the probe's rows ("process on K3"); the
    law without K ("pooled"), plus one constant from the probe, and under the process; the nearest domain's own law plus
    a constant; the whole grid of the left-out domain's smallest size, carried to other sizes by the pooled law.

    Args:
      table: made by `runs.by_domain` at `tokens` and `size`.
      eval: `runs.DOMAIN`, or the general corpus.
      coefficients: of `laws.cross_domain.COEFFICIENTS`; None: all that the table's columns allow.

    Raises:
      FitError: fewer domains than three more than `leave`, or no such table.
    """
    if "mixed_in" not in table:
        raise FitError("this is no table of several domains; make one with cptlaw.runs.by_domain")
    names = sorted(set(table["mixed_in"]))
    if not 1 <= leave <= len(names) - 3:
        raise FitError(f"{leave} of {len(names)} domains cannot be left out: at least three others must be fitted")
    if coefficients is None:
        coefficients = COEFFICIENTS if "k3" in table else COEFFICIENTS[:3]
    table = table[(table["eval"] == eval) & runs.finished(table) & (table["tokens"] > 0)].reset_index(drop=True)
    own = f"own {POOLED.partition(':')[0]}"
    full = {name: _fit(table[table["mixed_in"] == name], POOLED, seed) for name in names}
    lines = []
    combinations = list(itertools.combinations(names, leave))
    with bar_of_fits(progress, len(combinations), "domains left out") as tick:
        for out in combinations:
            train = table[~table["mixed_in"].isin(out)].reset_index(drop=True)
            pooled = _fit(train, POOLED, seed)
            cross = {k: _fit(train, f"cross_domain:K={k}", seed) for k in coefficients}
            for name in out:
                rows = table[table["mixed_in"] == name].reset_index(drop=True)
                probe = _probe(rows, tokens, size)
                asked = _Left(name, rows[~probe], rows[probe], rows)
                lines += asked.answers(pooled, cross, {n: full[n] for n in names if n not in out}, full[name], own)
            if tick:
                tick(1)
    made = pd.DataFrame(lines)
    found = made.groupby(["domain", "method"], sort=False).agg(
        {**dict.fromkeys(("mean_log", "r2", "huber", "cover", "width"), "mean"), "rows": "sum", "runs": "max"}
    )  # fmt: skip
    found["folds"] = made.groupby(["domain", "method"], sort=False).size()
    return Unseen(found.reset_index(), own)


def _fit(rows: pd.DataFrame, law: str, seed: int) -> Fit:
    nothing = np.zeros(len(rows), bool)  # the left-out domain is what the fit is judged on
    return fit(rows, law, str(rows["eval"].iloc[0]), bootstrap=0, starts=STARTS, seed=seed, hold_out=nothing)


def _probe(rows: pd.DataFrame, tokens: Sequence[float], size: float | None) -> np.ndarray:
    """Which rows a probe has: of one size, at the largest share of the domain, to the last of `tokens`."""
    early = rows["tokens"] <= tokens[-1] * (1 + 1e-3)
    return (rows.index.isin(runs.cheapest(rows, runs.DOMAIN, size).index) & early).to_numpy()


@dataclass(frozen=True)
class _Left:
    """A left-out domain: the rows asked about, those of its probe, and all."""

    name: str
    asked: pd.DataFrame
    probe: pd.DataFrame
    rows: pd.DataFrame

    def answers(
        self, pooled: Fit, cross: dict[str, Fit], others: dict[str, Fit], full: Fit, own: str
    ) -> list[dict[str, object]]:
        """A line a method."""
        told = {k: one.for_domain(self.name, self.probe) for k, one in cross.items()}
        points = {k: _law(one, self.asked) for k, one in told.items()}
        points["pooled"] = _law(pooled, self.asked)
        points["pooled + constant"] = points["pooled"] * self._constant(pooled)
        nearest = min(others.values(), key=lambda one: self._spread(one))
        points["nearest domain + constant"] = _law(nearest, self.asked) * self._constant(nearest)
        points["whole smallest size"] = self._carried(pooled)
        points[own] = _law(full, self.asked)
        lines = [self._line(method, point) for method, point in points.items()]
        under = {"K3": told.get("K3"), "pooled": pooled.for_domain(self.name, self.probe)}
        for word, found in ((word, one) for word, one in under.items() if one is not None):
            at: dict[str, Any] = _columns(found, self.asked)
            said = found.predict(**at, level=LEVEL)
            y = self.asked["loss"].to_numpy(float)
            lines.append(
                self._line(f"process on {word}", said.point)
                | {"cover": float(np.mean((said.low <= y) & (y <= said.high))),
                   "width": float(np.median((said.high - said.low) / y))}
            )  # fmt: skip
        return lines

    def _line(self, method: str, point: np.ndarray) -> dict[str, object]:
        found = score(self.asked["loss"].to_numpy(float), point)
        about = {"domain": self.name, "method": method, "rows": len(self.asked), "runs": self.asked["run"].nunique()}
        return {**about, "cover": np.nan, "width": np.nan, **{k: found[k] for k in ("mean_log", "r2", "huber")}}

    def _off(self, one: Fit) -> np.ndarray:
        return np.log(self.probe["loss"].to_numpy(float) / _law(one, self.probe))

    def _constant(self, one: Fit) -> float:
        return float(np.exp(self._off(one).mean()))

    def _spread(self, one: Fit) -> float:
        return float(self._off(one).std()) if len(self.probe) > 1 else abs(float(self._off(one)[0]))

    def _carried(self, pooled: Fit) -> np.ndarray:
        """The smallest size's own loss at the nearest share and tokens, times what the pooled law says of the rest."""
        small = self.rows[self.rows["params"] == self.rows["params"].min()]
        header = [f"w_{runs.DOMAIN}", "tokens"]
        wanted, known = self.asked[header].to_numpy(float), small[header].to_numpy(float)
        share = np.abs(wanted[:, None, 0] - known[None, :, 0])
        later = np.abs(np.log(wanted[:, None, 1]) - np.log(known[None, :, 1]))
        near = small.iloc[(1e3 * share + later).argmin(axis=1)]  # the share first
        return near["loss"].to_numpy(float) * _law(pooled, self.asked) / _law(pooled, near)


def _columns(one: Fit, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    corpus = str(rows["eval"].iloc[0])  # a fit that speaks of one domain bears its name, the rows do not
    return {name: column(rows, name, one.law, (corpus,)) for name in one.law.columns}


def _law(one: Fit, rows: pd.DataFrame) -> np.ndarray:
    return np.asarray(one.law.predict(one.params, _columns(one, rows)), float)
