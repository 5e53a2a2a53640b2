"""Every law against its published vectors, and the promises all laws share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cptlaw import laws
from cptlaw.laws import Law, LawError, Param, dcpt
from cptlaw.schedules import dynamics

DCPT = {
    "E": 1.2,
    "A": 0.6,
    "alpha": 0.3,
    "B": 0.08,
    "beta": 0.4,
    "eta": 1.5,
    "gamma": 0.35,
    "eps": 0.1,
    "D_min": 0.1311,
}
COUNTS = ("params", "tokens", "unique_tokens", "pretrain_tokens")


def columns(law, rng, rows=7):
    """Plausible columns of any built-in law, (rows,)."""
    x = {name: rng.uniform(0.05, 1, rows) for name in law.columns}
    shares = [name for name in law.columns if name.startswith("w_")]
    total = sum((x[name] for name in shares), 0.0)
    x |= {name: x[name] / total for name in shares}
    x |= {name: 10 ** rng.uniform(8, 10.5, rows) for name in COUNTS if name in x}
    return x | {name: rng.uniform(2, 20, rows) for name in ("ppl_mean", "ppl_std") if name in x}


def parameters(law, rng):
    theta = {p.name: rng.uniform(0.1, 1) if p.linear else rng.uniform(*p.start) for p in law.params}
    theta |= {name: -abs(value) for name, value in theta.items() if law[name].high == 0}
    return theta | dict.fromkeys(law.fixed, 0.1)


def test_dcpt_reference_vectors():
    law = laws.get("dcpt")
    theta = law.expanded(DCPT | {"C": 0.3})
    assert theta["C"] == pytest.approx(1.178925875, abs=1e-9)
    x = {
        "params": np.array([1.8, 1.8, 1.8, 0.5, 4]) * 1e9,
        "tokens": np.array([10, 10, 10, 0.131072, 26.2144]) * 1e9,
        "ratio": np.array([0, 0.5, 1, 0.2, 0.9]),
    }
    np.testing.assert_allclose(law.predict(theta, x), [4.342288, 3.123984, 2.875098, 3.751593, 2.793273], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.tuples(*(st.floats(0.05, 2) for _ in range(4))), st.floats(1.01, 4), st.floats(0.01, 2), st.floats(1e-3, 1))
def test_the_constraint_makes_loss_fall_with_ratio(values, eta, gamma, eps):
    B, beta, A, excess = values
    law = laws.get("dcpt")
    theta = law.expanded(
        {
            "E": 1,
            "A": A,
            "alpha": 0.3,
            "B": B,
            "beta": beta,
            "eta": eta,
            "gamma": gamma,
            "eps": eps,
            "C": excess,
            "D_min": 0.1,
        }
    )
    ratio = np.linspace(0, 1, 101)
    for tokens in (0.1e9, 1e9, 100e9):
        loss = law.predict(theta, {"params": 1e9, "tokens": tokens, "ratio": ratio})
        assert (np.diff(loss) < 0).all()


def test_the_bound_of_the_constraint_is_tight():
    theta = DCPT | {"C": dcpt.lower_bound(DCPT) * 0.98}
    loss = laws.get("dcpt").predict(theta, {"params": 1e9, "tokens": 0.1311e9, "ratio": np.array([0.999, 1.0])})
    assert loss[1] > loss[0]


def test_the_gradient_is_finite_at_ratio_zero():
    law = laws.get("dcpt")
    with jax.enable_x64():
        x = {"params": 1e9, "tokens": 1e9, "ratio": jnp.zeros(2)}
        gradient = jax.grad(lambda p: law.predict(p, x).sum())(
            {k: jnp.asarray(v) for k, v in (DCPT | {"C": 1.2}).items()}
        )
    gradient = {name: float(value) for name, value in gradient.items()}
    assert np.isfinite(list(gradient.values())).all() and gradient["eta"] == 0


def test_repetition_reference_vectors():
    alpha = 0.3526596
    theta = {"E": np.exp(0.6254804), "A": np.exp(6.255414) / 1e9**alpha, "B": np.exp(7.3049974) / 1e9**alpha}
    theta |= {"alpha": alpha, "R_D": 15.387756, "R_N": 5.309743}
    x = {"params": np.array([6.34e9, 8.67e9]), "tokens": np.array([242e9, 178e9]), "unique_tokens": np.full(2, 25e9)}
    np.testing.assert_allclose(
        laws.get("repetition", tied=True).predict(theta, x), [2.2256440889984477, 2.2269634075087867], rtol=1e-7
    )


def test_dynamics_reference_vectors():
    # Published constants of the 106M model, and its schedules.
    old = {"L0": 3.057, "A": 0.490, "alpha": 0.497, "B": 0.366, "E": 28, "beta": 0.189, "C1": 0.299, "C2": 0.298}
    new = {"L0": 3.024, "A": 0.412, "alpha": 0.677, "B": -0.666, "E": 5662, "beta": 0.146, "C1": 0.278, "C2": 0.324}

    def losses(s1_pt, s2_pt, s1, s2):
        x = {"lr_sum_pretrain": s1_pt, "lr_anneal_pretrain": s2_pt, "lr_sum": s1, "lr_anneal": s2}
        return [laws.get("dynamics", corpus=c).predict(p, x) for c, p in (("old", old), ("new", new))]

    constant = dynamics(np.full(20_000, 2e-4))
    assert constant[0][-1] == pytest.approx(4.0) and constant[1][-1] == 0
    np.testing.assert_allclose(losses(4.0, 0.0, 0.0, 0.0), [3.3030, 3.1852], atol=1e-4)
    np.testing.assert_allclose(losses(4.0, 0.0, 2.0, 0.0), [3.4537, 2.6509], atol=1e-4)
    decayed = np.concatenate([np.full(16_000, 2e-4), np.linspace(2e-4, 0, 4_000)])
    s1, s2 = (a[-1] for a in dynamics(decayed))
    assert s1 == pytest.approx(3.6, abs=1e-3) and s2 == pytest.approx(0.151, abs=1e-3)
    warm = np.concatenate([np.linspace(0, 1, 500), np.linspace(1, 0, 9_500)])
    for peak, expected in ((2e-5, (3.350, 2.751)), (1e-4, (3.405, 2.687)), (2e-4, (3.420, 2.658))):
        c1, c2 = (a[-1] for a in dynamics(peak * warm, before=0.0))
        np.testing.assert_allclose(losses(s1, s2, c1, c2), expected, atol=2e-3)


@pytest.mark.parametrize("name", laws.names())
def test_numpy_and_jax_agree_and_linear_parameters_are_linear(name):
    law, rng = laws.example(name), np.random.default_rng(0)
    x, free = columns(law, rng), parameters(law, rng)
    theta = law.expanded(free)
    loss = law.predict(theta, x)
    assert loss.dtype == np.float64 and np.isfinite(loss).all()
    with jax.enable_x64():
        traced = jax.jit(law.predict)(
            {k: jnp.asarray(v) for k, v in theta.items()}, {k: jnp.asarray(v) for k, v in x.items()}
        )
    np.testing.assert_allclose(np.asarray(traced), loss, rtol=1e-12)
    stacked = law.predict({k: np.full((3, 1), v) for k, v in theta.items()}, x)
    np.testing.assert_allclose(stacked, np.broadcast_to(loss, (3, 7)), rtol=1e-12)
    for p in law.params:
        if p.linear:
            low, high = (law.predict(law.expanded(free | {p.name: free[p.name] + d}), x) for d in (-0.05, 0.05))
            np.testing.assert_allclose(low + high, 2 * loss, rtol=1e-10)


def test_a_law_is_built_in_by_its_decorator_alone(monkeypatch):
    monkeypatch.setattr(laws.BUILDERS, "_entries", dict(laws.BUILDERS))

    @laws.builder
    def flat(half: bool = False) -> Law:
        return Law("flat", "Flat", "E", "", (Param("E", low=0, linear=True),), ("params",), lambda p, x, xp: p.E)

    assert "flat" in laws.names() and laws.options_of("flat") == {"half": False}
    assert laws.parse("flat:half=true").options == {"half": True}
    with pytest.raises(LawError, match="there is a law flat already"):
        laws.builder(flat)
    laws._get.cache_clear()


def test_the_same_law_is_the_same_object():
    assert laws.get("dcpt") is laws.get("dcpt") and laws.get("dcpt") is not laws.get("dcpt", constrained=False)
    assert laws.parse("mixing:corpora=web,code") is laws.get("mixing", corpora=["web", "code"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dcp", "did you mean 'dcpt'"),
        ("dcpt:constrained=no", "constrained=no is neither true nor false"),
        ("dcpt:constrained=0", "constrained=0.0 is neither true nor false"),
        ("repetition:tied=flase", "tied=flase is neither"),
        ("dcpt:sign=1", "no option 'sign'.*constrained"),
        ("dcpt:sign", "option=value"),
        ("mixing", "two or more corpora"),
        ("cross_domain:K=K9", "K1, K2, K3, K4"),
        ("absent.py:law", "no such file"),
    ],
)
def test_what_is_not_a_law_is_explained(text, words):
    with pytest.raises(LawError, match=words):
        laws.parse(text)


def test_bad_parameters_are_refused():
    for params in ([Param("a"), Param("a")], [Param("a", low=1, high=0)], [Param("a", low=0, high=1, start=(0.5, 2))]):
        with pytest.raises(LawError):
            Law("bad", "", "", "", tuple(params), ("params",), lambda p, x, xp: p.a)


def test_joint_parameters_are_per_corpus_unless_shared():
    base = laws.get("chinchilla")
    law = laws.joint(base, ["web", "code"], ["alpha", "beta"])
    assert law.names == ("E[web]", "E[code]", "A[web]", "A[code]", "alpha", "B[web]", "B[code]", "beta")
    theta = {
        "E[web]": 1,
        "E[code]": 2,
        "A[web]": 0.1,
        "A[code]": 0.2,
        "alpha": 0.3,
        "B[web]": 0.4,
        "B[code]": 0.5,
        "beta": 0.6,
    }
    x = {"params": np.array([1e9, 2e9]), "tokens": np.array([3e9, 4e9])}
    for i, name in enumerate(("web", "code")):
        own = {k: theta.get(k, theta.get(f"{k}[{name}]")) for k in base.names}
        np.testing.assert_allclose(law.predict(theta, x | {"corpus": np.full(2, i)}), base.predict(own, x))
    with pytest.raises(LawError, match="no gamma to share"):
        laws.joint(base, ["web", "code"], ["gamma"])
    with pytest.raises(LawError, match="tied to other parameters"):
        laws.joint(laws.get("dcpt"), ["web", "code"], ["C"])


@pytest.mark.parametrize("source", ["raise SystemExit", "import sys; sys.exit(0)", "def (:", "1 / 0"])
def test_a_law_file_that_cannot_be_run_is_refused(tmp_path, source):
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(LawError, match=r"own.py: cannot be run: \w+"):
        laws.load(f"{tmp_path / 'own.py'}:law")
