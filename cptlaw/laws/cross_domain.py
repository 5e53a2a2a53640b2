"""The Cross-Domain D-CPT Law (Que et al. 2024): D-CPT + F / K^mu, one set of parameters for all domains.

K, the domain-specific learnable coefficient, is measured in short runs of each domain: k1 the loss at the start, k2 the
first drop, k3 the second difference. Fit it over several evaluated corpora with all parameters shared.
"""

from typing import Any

from cptlaw.laws import dcpt
from cptlaw.laws.base import Array, Law, LawError, Param, builder, power

COEFFICIENTS = {
    "K1": "w1/k1",
    "K2": "w2 k2",
    "K3": "w1/k1 + w2 k2",
    "K4": "w1/k1 + w2 k2 + w3/k3",
}


@builder
def cross_domain(K: str = "K3", constrained: bool = False) -> Law:
    """D-CPT (L3) + F / K^mu.

    Args:
      K: which coefficient. F absorbs a common scale of the w, so the first is fixed at 1.
      constrained: see `dcpt`.
    """
    if K not in COEFFICIENTS:
        raise LawError(f"cross_domain has no coefficient {K!r}; it has {', '.join(COEFFICIENTS)}")
    base = dcpt.dcpt(constrained=constrained)
    extra = [Param("F", low=0, linear=True), Param("mu", 1e-3, 5, (0.05, 2.0))]
    if K in ("K3", "K4"):
        extra.append(Param("w2", 0, 1e4, (0.01, 5.0), about="of k2, with w1 = 1"))
    if K == "K4":
        extra.append(Param("w3", 0, 1e4, (0.001, 1.0), about="of 1/k3, with w1 = 1"))

    def function(p: Any, x: Any, xp: Any) -> Array:
        learnable = {
            "K1": lambda: 1 / x.k1,
            "K2": lambda: x.k2,
            "K3": lambda: 1 / x.k1 + p.w2 * x.k2,
            "K4": lambda: 1 / x.k1 + p.w2 * x.k2 + p.w3 / x.k3,
        }[K]()
        return base.function(p, x, xp) + p.F / power(learnable, p.mu, xp)

    reads = {"K1": ("k1",), "K2": ("k2",), "K3": ("k1", "k2"), "K4": ("k1", "k2", "k3")}[K]
    return Law(
        name="cross_domain",
        title=f"Cross-Domain D-CPT Law, {K}",
        equation=f"{base.equation} + F/K^mu, K = {COEFFICIENTS[K]}, w of the first term 1",
        source=dcpt.SOURCE,
        params=(*base.params, *extra),
        columns=(*base.columns, *reads),
        billions=base.billions,
        function=function,
        fixed=base.fixed,
        expand=base.expand,
        derived=base.derived,
    )
