"""Forgetting with injected pre-training data (Bethune et al. 2025, arXiv 2502.06042).

`ratio` is p, the share of injected general data (the general corpus is the one evaluated); D_ft, the unique
fine-tuning tokens, is `unique_tokens`, of the domain. N and D_ft in billions.
"""

from typing import Any

from cptlaw.laws.base import BILLION, Array, Law, Param, builder, power


@builder
def forgetting() -> Law:
    """L_general = L0 + A D_ft^beta / ((1 + B p) N)^alpha."""

    def function(p: Any, x: Any, xp: Any) -> Array:
        N, D = x.params / BILLION, x.unique_tokens / BILLION
        return p.L0 + p.A * power(D, p.beta, xp) / power((1 + p.B * x.ratio) * N, p.alpha, xp)

    return Law(
        name="forgetting",
        title="Forgetting law",
        equation="L0 + A D_ft^beta / ((1 + B p) N)^alpha",
        source="Bethune et al. 2025 (arXiv 2502.06042)",
        params=(
            Param("L0", low=0, linear=True, about="general loss before"),
            Param("A", low=0, linear=True),
            Param("beta", 1e-3, 5, (0.05, 1.0)),
            Param("B", 0, 1e6, (1.0, 1000.0), about="how much a share of replay counts as size"),
            Param("alpha", 1e-3, 5, (0.05, 1.0)),
        ),
        columns=("params", "unique_tokens", "ratio"),
        billions=("params", "unique_tokens"),
        function=function,
    )
