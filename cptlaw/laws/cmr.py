"""Critical-mixture-ratio forms (Gu et al. 2024, arXiv 2407.17467), at one size: R the corpus's share, T the tokens.

T is in billions here (the paper's unit is 200M tokens: multiply a by 5^s to compare).
"""

from typing import Any

from cptlaw.laws.base import BILLION, Array, Law, Param, builder, power

SOURCE = "Gu et al. 2024, Critical Mixture Ratio (arXiv 2407.17467)"


@builder
def cmr() -> Law:
    """a R^s + b at fixed tokens. The domain loss falls with its share, so a < 0 and s > 0.

    s is bounded below by 0 because a start with s < 0 drifts towards a logarithm and does not come back.
    """

    def function(p: Any, x: Any, xp: Any) -> Array:
        return p.a * power(x.ratio, p.s, xp) + p.b

    return Law(
        name="cmr",
        title="CMR, loss against ratio",
        equation="a R^s + b",
        source=SOURCE,
        params=(Param("a", linear=True), Param("s", 1e-3, 10, (0.05, 1.0)), Param("b", linear=True)),
        columns=("ratio",),
        function=function,
    )


@builder
def cmr_tokens() -> Law:
    """a1 T^s1 + b1 at a fixed ratio: the domain loss."""

    def function(p: Any, x: Any, xp: Any) -> Array:
        return p.a1 * power(x.tokens / BILLION, p.s1, xp) + p.b1

    return Law(
        name="cmr_tokens",
        title="CMR, domain loss against tokens",
        equation="a1 T^s1 + b1",
        source=SOURCE,
        params=(Param("a1", linear=True), Param("s1", -5, 5, (-1.0, 0.5)), Param("b1", linear=True)),
        columns=("tokens",),
        billions=("tokens",),
        function=function,
    )


@builder
def cmr_general() -> Law:
    """a2 T^s2 + a3 T^s3 + b2 at a fixed ratio: the general loss, which rises and then falls."""

    def function(p: Any, x: Any, xp: Any) -> Array:
        T = x.tokens / BILLION
        return p.a2 * power(T, p.s2, xp) + p.a3 * power(T, p.s3, xp) + p.b2

    return Law(
        name="cmr_general",
        title="CMR, general loss against tokens",
        equation="a2 T^s2 + a3 T^s3 + b2",
        source=SOURCE,
        params=(
            Param("a2", linear=True),
            Param("s2", 0, 5, (0.0, 1.0), about="the larger exponent"),
            Param("a3", linear=True),
            Param("s3", -5, 0, (-1.0, 0.0), about="the smaller exponent"),
            Param("b2", linear=True),
        ),
        columns=("tokens",),
        billions=("tokens",),
        function=function,
    )
