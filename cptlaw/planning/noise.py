"""How far a run's losses lie from the law: a part its checkpoints share, and a part of each."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cptlaw import runs

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit


def of_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Spread between runs that differ in the seed alone.

    Returns:
      a row for each evaluated corpus with repeats: eval, sd (nats per token, pooled), relative, settings.
    """
    rows = table[runs.finished(table)]
    if "tokens" in rows:
        rows = rows[rows["tokens"] > 0]
    key = [name for name in ("params", "tokens", *(f"w_{c}" for c in runs.corpora(table))) if name in rows]
    found = []
    for corpus, some in rows.groupby("eval", sort=False):
        groups = some.groupby(key, dropna=False)["loss"]
        freedom = groups.size() - 1
        if key and freedom.sum():
            sd = float(np.sqrt((groups.var(ddof=1).fillna(0) * freedom).sum() / freedom.sum()))
            relative, settings = sd / float(some["loss"].mean()), int((freedom > 0).sum())
            found.append({"eval": corpus, "sd": sd, "relative": relative, "settings": settings})
    return pd.DataFrame(found, columns=["eval", "sd", "relative", "settings"])


def of_fit(fit: "Fit") -> tuple[float, float]:
    """(run, checkpoint) standard deviations of a fit's residuals, nats per token: one-way variance components."""
    rows = fit.residuals[~fit.residuals["held_out"].astype(bool)]
    errors = (rows["observed"] - rows["predicted"]).groupby(rows["run"])
    size = errors.size().to_numpy(dtype=float)
    total, groups = size.sum(), len(size)
    within = float((errors.var(ddof=1).fillna(0) * (errors.size() - 1)).sum()) / max(total - groups, 1.0)
    between = float((size * errors.mean().to_numpy() ** 2).sum()) / max(groups - 1, 1)
    typical = (total - (size**2).sum() / total) / max(groups - 1, 1)
    return float(np.sqrt(max(between - within, 0.0) / max(typical, 1.0))), float(np.sqrt(within))
