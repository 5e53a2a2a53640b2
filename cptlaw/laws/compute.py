"""Laws in training FLOPs, for ladders in which size and tokens move together and cannot be told apart.

C = 6 N D of pre-training (Kaplan et al. 2020, arXiv 2001.08361), in units of 1e21; CPT tokens in billions.
"""

from typing import Any

from cptlaw.laws.base import BILLION, Array, Law, Param, builder, power

UNIT = 1e21  # FLOPs; with N and D in billions, C = 6 N D / 1e3


@builder
def compute(base: bool = True) -> Law:
    """E + A/C^alpha + B/D^beta: C the FLOPs of the base model's pre-training, D the CPT tokens.

    Args:
      base: false for a ladder that is itself pre-training: E + A/C^alpha, C the FLOPs of the run (`tokens`).
    """
    size = (
        Param("E", low=0, linear=True, about="irreducible loss"),
        Param("A", low=0, linear=True, about="FLOPs term"),
        Param("alpha", 1e-3, 5, (0.05, 0.5)),
    )
    tokens = (Param("B", low=0, linear=True, about="CPT token term"), Param("beta", 1e-3, 5, (0.05, 1.0)))

    def function(p: Any, x: Any, xp: Any) -> Array:
        trained = x.pretrain_tokens if base else x.tokens
        flops = 6 * (x.params / BILLION) * (trained / BILLION) * (BILLION**2 / UNIT)
        loss = p.E + p.A / power(flops, p.alpha, xp)
        return loss + p.B / power(x.tokens / BILLION, p.beta, xp) if base else loss

    return Law(
        name="compute",
        title="Law in base FLOPs and CPT tokens" if base else "Law in training FLOPs",
        equation=f"E + A/C^alpha{' + B/D^beta' if base else ''}, C = 6 N {'D_pt' if base else 'D'} / 1e21",
        source="Kaplan et al. 2020 (arXiv 2001.08361); C alone stands for size and tokens that move together",
        params=(*size, *(tokens if base else ())),
        columns=("params", "tokens", *(("pretrain_tokens",) if base else ())),
        function=function,
        billions=("tokens",) if base else (),
    )
