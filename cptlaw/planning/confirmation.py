"""The run trained at the recommendation: what the laws predicted for it beside what it measured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cptlaw.planning import noise
from cptlaw.planning.numbers import interval

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit


def confirmation(fits: Mapping[str, "Fit"], confirm: pd.DataFrame, level: float) -> pd.DataFrame:
    """Prediction beside measurement for each corpus at the confirming run's last evaluation.

    The interval is that of one run: the law's own, widened by how far single runs lie from it (`noise.of_fit`).

    Args:
      fits: evaluated corpus -> fit.
      confirm: rows of the confirming run, as of a runs table.
      level: of the interval.

    Returns:
      rows of eval, predicted, low, high, measured, difference, inside; losses in nats per token.
    """
    rows = []
    for name, fit in fits.items():
        for row in confirm[confirm["eval"] == name].sort_values("tokens").tail(1).to_dict("records"):
            given = row | {"ratio": row[f"w_{name}"]}
            found = fit.predict(**{column: given[column] for column in fit.law.columns}, level=level)
            law = fit.stretched(found.point, found.samples, level) if len(found.samples) else np.full(1000, found.point)
            scatter = np.random.default_rng(0).normal(0, np.hypot(*noise.of_fit(fit)), len(law))
            low, high = interval(law + scatter, level)
            point = float(found.point)
            rows.append({
                "eval": name, "predicted": point, "low": low, "high": high, "measured": row["loss"],
                "difference": row["loss"] - point, "inside": low <= row["loss"] <= high,
            })  # fmt: skip
    return pd.DataFrame(rows)
