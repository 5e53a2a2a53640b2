"""What is known of how laws miss before a table is seen: scales learned from forward questions of public tables.

`prior.json` is made by `python -m benchmarks.forward.learn`, which says from what and how; it is data, not code.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from cptlaw.laws import Param
from cptlaw.laws.factor import OFFSET

LEVELS = 0.05  # prior sd of a factor's offsets, in log loss: what schedules and learning rates do is a few per cent


@dataclass(frozen=True)
class Prior:
    """The prior of one table's scales, and the lengths, which are fixed.

    Attributes:
      scales: term of `kernels.TERMS` -> (median, sd of its logarithm between tables), in log loss.
      lengths: axis -> length of its correlation, in e-folds (of the mix: Euclidean in log(share + offset)).
      offset: added to shares before the logarithm.
      rows: the likelihood of a table with more rows than this counts as if it had this many.
      df: degrees of freedom of the predictive Student's t.
    """

    scales: Mapping[str, tuple[float, float]]
    lengths: Mapping[str, float]
    offset: float
    rows: float
    df: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Prior":
        """From the fields of `prior.json`; whatever else it holds is provenance."""
        scales = {name: (float(v[0]), float(v[1])) for name, v in data["scales"].items()}
        return cls(scales, dict(data["lengths"]), data["offset"], data["rows"], data["df"])


@functools.cache
def shipped() -> Prior:
    """The prior that comes with the package."""
    return Prior.from_json(json.loads(files("cptlaw.fitting").joinpath("prior.json").read_text()))


def of_parameter(param: Param, start: float, least_loss: float) -> tuple[bool, float, float]:
    """(whether a parameter is estimated as its logarithm, mean, sd): the normal prior of it, or of its logarithm.

    Exponents and floors are similar in all tables. A, B and C depend on the units of a table, so their prior is centred
    on the fit.
    """
    name = param.name.split("[")[0]
    log = param.low >= 0
    if name == OFFSET:
        return False, 0.0, LEVELS
    if name in ("alpha", "beta", "aD"):
        return True, math.log(0.35), 0.4
    if name in ("E", "c", "L0") and log:
        return True, math.log(0.6 * least_loss), 0.5
    if name == "g":
        return True, math.log(0.5), 0.7
    if name in ("eta", "gamma"):
        return True, math.log(start), 0.5
    if name == "t":
        return False, 0.0, 2.0
    if log:
        return True, math.log(start), 2.0 if param.linear else 1.0
    return False, start, max(2 * abs(start), 0.1) if param.linear else max(1.0, abs(start))
