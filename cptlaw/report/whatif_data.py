"""What the what-if page computes with: laws in JavaScript, and of each fit the numbers that its predictions come from.

Of a conditioned fit these are the process's rows, so that mean and scale are those of `Process.predict`, at any
question; of a fit of the law alone, its parameters and bootstrap draws. `whatif_engine.js` reads them.
"""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw.fitting import intervals, kernels
from cptlaw.fitting.kernels import DOMAINS, NOISE, SMOOTH
from cptlaw.fitting.process import Process
from cptlaw.planning.numbers import conditioned
from cptlaw.report import javascript
from cptlaw.words import count

if TYPE_CHECKING:
    from cptlaw.fitting import Fit

BYTES = 1_200_000  # of bootstrap draws on a page; beyond it each fit keeps fewer
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)


@dataclasses.dataclass
class Laws:
    """The JavaScript of every law of a page, each written once."""

    written: list[str] = dataclasses.field(default_factory=list)

    def place(self, law: Any) -> int:
        """The index of a law's function among those of the page (see `javascript.of_law`)."""
        source = javascript.of_law(law)
        if source not in self.written:
            self.written.append(source)
        return self.written.index(source)

    def script(self) -> str:
        """The array of all of them."""
        return "const LAWS = [\n{}\n];".format(",\n".join(self.written))


def of_fits(fits: Sequence["Fit"], laws: Laws, level: float) -> list[dict[str, Any]]:
    """Each fit as the engine reads it, in JSON's types; `laws` gets what they need.

    Raises:
      javascript.NotWritten: a law has an operation that is not written in JavaScript.
    """
    size = sum(8 * len(fit.params) for fit in fits if not conditioned(fit)) * 4 / 3
    most = int(BYTES / size) if size else 0
    levels = sorted({*LEVELS, level})
    return [
        _process(process, laws, levels) if (process := conditioned(fit)) else _alone(fit, laws, levels, most)
        for fit in fits
    ]


def packed(values: np.ndarray) -> str:
    """Doubles as the base64 text of their little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode()


def _process(process: Process, laws: Laws, levels: Sequence[float]) -> dict[str, Any]:
    at, law = process.fitted_points, process.law
    names = javascript.parameters(law)
    runs, bases, domains = process.codes
    terms = [
        {"scale": scale, "axes": kernels.axes_of(term), "domain": term in DOMAINS}
        for term, scale in process.scales.items()
        if term in SMOOTH or term in DOMAINS
    ]
    sizes = np.unique(process.x["params"]) if "params" in process.x else [None]
    of_size = {n: np.unique(at.base if n is None else at.base[process.x["params"] == n]) for n in sizes}
    return {
        "kind": "process",
        "law": laws.place(law),
        "columns": list(law.columns),
        "given": process.given,
        # Moving parameters are filled in by the engine.
        "parameters": [process.fixed.get(name, 0.0) for name in names],
        "places": [names.index(name) for name in process.moving],
        **{name: getattr(process, name).tolist() for name in ("phi", "centre", "spread", "logged")},
        "slopes": packed(process.fitted_slopes),
        "solved": packed(process.solved),
        "noise": packed(process.noise),
        "axes": {name: packed(values) for name, values in at.axes.items()},
        "shares": sorted(name for name in process.x if name.startswith("w_")),
        "runs": [runs[name] for name in process.run],
        "bases": [bases[name] for name in process.base],
        "domains": [domains[name] for name in process.domain],
        "asked": domains[process.asked],
        "baseOf": [[n, int(codes[0])] for n, codes in of_size.items() if len(codes) == 1],
        "terms": terms,
        **{term: process.scales.get(term, 0.0) for term in ("base", "run", "drift")},
        "checkpoint": process.scales[NOISE],
        "lengths": process.lengths,
        "offset": process.offset,
        "df": process.df,
        "widened": process.widened,
        "halves": {f"{level:g}": intervals.student(level, process.df) for level in levels},
        "reach": {
            name: [float(process.x[name].min()), float(process.x[name].max())]
            for name in ("params", "tokens")
            if name in process.x
        },
        "dropped": "ratio" in process.x and bool(process.x["ratio"].min() > 0),
    }


def _alone(fit: "Fit", laws: Laws, levels: Sequence[float], most: int) -> dict[str, Any]:
    names = javascript.parameters(fit.law)
    drawn = len(next(iter(fit.samples.values()), ()))
    kept = min(drawn, most)
    samples = [fit.samples.get(name, np.full(drawn, fit.params[name]))[:kept] for name in names]
    return {
        "kind": "law",
        "law": laws.place(fit.law),
        "columns": list(fit.law.columns),
        "parameters": [fit.params[name] for name in names],
        "samples": packed(np.stack(samples, axis=1)) if kept else "",
        "draws": drawn,
        "kept": kept,
        "wider": {f"{level:g}": fit.expanded(level) for level in levels},
    }


def moves(error: float, draws: int) -> list[float]:
    """How the ceiling of each draw moves, in standard errors of the base loss: as `planning.tradeoff` moves them."""
    return np.random.default_rng(0).standard_normal(draws).tolist() if error else []


def base_losses(table: Any, corpus: str, asked: Mapping[str, Any]) -> list[list[float]]:
    """[[size, loss], ...] of base models before continual pre-training, and that of the question."""
    from cptlaw import runs

    rows = runs.bases(table, corpus)
    known = rows.groupby("params")["loss"].mean().to_dict() if len(rows) else {}
    # A size that is printed as the asked one is that one: a line through both would say nothing of other sizes.
    others = {size: loss for size, loss in known.items() if count(float(size)) != count(asked["params"])}
    return [[float(size), float(loss)] for size, loss in {**others, asked["params"]: asked["base_loss"]}.items()]
