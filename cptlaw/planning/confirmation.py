"""The runs trained at the recommendation: what the laws predicted for one beside what they measured."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit


def confirmation(fits: Mapping[str, "Fit"], confirm: pd.DataFrame, level: float) -> pd.DataFrame:
    """Prediction beside measurement for each corpus at the confirming runs' last evaluation.

    The interval is that of one new run; of a fit of its law alone, that of the law's mean.

    Args:
      fits: evaluated corpus -> fit.
      confirm: rows of runs of one mix that differ in their seed, as of a runs table.
      level: of the interval.

    Returns:
      rows of eval, predicted, low, high; measured, the runs' mean; sd, their standard deviation (NaN of one run);
      difference; runs; inside, how many of them are within the interval. Losses in nats per token.
    """
    rows = []
    last = confirm[confirm["tokens"] == confirm["tokens"].max()]
    for name, fit in fits.items():
        own = last[last["eval"] == name]
        if own.empty:
            continue
        row = own.iloc[0].to_dict()
        given = row | {"ratio": row.get(f"w_{name}")}
        found = fit.predict(**{column: given[column] for column in fit.law.columns}, level=level)
        point, low, high = float(found.point), float(found.low), float(found.high)
        measured = float(own["loss"].mean())
        rows.append({
            "eval": name, "predicted": point, "low": low, "high": high, "measured": measured,
            "sd": float(own["loss"].std()), "difference": measured - point, "runs": len(own),
            "inside": int(own["loss"].between(low, high).sum()),
        })  # fmt: skip
    return pd.DataFrame(rows)


def in_words(checked: pd.DataFrame) -> list[str]:
    """A line a corpus, for a terminal."""
    lines = []
    for row in checked.itertuples():
        line = f"  loss, {row.eval:<18}predicted {row.predicted:.4f} ({row.low:.4f} to {row.high:.4f}), measured "
        if row.runs == 1:
            line += f"{row.measured:.4f}: {'inside' if row.inside else 'OUTSIDE'} the interval"
        else:
            line += f"{row.measured:.4f} +- {row.sd:.4f}: {row.inside} of {row.runs} inside the interval"
        lines.append(line)
    return lines
