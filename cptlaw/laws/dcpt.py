"""The D-CPT Law and the forms it was compared with (Que et al., NeurIPS 2024, arXiv 2406.01375).

N and D in billions, r the token share of the evaluated corpus, r' = r + eps. L3 is the law:

    L(N, D, r) = E + A / N^alpha + B r^eta / D^beta + C / (r + eps)^gamma

dL/dr < 0 for D >= D_min when eta > 1 and C > C0, the constrained form (default).
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from cptlaw.laws.base import BILLION, Array, Law, Param, builder, power

SOURCE = "Que et al. 2024, D-CPT Law (arXiv 2406.01375)"
EQUATIONS = {
    "L1": "E + A/N^alpha + B/D^beta + C/(r+eps)^gamma",
    "L2": "E + A/N^alpha + (B/D^beta + C/(r+eps)^gamma)^eta",
    "L3": "E + A/N^alpha + B r^eta/D^beta + C/(r+eps)^gamma",
    "L4": "E + A/N^alpha + B b^r/D^beta + C/c^r",
    "L5": "E + A/N^alpha + B/(r D + (1-r) sigma D)^beta",
    "L5b": "E + A/N^alpha + B/(r D + (1-r) sigma)^beta",
    "L6": "E + A/N^alpha + B e^r/D^beta + C/(r+eps)^gamma",
    "L7": "E + A/N^alpha + B (r+eps)^eta/D^beta + C/(r+eps)^gamma",
}
EXPONENT = (1e-3, 5.0, (0.05, 1.0))


@builder
def dcpt(constrained: bool = True, free_sign: bool = False, d_min: float | None = None) -> Law:
    """The law, L3.

    Args:
      constrained: eta > 1 and C > C0(D_min), so that the loss falls with r everywhere.
      free_sign: B may be negative, as below the inflection ratio, where loss rises with D; then unconstrained.
      d_min: smallest D of the constraint, in tokens; None takes the smallest fitted.
    """
    return compared("L3", constrained and not free_sign, free_sign, d_min)


def compared(form: str, constrained: bool = False, free_sign: bool = False, d_min: float | None = None) -> Law:
    """One of the forms `EQUATIONS`; the options are L3's."""
    name = {"L3": "dcpt"}.get(form, f"dcpt_{form.lower()}")
    E = Param("E", low=0, linear=True, about="irreducible loss")
    size = (Param("A", low=0, linear=True, about="size term"), Param("alpha", *EXPONENT))
    B = Param("B", low=-np.inf if free_sign else 0, linear=form != "L2", start=(0.01, 1.0), about="token term")
    tokens = (B, Param("beta", *EXPONENT))
    excess = "; fitted above C0" if constrained else ""
    ratio = (
        Param("C", low=0, linear=form != "L2", start=(0.01, 1.0), about="ratio term" + excess),
        Param("gamma", low=1e-3, high=10, start=(0.05, 2.0)),
        Param("eps", low=1e-4, high=10, start=(0.01, 1.0)),
    )
    eta = Param("eta", low=1 if constrained else 1e-3, high=20, start=(1.0, 3.0) if constrained else (0.2, 3.0))
    params = {
        "L1": (E, *size, *tokens, *ratio),
        "L4": (E, *size, *tokens, Param("b", 1e-6, 1e6, (0.5, 5.0)), Param("C", low=0, linear=True),
               Param("c", 1e-6, 1e6, (0.5, 5.0))),
        "L5": (E, *size, *tokens, Param("sigma", 0, 1e6, (0.05, 2.0))),
        "L5b": (E, *size, *tokens, Param("sigma", 0, 1e6, (0.05, 2.0), about="billions of tokens")),
        "L6": (E, *size, *tokens, *ratio),
    }.get(form, (E, *size, *tokens, eta, *ratio))  # fmt: skip

    def function(p: Any, x: Any, xp: Any) -> Array:
        N, D, r = x.params / BILLION, x.tokens / BILLION, x.ratio
        chinchilla = p.E + p.A / power(N, p.alpha, xp)
        if form in ("L5", "L5b"):
            other = (1 - r) * p.sigma
            return chinchilla + p.B / (r * D + (other * D if form == "L5" else other)) ** p.beta
        if form == "L4":
            return chinchilla + p.B * p.b**r / power(D, p.beta, xp) + p.C / p.c**r
        ratio_term = p.C / power(r + p.eps, p.gamma, xp)
        if form == "L2":
            return chinchilla + (p.B / power(D, p.beta, xp) + ratio_term) ** p.eta
        shares = {"L1": lambda: 1.0, "L3": lambda: power(r, p.eta, xp), "L6": lambda: xp.exp(r)}
        return (
            chinchilla
            + p.B * shares.get(form, lambda: power(r + p.eps, p.eta, xp))() / power(D, p.beta, xp)
            + ratio_term
        )

    def expand(p: Any, xp: Any) -> dict[str, Array]:
        return {"C": lower_bound(vars(p)) + p.C}

    def smallest(x: Mapping[str, np.ndarray]) -> float:
        return float(np.min(x["tokens"]) if d_min is None else d_min) / BILLION

    return Law(
        name=name,
        title=f"D-CPT Law {form}" + (", constrained" if constrained else ", free-sign B" if free_sign else ""),
        equation=EQUATIONS[form],
        source=SOURCE,
        params=params,
        columns=("params", "tokens", "ratio"),
        billions=("params", "tokens"),
        function=function,
        fixed={"D_min": smallest} if constrained else {},
        expand=expand if constrained else None,
        derived=("C",) if constrained else (),
    )


def lower_bound(p: Mapping[str, Array]) -> Array:
    """C0: L3 falls with r for every D >= D_min (billions) when C > C0 and eta > 1."""
    return p["B"] * p["eta"] * (1 + p["eps"]) ** (p["gamma"] + 1) / (p["gamma"] * p["D_min"] ** p["beta"])


def _form(form: str) -> Law:
    return compared(form)


for _name in EQUATIONS:
    if _name != "L3":  # which is dcpt
        builder(functools.partial(_form, _name), f"dcpt_{_name.lower()}")
