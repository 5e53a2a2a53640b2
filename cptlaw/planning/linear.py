"""A law to first order in its parameters: what it reads of a table's rows, and the derivatives of its losses.

Letters of shapes: n rows, P parameters; "..." stands for the draws of the parameters, if there are several.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cptlaw.planning.decision import DecisionError

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit
    from cptlaw.laws import Law

STEP = 1e-4  # of a parameter's size


def free(fit: "Fit") -> list[str]:
    """The P parameters that were fitted, not fixed."""
    return [name for name in fit.law.names if name in fit.samples and name not in fit.settings.get("fixed", {})]


def columns(fit: "Fit", table: pd.DataFrame, part: float = 1.0) -> dict[str, np.ndarray]:
    """What a fit's law reads of a table's rows, name -> (n,), at a part of their tokens.

    Raises:
      DecisionError: the table lacks a column.
    """
    names = {c: f"w_{fit.eval}" if c == "ratio" and c not in table else c for c in fit.law.columns}
    if missing := [name for name in names.values() if name not in table]:
        raise DecisionError(f"no column {missing[0]!r} is given, which the law of {fit.eval} reads")
    x = {c: table[name].to_numpy(dtype=float) for c, name in names.items()}
    return x | {"tokens": part * x["tokens"]} if "tokens" in x else x


def jacobian(
    law: "Law", theta: Mapping[str, Any], x: Mapping[str, np.ndarray], names: Sequence[str] | None = None
) -> np.ndarray:
    """(..., n, P) derivatives of the loss by the parameters `names` (all), by central differences.

    Args:
      theta: floats, or (..., 1) arrays of draws.
      x: the law's columns, (n,).
    """
    slopes = []
    for name in law.names if names is None else names:
        step = STEP * np.maximum(np.abs(theta[name]), 1e-3)
        up, down = (np.asarray(law.predict({**theta, name: theta[name] + sign * step}, x)) for sign in (1, -1))
        slopes.append((up - down) / (2 * step))
    # A law may not move with some column, or with any: the zeros give every derivative the rows' shape.
    rows = np.zeros(len(next(iter(x.values()))))
    return np.stack(np.broadcast_arrays(*slopes, rows)[:-1], axis=-1)
