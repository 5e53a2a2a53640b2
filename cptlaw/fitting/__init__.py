"""Fit laws to runs tables. `Fit` and its intervals need no JAX; `fit` and `compare` import it when called."""

from typing import TYPE_CHECKING, Any

from cptlaw.fitting.result import Fit, FitError, Prediction

if TYPE_CHECKING:
    from cptlaw.fitting.contests import Contest, contest
    from cptlaw.fitting.estimate import fit
    from cptlaw.fitting.ranking import Comparison, compare

__all__ = ["Comparison", "Contest", "Fit", "FitError", "Prediction", "compare", "contest", "fit"]
_LAZY = {
    "fit": "estimate", "compare": "ranking", "Comparison": "ranking", "contest": "contests", "Contest": "contests",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"cptlaw.fitting.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
