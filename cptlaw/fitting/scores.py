"""How good predictions are, in numbers that mean the same for laws and baselines."""

import numpy as np

HUBER_DELTA = 1e-3


def score(observed: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Over rows: `mean_log` and `rms_log` (log error), `mae` (nats), `huber` (sum, delta 1e-3 of log error), `r2`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        log = np.log(predicted) - np.log(observed)
    size = np.abs(log)
    huber = np.where(size <= HUBER_DELTA, 0.5 * log**2, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))
    spread = float(np.sum((observed - observed.mean()) ** 2))
    return {
        "mean_log": float(size.mean()),
        "rms_log": float(np.sqrt(np.mean(log**2))),
        "mae": float(np.abs(predicted - observed).mean()),
        "huber": float(huber.sum()),
        "r2": 1 - float(np.sum((predicted - observed) ** 2)) / spread if spread > 0 else float("nan"),
    }
