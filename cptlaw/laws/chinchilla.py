"""Chinchilla (Hoffmann et al. 2022) and its repetition form (Muennighoff et al. 2023, arXiv 2305.16264).

N, D and the unique tokens U in billions: for counts, multiply A by 1e9^alpha and B by 1e9^beta.
"""

from dataclasses import replace
from typing import Any

from cptlaw.laws.base import BILLION, Array, Law, Param, builder, power

TERMS = (
    Param("E", low=0, linear=True, about="irreducible loss"),
    Param("A", low=0, linear=True, about="size term"),
    Param("alpha", 1e-3, 5, (0.05, 1.0)),
    Param("B", low=0, linear=True, about="token term"),
    Param("beta", 1e-3, 5, (0.05, 1.0)),
)


@builder
def chinchilla() -> Law:
    """E + A/N^alpha + B/D^beta."""

    def function(p: Any, x: Any, xp: Any) -> Array:
        return p.E + p.A / power(x.params / BILLION, p.alpha, xp) + p.B / power(x.tokens / BILLION, p.beta, xp)

    return Law(
        name="chinchilla",
        title="Chinchilla law",
        equation="E + A/N^alpha + B/D^beta",
        source="Hoffmann et al. 2022 (arXiv 2203.15556)",
        params=TERMS,
        columns=("params", "tokens"),
        function=function,
        billions=("params", "tokens"),
    )


@builder
def repetition(tied: bool = False) -> Law:
    """Chinchilla on effective data and parameters, which repeats and excess parameters raise less and less.

    D' = U + U R_D (1 - exp(-R/R_D)) with R = D/U - 1 repeats; N' likewise with U_N, the parameters that are
    compute-optimal for U unique tokens.

    Args:
      tied: alpha = beta, as published.
    """
    tail = (
        Param("R_D", 1e-2, 1e4, (1.0, 30.0), about="repeats after which data is worth 1/e less"),
        Param("R_N", 1e-2, 1e4, (1.0, 30.0), about="the same of excess parameters"),
    )
    # N' depends on A/B through the optimal size, so only E is linear here.
    terms = [replace(p, linear=False, start=(0.1, 3.0)) if p.name in ("A", "B") else p for p in TERMS]
    params = (*(p for p in terms if not (tied and p.name == "beta")), *tail)

    def function(p: Any, x: Any, xp: Any) -> Array:
        N, D, U = x.params / BILLION, x.tokens / BILLION, x.unique_tokens / BILLION
        beta = p.alpha if tied else p.beta
        # Compute-optimal N for U tokens: N = G (C/6)^(beta/(alpha+beta)), D = (C/6)^(alpha/(alpha+beta)) / G.
        G = power(p.alpha * p.A / xp.maximum(beta * p.B, 1e-12), 1 / (p.alpha + beta), xp)
        optimal = xp.minimum(power(U * G, beta / p.alpha, xp) * G, N)
        U = xp.minimum(U, D)
        return (
            p.E
            + p.A / power(effective(N, optimal, p.R_N, xp), p.alpha, xp)
            + p.B / power(effective(D, U, p.R_D, xp), beta, xp)
        )

    return Law(
        name="repetition",
        title="Data-constrained law",
        equation="E + A/N'^alpha + B/D'^beta, D' = U + U R_D (1 - exp(-(D/U - 1)/R_D)), N' likewise",
        source="Muennighoff et al. 2023 (arXiv 2305.16264)",
        params=params,
        columns=("params", "tokens", "unique_tokens"),
        function=function,
        billions=("params", "tokens", "unique_tokens"),
    )


def effective(total: Array, unique: Array, rate: Array, xp: Any) -> Array:
    """What `total` is worth when only `unique` of it is new: unique (1 + rate (1 - exp(-repeats/rate)))."""
    return unique + unique * rate * (1 - xp.exp(-(total / unique - 1) / rate))
