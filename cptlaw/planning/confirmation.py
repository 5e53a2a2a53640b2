"""The run trained at the recommendation: what the laws predicted for it beside what it measured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit


def confirmation(fits: Mapping[str, "Fit"], confirm: pd.DataFrame, level: float) -> pd.DataFrame:
    """Prediction beside measurement for each corpus at the confirming run's last evaluation.

    The interval is that of one new run; of a fit of its law alone, that of the law's mean.

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
            point, low, high = float(found.point), float(found.low), float(found.high)
            rows.append({
                "eval": name, "predicted": point, "low": low, "high": high, "measured": row["loss"],
                "difference": row["loss"] - point, "inside": low <= row["loss"] <= high,
            })  # fmt: skip
    return pd.DataFrame(rows)
