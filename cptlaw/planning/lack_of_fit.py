"""Decisions that allow for the law being wrong where it extrapolates, which no resample of the runs can show."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from cptlaw.fitting import intervals

if TYPE_CHECKING:  # a saved fit is planned with without JAX, which fitting needs
    from cptlaw.fitting import Fit

MISS = "lack of fit"


def with_lack_of_fit(fit: "Fit") -> "Fit":
    """The fit, each of whose resamples also misses as the law did when it extrapolated before.

    A resample's losses are multiplied by exp(t s(x)), with s of `intervals.lack_of_fit` and one t a resample, Student's
    with its degrees of freedom; the misses of two corpora are independent. Any decision can be made from it.

    Raises:
      UserError: the fit has no held-out score.
    """
    intervals.lack_of_fit(fit.scores, fit.ranges, {name: np.array(high) for name, (_, high) in fit.ranges.items()})
    count = len(next(iter(fit.samples.values()), ()))
    rng = np.random.default_rng([fit.settings.get("seed", 0), *str(fit.eval).encode()])

    def function(p: Any, x: Any, xp: Any) -> Any:
        miss = intervals.lack_of_fit(fit.scores, fit.ranges, vars(x))
        return fit.law.function(p, x, xp) * xp.exp(vars(p)[MISS] * miss)

    return dataclasses.replace(
        fit,
        law=dataclasses.replace(fit.law, name=f"{fit.law.name}, {MISS}", function=function),
        params={**fit.params, MISS: 0.0},
        samples={**fit.samples, MISS: rng.standard_t(intervals.MISFIT_DF, count)},
    )
