"""The perplexity-aware data scaling law (Liu et al. 2026, arXiv 2512.21515) and its null competitors.

At a fixed base model: mu and sigma are the mean and spread of the training subset's perplexity under it, D its tokens
in billions. The form is not unit-free, so the unit of mu and the meaning of sigma are options kept with the fit.
"""

import functools
from dataclasses import replace
from typing import Any

import numpy as np

from cptlaw import units
from cptlaw.laws.base import BILLION, Array, Law, LawError, Param, builder

SPREADS = ("std", "variance")
SOURCE = "Liu et al. 2026 (arXiv 2512.21515); form only, its coefficients are not public"
E = Param("E", low=0, linear=True, about="irreducible loss")
AD = Param("aD", 0, 5, (0.05, 1.0))
D_C = Param("D_c", low=0, linear=True)
EQUATIONS = {
    "full": "E + D_c / (mu^(a0 + a1 sigma) sigma^(b0 + b1 mu) D^aD)",
    "no_interaction": "E + D_c / (mu^a0 sigma^b0 D^aD)",
    "quadratic": "E + c1 m + c2 s + c3 m^2 + c4 s^2 + c5 m s + D_c/D^aD, m = log mu, s = log sigma",
    "tokens_only": "E + D_c/D^aD",
}


@builder
def perplexity(form: str = "full", spread: str = "std", unit: str = "perplexity") -> Law:
    """One of `EQUATIONS`.

    Args:
      spread: whether sigma in the law is the standard deviation or the variance; the table holds `ppl_std` either way.
      unit: what `ppl_mean` and `ppl_std` are measured in; kept with the fit.
    """
    for value, known in ((form, tuple(EQUATIONS)), (spread, SPREADS), (unit, units.PERPLEXITY)):
        if value not in known:
            raise LawError(f"perplexity: {value!r} is not one of {', '.join(known)}")
    powers = [Param(n, -20, 20, (-1.0, 1.0)) for n in ("a0", "a1", "b0", "b1")]
    params = {
        "full": (E, D_C, *powers, AD),
        "no_interaction": (E, D_C, powers[0], powers[2], AD),
        "quadratic": (replace(E, low=-np.inf), *(Param(f"c{i}", linear=True) for i in range(1, 6)), D_C, AD),
        "tokens_only": (E, D_C, AD),
    }[form]

    def function(p: Any, x: Any, xp: Any) -> Array:
        tokens = p.aD * xp.log(x.tokens / BILLION)
        if form == "tokens_only":
            return p.E + p.D_c * xp.exp(-tokens)
        mu, sigma = x.ppl_mean, x.ppl_std**2 if spread == "variance" else x.ppl_std
        m, s = xp.log(mu), xp.log(sigma)
        if form == "quadratic":
            surface = p.c1 * m + p.c2 * s + p.c3 * m**2 + p.c4 * s**2 + p.c5 * m * s
            return p.E + surface + p.D_c * xp.exp(-tokens)
        cross = (p.a1 * sigma * m + p.b1 * mu * s) if form == "full" else 0.0
        return p.E + p.D_c * xp.exp(-(p.a0 * m + p.b0 * s + cross + tokens))

    name = "perplexity" if form == "full" else f"perplexity_{form}"
    return Law(
        name=name,
        title=f"Perplexity-aware law, {form.replace('_', ' ')} (sigma the {spread}, {unit})",
        equation=EQUATIONS[form],
        source=SOURCE,
        params=params,
        columns=("tokens",) if form == "tokens_only" else ("tokens", "ppl_mean", "ppl_std"),
        billions=("tokens",),
        function=function,
    )


for _form in EQUATIONS:
    if _form != "full":
        builder(functools.partial(perplexity, _form), f"perplexity_{_form}")
