"""Laws of any number of corpora: exponential mixing (Ye et al. 2024), additive and joint (Shukor et al. 2025)."""

from collections.abc import Sequence
from typing import Any

from cptlaw.laws.base import BILLION, Array, Law, LawError, Param, builder, power
from cptlaw.laws.chinchilla import TERMS

MIXING = "Ye et al. 2024, Data Mixing Laws (arXiv 2403.16952)"
OPTIMAL = "Shukor et al. 2025, optimal data mixtures (arXiv 2507.09404)"


@builder
def mixing(corpora: Sequence[str] = ()) -> Law:
    """L_i = c + k exp(sum_j t_j r_j). Shares sum to 1, so a constant in t is a factor in k: the last t is 0."""
    names = _names("mixing", corpora)

    def function(p: Any, x: Any, xp: Any) -> Array:
        t, r = vars(p), vars(x)
        return p.c + p.k * xp.exp(sum(t[f"t[{name}]"] * r[f"w_{name}"] for name in names[:-1]))

    return Law(
        name="mixing",
        title="Data mixing law",
        equation="c + k exp(sum_j t_j r_j), t of the last corpus 0",
        source=MIXING,
        params=(
            Param("c", low=0, linear=True, about="the loss that no mix goes below"),
            Param("k", low=0, linear=True),
            *(Param(f"t[{name}]", -50, 50, (-3.0, 3.0)) for name in names[:-1]),
        ),
        columns=tuple(f"w_{name}" for name in names),
        function=function,
    )


@builder
def additive(corpora: Sequence[str] = ()) -> Law:
    """E + 1/sum_i C_i h_i^g_i + A/N^alpha + B/D^beta: the best mix does not depend on N and D."""
    names = _names("additive", corpora)

    def function(p: Any, x: Any, xp: Any) -> Array:
        N, D = x.params / BILLION, x.tokens / BILLION
        return p.E + _mix_term(p, x, xp, names) + p.A / power(N, p.alpha, xp) + p.B / power(D, p.beta, xp)

    return Law(
        name="additive",
        title="Additive mixture law",
        equation="E + 1/(sum_i C_i h_i^g_i) + A/N^alpha + B/D^beta",
        source=OPTIMAL,
        params=(*TERMS, *_mix_params(names)),
        columns=("params", "tokens", *(f"w_{name}" for name in names)),
        billions=("params", "tokens"),
        function=function,
    )


@builder
def joint_mixture(corpora: Sequence[str] = ()) -> Law:
    """The additive law with A and B powers of linear functions of the shares: the best mix moves with N and D.

    (sum_i CA_i h_i)^gA and (sum_i CB_i h_i)^gB.
    """
    names = _names("joint_mixture", corpora)
    E, _, alpha, _, beta = TERMS

    def function(p: Any, x: Any, xp: Any) -> Array:
        N, D, values, h = x.params / BILLION, x.tokens / BILLION, vars(p), vars(x)
        A, B = (sum(values[f"{c}[{name}]"] * h[f"w_{name}"] for name in names) for c in ("CA", "CB"))
        size, tokens = power(A, p.gA, xp) / power(N, p.alpha, xp), power(B, p.gB, xp) / power(D, p.beta, xp)
        return p.E + _mix_term(p, x, xp, names) + size + tokens

    return Law(
        name="joint_mixture",
        title="Joint mixture law",
        equation="E + 1/(sum_i C_i h_i^g_i) + (sum_i CA_i h_i)^gA/N^alpha + (sum_i CB_i h_i)^gB/D^beta",
        source=OPTIMAL,
        params=(
            E,
            alpha,
            beta,
            *_mix_params(names),
            *(Param(f"{c}[{name}]", 0, 1e4, (0.01, 1.0)) for c in ("CA", "CB") for name in names),
            Param("gA", -10, 10, (0.2, 2.0)),
            Param("gB", -10, 10, (0.2, 2.0)),
        ),
        columns=("params", "tokens", *(f"w_{name}" for name in names)),
        billions=("params", "tokens"),
        function=function,
    )


def _names(law: str, corpora: Sequence[str]) -> tuple[str, ...]:
    if len(corpora) < 2:
        raise LawError(f"law {law} needs two or more corpora: a table with w_<corpus> columns, or corpora=web,code")
    return tuple(corpora)


def _mix_params(names: Sequence[str]) -> list[Param]:
    strength = [Param(f"C[{name}]", 0, 1e6, (0.1, 5.0)) for name in names]
    return strength + [Param(f"g[{name}]", 1e-3, 10, (0.1, 1.5)) for name in names]


def _mix_term(p: Any, x: Any, xp: Any, names: Sequence[str]) -> Array:
    values, h = vars(p), vars(x)
    total = sum(values[f"C[{name}]"] * power(h[f"w_{name}"], values[f"g[{name}]"], xp) for name in names)
    # While solving, the strengths of all shares present may be zero. The loss is then huge, and the solver turns back.
    return 1 / xp.maximum(total, 1e-12)
