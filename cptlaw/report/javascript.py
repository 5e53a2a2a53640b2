"""JavaScript of an equation, written from the trace of its own Python: a page evaluates the law that was fitted.

JAX traces the function to a list of elementary operations (a jaxpr); each is written as one line of JavaScript. So a
law has one implementation, a user's own law is no exception, and what cannot be written exactly is refused.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from cptlaw.errors import UserError
from cptlaw.laws import Law

CALLS = ("pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")
SAME = ("copy", "copy_p", "stop_gradient", "reshape", "squeeze", "broadcast_in_dim", "reduce_precision")
FUNCTIONS = {
    "exp": "Math.exp", "log": "Math.log", "log1p": "Math.log1p", "expm1": "Math.expm1", "sqrt": "Math.sqrt",
    "cbrt": "Math.cbrt", "tanh": "Math.tanh", "sinh": "Math.sinh", "cosh": "Math.cosh", "atan": "Math.atan",
    "sin": "Math.sin", "cos": "Math.cos", "tan": "Math.tan", "abs": "Math.abs", "sign": "Math.sign",
    "floor": "Math.floor", "ceil": "Math.ceil", "max": "Math.max", "min": "Math.min", "pow": "Math.pow",
    "is_finite": "Number.isFinite",
}  # fmt: skip
OPERATORS = {
    "add": "+", "add_any": "+", "sub": "-", "mul": "*", "div": "/",
    "gt": ">", "lt": "<", "ge": ">=", "le": "<=", "eq": "===", "ne": "!==",
}  # fmt: skip


class NotWritten(UserError):
    """An equation with an operation that is not written in JavaScript; names it."""


def of_law(law: Law) -> str:
    """`function (p, x)` of the law's loss in nats per token, for one row.

    Its arguments are arrays of numbers: `p` the parameters in the order of `parameters`, `x` the columns in the order
    of `law.columns`.

    Raises:
      NotWritten: the law has an operation without an equivalent, or cannot be traced with scalars.
    """
    names = parameters(law)

    def loss(p: Sequence[Any], x: Sequence[Any]) -> Any:
        return law.predict(dict(zip(names, p)), dict(zip(law.columns, x)))

    return of_function(loss, len(names), len(law.columns))


def parameters(law: Law) -> tuple[str, ...]:
    """Every parameter that the law's equation is given, fitted and fixed, in order."""
    return (*law.names, *law.fixed)


def of_function(function: Callable[[Sequence[Any], Sequence[Any]], Any], parameters: int, columns: int) -> str:
    """`function (p, x)` of a scalar function of two lists of scalars (see `of_law`)."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64():  # a setting of this thread only; without it constants would be rounded to 32 bits
        scalar = jax.ShapeDtypeStruct((), jnp.float64)
        try:
            closed = jax.make_jaxpr(function)([scalar] * parameters, [scalar] * columns)
        except Exception as error:  # whatever a user's function raises on what it was not written for
            raise NotWritten(f"the equation cannot be traced: {type(error).__name__}: {error}") from error
    given = [f"p[{i}]" for i in range(parameters)] + [f"x[{i}]" for i in range(columns)]
    writer = _Writer()
    (result,) = writer.inline(closed.jaxpr, closed.consts, given)
    return "\n".join(["function (p, x) {", *(f"  {line}" for line in writer.lines), f"  return {result};", "}"])


class _Writer:
    """Lines of JavaScript; every operation has a name of its own."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def inline(self, jaxpr: Any, consts: Sequence[Any], given: Sequence[str]) -> list[str]:
        """Writes the operations of a jaxpr whose inputs are `given`; returns its outputs."""
        known = dict(zip(jaxpr.invars, given)) | {v: _number(c) for v, c in zip(jaxpr.constvars, consts)}

        def read(variable: Any) -> str:
            return _number(variable.val) if hasattr(variable, "val") else known[variable]

        for equation in jaxpr.eqns:
            if any(variable.aval.shape for variable in equation.outvars):
                raise NotWritten(f"{equation.primitive.name} gives an array, and a page evaluates one row at a time")
            written = self._equation(equation, [read(variable) for variable in equation.invars])
            known |= dict(zip(equation.outvars, written))
        return [read(variable) for variable in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: list[str]) -> list[str]:
        name, options = equation.primitive.name, equation.params
        if name in CALLS:
            inner = options.get("jaxpr") or options.get("call_jaxpr") or options.get("fun_jaxpr")
            return self.inline(inner.jaxpr, inner.consts, inputs) if hasattr(inner, "consts") else self.inline(
                inner, (), inputs
            )  # fmt: skip
        if name in SAME or (name == "convert_element_type" and _same_type(equation)):
            return inputs[:1]
        self.lines.append(f"const v{len(self.lines)} = {_expression(name, inputs, options, equation)};")
        return [f"v{len(self.lines) - 1}"]


def _expression(name: str, inputs: list[str], options: Any, equation: Any) -> str:
    if name in OPERATORS:
        return f"{inputs[0]} {OPERATORS[name]} {inputs[1]}"
    if name in FUNCTIONS:
        return f"{FUNCTIONS[name]}({', '.join(inputs)})"
    truth = all(variable.aval.dtype == bool for variable in equation.invars)
    if name in ("and", "or") and truth:
        return f"{inputs[0]} {'&&' if name == 'and' else '||'} {inputs[1]}"
    if name == "not" and truth:
        return f"!{inputs[0]}"
    match name:
        case "neg":
            return f"-({inputs[0]})"
        case "square":
            return f"{inputs[0]} * {inputs[0]}"
        case "rsqrt":
            return f"1 / Math.sqrt({inputs[0]})"
        case "logistic":
            return f"1 / (1 + Math.exp(-({inputs[0]})))"
        case "exp2":
            return f"Math.pow(2, {inputs[0]})"
        case "integer_pow":
            return f"Math.pow({inputs[0]}, {options['y']})"
        case "clamp":
            low, value, high = inputs
            return f"Math.min(Math.max({value}, {low}), {high})"
        case "select_n" if len(inputs) == 3:
            which, no, yes = inputs
            return f"{which} ? {yes} : {no}"
        case "convert_element_type" if equation.outvars[0].aval.dtype == "float64":
            return f"Number({inputs[0]})"
    raise NotWritten(f"the operation {name} of the equation is not written in JavaScript")


def _same_type(equation: Any) -> bool:
    return equation.outvars[0].aval.dtype == equation.invars[0].aval.dtype


def _number(value: Any) -> str:
    """A scalar constant; repr gives the shortest text that reads back as the same double."""
    if getattr(value, "shape", ()):
        raise NotWritten("the equation holds an array, and a page evaluates one row at a time")
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool":
        return "true" if value else "false"
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return repr(number) if number >= 0 else f"({number!r})"
