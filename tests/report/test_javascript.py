"""Laws written in JavaScript against their own Python."""

import json

import numpy as np
import pytest

from cptlaw import laws
from cptlaw.laws import Param
from cptlaw.laws.factor import at_level, factored
from cptlaw.report import javascript

COUNTS = ("params", "tokens", "unique_tokens", "pretrain_tokens")
OPTIONS = [
    *((name, {}) for name in laws.names()),
    ("dcpt", {"free_sign": True}),
    ("repetition", {"tied": True}),
    ("compute", {"base": False}),
    *(("cross_domain", {"K": k}) for k in ("K1", "K2", "K4")),
    ("dynamics", {"corpus": "new", "replay": True}),
    ("dynamics", {"replay": True, "from_weights": True}),
    ("perplexity", {"spread": "variance"}),
]


def built(name, options):
    return laws.get(name, **options) if options else laws.example(name)


def anywhere(law, rng, rows=4):
    """Random parameters, and columns (rows,) of any law."""
    theta = {p.name: rng.uniform(0.1, 1) if p.linear else rng.uniform(*p.start) for p in law.params}
    theta |= {name: -abs(value) for name, value in theta.items() if law[name].high == 0}
    x = {name: rng.uniform(0.05, 1, rows) for name in law.columns}
    x |= {name: 10 ** rng.uniform(8, 10.5, rows) for name in COUNTS if name in x}
    if "ratio" in x:
        x["ratio"][0] = 0.0  # where powers have a case of their own
    return theta | dict.fromkeys(law.fixed, 0.1), x


def called(law, theta, x):
    """JavaScript that gives the loss of every row."""
    p = [theta[name] for name in javascript.parameters(law)]
    rows = np.stack([x[name] for name in law.columns], axis=1).tolist()
    return f"((law) => {json.dumps(rows)}.map((x) => law({json.dumps(p)}, x)))({javascript.of_law(law)})"


@laws.law([Param("E", linear=True), Param("k", linear=True), Param("a", 0.1, 3, (0.2, 1))], ["params", "tokens"])
def odd(p, x, xp):
    """A user's law with much that no built-in law has."""
    size, tokens = x.params / 1e9, x.tokens / 1e9
    bent = xp.where((size > 1) & (tokens < 20), xp.tanh(size), xp.clip(size**p.a, 0.1, 5.0))
    return p.E + p.k * xp.log1p(xp.abs(bent - tokens)) / xp.sqrt(tokens) + xp.maximum(-xp.expm1(-size), 0.2) ** 3


def test_every_law_is_its_python_to_the_last_digits(node):
    rng, asked, wanted = np.random.default_rng(0), [], []
    dcpt = factored(laws.get("dcpt"), "schedule", ("wsd", "cosine"))
    for law in [*(built(*one) for one in OPTIONS), at_level(dcpt, "cosine"), odd, laws.get("dcpt").at(ratio=0.3)]:
        for _ in range(3):
            theta, x = anywhere(law, rng)
            asked.append(called(law, theta, x))
            wanted.append(np.broadcast_to(law.predict(theta, x), 4))
    found = np.array(node(f"console.log(JSON.stringify([{','.join(asked)}]))"), float)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, np.array(wanted), rtol=1e-9)


def refused(function):
    return pytest.raises(javascript.NotWritten, match=function)


def test_what_has_no_equal_in_javascript_is_refused_by_name():
    def special(p, x):
        import jax

        return p[0] + jax.scipy.special.gammaln(x[0])

    def stacked(p, x):
        import jax.numpy as jnp

        return jnp.stack([p[0], x[0]]).sum()

    with refused("the operation lgamma"):
        javascript.of_function(special, 1, 1)
    with refused("gives an array"):
        javascript.of_function(stacked, 1, 1)
    with refused("cannot be traced"):
        javascript.of_function(lambda p, x: float(x[0]), 1, 1)


def test_constants_keep_all_their_digits():
    assert "0.1" in (source := javascript.of_function(lambda p, x: 0.1 * p[0] - 1e-17 * x[0], 1, 1))
    assert "1e-17" in source and "0.10000000149" not in source
