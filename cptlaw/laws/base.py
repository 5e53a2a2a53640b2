"""What a law is: an equation with named, bounded parameters. No fitting here.

An equation is written once, as `function(p, x, xp)`: `p` holds the parameters and `x` the columns as attributes,
`xp` is numpy or jax.numpy. So a law predicts with NumPy where JAX is not wanted and differentiates in JAX where it is.
Columns come in counts (parameters, tokens); a law that wants billions divides by `BILLION` itself.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np

from cptlaw.errors import UserError
from cptlaw.registry import Registry

BILLION = 1e9
Array = Any  # a numpy or jax array, or a float
Theta = Mapping[str, Array]
Builder = TypeVar("Builder", bound=Callable[..., Any])


class LawError(UserError):
    """An unknown law, option, parameter or column; names the valid ones."""


@dataclass(frozen=True)
class Param:
    """A parameter with its box, the range its starts are drawn from, and whether the law is linear in it.

    A linear parameter needs no start: given the others it is solved for.

    Attributes:
      low, high: the bounds of its box.
      start: the range that starts are drawn from, for a parameter that is not linear.
      linear: whether the loss is linear in it, all others given.
      about: what it means, for `cptlaw laws`.
    """

    name: str
    low: float = -np.inf
    high: float = np.inf
    start: tuple[float, float] = (0.0, 1.0)
    linear: bool = False
    about: str = ""


@dataclass(frozen=True, eq=False)
class Law:
    """An equation: `predict(theta, x)` in nats per token.

    Attributes:
      columns: what it reads; "ratio" is `w_<eval>`, "unique_tokens" may be `unique_tokens_<eval>`.
      fixed: parameters not fitted but set from the fitted rows' columns, e.g. the smallest D of a constraint.
      expand: maps the freely fitted parameters to the reported ones, where a constraint ties them.
      derived: the names that `expand` rewrites.
      options: what `laws.get(name, **options)` needs to rebuild this law.
      billions: the columns that the equation divides by 1e9, so its parameters are of billions.
      file, sha256: the user's file it came from, if any, and the digest of what that file held.
      base: of a joint law, the law of one corpus.
      factor: the column whose levels have offsets (`cptlaw.laws.factor`).
      given: columns of the equation that are held at a value, and are no columns of this law any more.
    """

    name: str
    title: str
    equation: str
    source: str
    params: tuple[Param, ...]
    columns: tuple[str, ...]
    function: Callable[[Any, Any, Any], Array]
    fixed: Mapping[str, Callable[[Mapping[str, np.ndarray]], float]] = field(default_factory=dict)
    expand: Callable[[Any, Any], Mapping[str, Array]] | None = None
    derived: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    billions: tuple[str, ...] = ()
    file: str | None = None
    sha256: str | None = None
    base: "Law | None" = None
    factor: Any = None
    given: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [p.name for p in self.params]
        if len(set(names)) != len(names):
            raise LawError(f"law {self.name}: parameter names repeat: {', '.join(names)}")
        for p in self.params:
            if not p.low < p.high or (not p.linear and not p.low <= p.start[0] <= p.start[1] <= p.high):
                raise LawError(f"law {self.name}: {p.name} needs low < high and its start range within them")

    @property
    def names(self) -> tuple[str, ...]:
        """Fitted parameters, in order."""
        return tuple(p.name for p in self.params)

    def __getitem__(self, name: str) -> Param:
        return next(p for p in self.params if p.name == name)

    def predict(self, theta: Theta, x: Mapping[str, Array]) -> Array:
        """Loss in nats per token; reported parameters `theta` and `x` broadcast. NumPy float64, or JAX if given JAX."""
        missing = [c for c in self.columns if c not in x]
        if missing:
            raise LawError(f"law {self.name} needs {', '.join(missing)}; it reads {', '.join(self.columns)}")
        return self.function(SimpleNamespace(**theta), SimpleNamespace(**x), namespace(theta, x))

    def at(self, **given: float) -> "Law":
        """The law with some of its columns held at a value, which it then does not read."""

        def function(p: Any, x: Any, xp: Any) -> Array:
            return self.function(p, SimpleNamespace(**given, **vars(x)), xp)

        columns = tuple(name for name in self.columns if name not in given)
        return replace(self, columns=columns, function=function, given={**self.given, **given})

    def expanded(self, theta: Theta) -> dict[str, Array]:
        """Freely fitted parameters to reported ones."""
        if self.expand is None:
            return dict(theta)
        return {**theta, **self.expand(SimpleNamespace(**theta), namespace(theta))}


def namespace(*trees: Mapping[str, Array]) -> Any:
    """numpy, or jax.numpy when any value is a JAX array."""
    jax = sys.modules.get("jax")
    if jax is not None and any(isinstance(v, jax.Array) for tree in trees for v in tree.values()):
        return jax.numpy
    return np


def power(base: Array, exponent: Array, xp: Any) -> Array:
    """base ** exponent with 0 ** e = 0, whose gradient is finite (a plain power has log 0 in it)."""
    positive = base > 0
    return xp.where(positive, xp.exp(exponent * xp.log(xp.where(positive, base, 1.0))), 0.0)


# The built-in laws: name -> what builds it from its options. A user's file holds a Law itself.
BUILDERS: Registry[Any] = Registry("law", Law, "@cptlaw.laws.law", LawError, after="fit")


def builder(function: Builder, name: str | None = None) -> Builder:
    """Registers what builds a built-in law, under its own name or another; the keywords that it takes are its options.

    A module of this package needs nothing else: it is found, and so is the law by every command.

    >>> @builder
    ... def size_only(irreducible: bool = True) -> Law: ...

    Raises:
      LawError: there is such a law.
    """
    return BUILDERS.add(name or function.__name__, function)


def law(
    params: Sequence[Param], columns: Sequence[str], title: str = "", equation: str = "", source: str = "user"
) -> Callable[[Callable[[Any, Any, Any], Array]], Law]:
    """Makes a law of `function(p, x, xp)`.

    >>> @law([Param("E", low=0, linear=True), Param("A", low=0, linear=True), Param("a", 0, 3)], ["params"])
    ... def size_only(p, x, xp):
    ...     return p.E + p.A / (x.params / 1e9) ** p.a
    """

    def make(function: Callable[[Any, Any, Any], Array]) -> Law:
        name = function.__name__
        return Law(name, title or name, equation or name, source, tuple(params), tuple(columns), function)

    return make


def joint(law: Law, corpora: Sequence[str], shared: Sequence[str]) -> Law:
    """One law for several evaluated corpora: `shared` parameters are common, every other one is `name[corpus]`.

    It reads one more column, "corpus": the index into `corpora`. `shared=["all"]` is the law itself, on pooled rows.
    """
    if list(shared) == ["all"]:
        return law
    unknown = [name for name in shared if name not in law.names]
    if unknown:
        raise LawError(f"law {law.name} has no {', '.join(unknown)} to share; it has {', '.join(law.names)}")
    if set(shared) == set(law.names):
        return law
    if tied := [name for name in law.derived if name in shared]:
        raise LawError(
            f"{', '.join(tied)} of {law.name} is tied to other parameters by a constraint, so it can be shared only "
            "when all are; leave it per corpus or fit the unconstrained law (constrained=false)"
        )
    params: list[Param] = []
    for p in law.params:
        params += [p] if p.name in shared else [replace(p, name=f"{p.name}[{c}]") for c in corpora]

    def of_corpus(theta: Mapping[str, Array], corpus: str) -> dict[str, Array]:
        own = {name: theta[name if name in shared else f"{name}[{corpus}]"] for name in law.names}
        return own | {name: theta[name] for name in law.fixed}

    def function(p: Any, x: Any, xp: Any) -> Array:
        theta = vars(p)
        rows: dict[str, Array] = {name: theta[name] for name in (*shared, *law.fixed)}
        for name in law.names:
            if name not in shared:
                rows[name] = sum(xp.where(x.corpus == i, theta[f"{name}[{c}]"], 0.0) for i, c in enumerate(corpora))
        return law.function(SimpleNamespace(**rows), x, xp)

    def expand(p: Any, xp: Any) -> dict[str, Array]:
        assert law.expand is not None
        out: dict[str, Array] = {}
        for corpus in corpora:
            new = law.expand(SimpleNamespace(**of_corpus(vars(p), corpus)), xp)
            out |= {f"{name}[{corpus}]": value for name, value in new.items()}
        return out

    return replace(
        law,
        title=f"{law.title}, joint over {', '.join(corpora)}",
        params=tuple(params),
        columns=(*law.columns, "corpus"),
        function=function,
        expand=expand if law.expand else None,
        derived=tuple(f"{name}[{corpus}]" for name in law.derived for corpus in corpora),
        base=law,
    )
