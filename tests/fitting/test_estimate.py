"""A table and a law become a fit: right parameters, held-out rows left alone, clear refusals."""

import jax
import numpy as np
import pandas as pd
import pytest
from known_laws import ASKED, CHINCHILLA, TRUTH

from cptlaw import fitting, laws
from cptlaw.errors import UserError


def test_known_truth_is_predicted_within_the_interval(code, dcpt_table):
    for ratio in (0.2, 0.5, 0.9):
        found = code.predict(**ASKED, ratio=ratio)
        truth = laws.get("dcpt").predict(TRUTH, {**ASKED, "ratio": np.array(ratio)})
        width = found.high - found.low
        assert found.low - width < truth < found.high + width and 0 < width < 0.1
    assert code.scores["fit"]["r2"] > 0.999
    held = code.scores["held_out"]
    assert held["n"] == 30 and held["beaten_by"] == [] and "params >= 3e+09" in held["what"]
    assert held["law"]["mean_log"] < 0.01 < held["nearest_size"]["mean_log"]


def test_joint_fits_share_what_they_are_told_to(dcpt_table):
    fit = fitting.fit(
        dcpt_table, "dcpt:constrained=false", ["code", "web"], shared=["alpha", "A"], bootstrap=10, starts=8
    )
    assert "alpha" in fit.params and "beta[web]" in fit.params and "alpha[web]" not in fit.params
    one = fit.single("web")
    joint, alone = (f.predict(**ASKED, ratio=0.5, **of, target="law") for f, of in ((fit, {"eval": "web"}), (one, {})))
    assert joint.point == alone.point and (joint.samples == alone.samples).all()
    with pytest.raises(UserError, match="needs eval="):
        fit.predict(**ASKED, ratio=0.5)


def test_a_new_domain_is_predicted_from_its_measured_learnability():
    law, rng = laws.get("cross_domain"), np.random.default_rng(0)
    theta = TRUTH | {"F": 0.9, "mu": 0.8, "w2": 0.6}
    rows = []
    for name in ("law", "music", "chemistry", "medical", "code"):
        k1, k2 = rng.uniform(1.5, 3), rng.uniform(0.2, 1.5)
        for size in (0.1e9, 0.3e9, 1e9, 3e9):
            for ratio in (0.1, 0.3, 0.6, 1.0):
                for tokens in (1e9, 4e9, 16e9):
                    rows.append((f"{name}-{size:g}-{ratio}", size, tokens, name, k1, k2, ratio))
    table = pd.DataFrame(rows, columns=["run", "params", "tokens", "eval", "k1", "k2", "ratio"])
    exact = law.predict(theta, {name: table[name].to_numpy() for name in law.columns})
    table["loss"] = exact * np.exp(3e-4 * rng.normal(size=len(table)))
    corpora = list(table["eval"].unique())
    fit = fitting.fit(table, "cross_domain", corpora, shared=["all"], bootstrap=0, starts=16, hold_out="eval == 'code'")
    held = fit.scores["held_out"]
    assert held["n"] == 48 and held["law"]["mean_log"] < 2e-3
    asked = {"params": 1e9, "tokens": 4e9, "ratio": 0.5, "k1": 2.0, "k2": 0.7}
    assert fit.predict(**asked, target="law").point == pytest.approx(
        law.predict(theta, {k: np.array(v) for k, v in asked.items()}), rel=5e-3
    )


def test_held_out_rows_are_not_fitted(chinchilla_table):
    poisoned = chinchilla_table.assign(loss=chinchilla_table["loss"].where(chinchilla_table["params"] < 2e9, 9.0))
    fit = fitting.fit(poisoned, "chinchilla", bootstrap=0, starts=8, hold_out="params > 2e9")
    mask = (poisoned["params"] > 2e9).to_numpy()
    assert fit.params == fitting.fit(poisoned, "chinchilla", bootstrap=0, starts=8, hold_out=mask).params
    assert fit.n_rows == 24 and fit.params["E"] == pytest.approx(CHINCHILLA["E"], rel=0.1)
    assert fit.scores["held_out"]["law"]["mean_log"] > 1 and "nearest_size" in fit.scores["held_out"]["beaten_by"]
    assert any("does not beat" in w for w in fit.warnings)


def test_fixed_parameters_stay(chinchilla_table):
    fit = fitting.fit(chinchilla_table, "chinchilla", bootstrap=5, starts=8, fixed={"alpha": 0.35})
    assert fit.params["alpha"] == 0.35 and set(fit.samples["alpha"]) == {0.35}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eval": "law"}, "no rows with eval law; the table evaluates code, web"),
        ({"eval": None}, "choose one"),
        ({"law": "perplexity"}, "reads 'ppl_mean'"),
        ({"hold_out": "parms > 1"}, "columns are run"),
        ({"hold_out": "params > 0"}, "takes every row"),
        ({"hold_out": np.ones(3, bool)}, "240 booleans"),
        ({"fixed": {"delta": 1.0}}, "no delta to fix"),
        ({"objective": "hubris"}, "huber_scale"),
        ({"delta": -1.0}, "must be positive"),
        ({"resample": "jackknife"}, "parametric"),
        ({"starts": np.ones((2, 3))}, "starts must be"),
        ({"hold_out": "params > 1.5e8 or tokens > 1e9"}, "5 rows are too few"),
    ],
)
def test_bad_requests_are_refused_in_words(dcpt_table, options, words):
    with pytest.raises(UserError, match=words):
        fitting.fit(dcpt_table, **({"law": "dcpt", "eval": "code", "bootstrap": 2, "starts": 4} | options))


def test_fitting_leaves_float32_programs_alone(chinchilla_table):
    fitting.fit(chinchilla_table, "chinchilla", bootstrap=0, starts=4)
    assert jax.numpy.ones(3).dtype == np.float32


def test_the_order_of_columns_and_rows_never_changes_a_fit(mixes_table):
    rng = np.random.default_rng(0)
    table = mixes_table.assign(w_dead=0.0, params=1e8, tokens=1e9)
    for law in ("mixing", "additive", "joint_mixture"):
        fits = []
        for _ in range(2):
            shuffled = table[rng.permutation(table.columns)]
            fits.append(fitting.fit(shuffled, law, bootstrap=0, starts=4))
        one, other = fits
        assert one.params == other.params and one.law is other.law and one.digest == other.digest
        asked = {f"w_{name}": share for name, share in {"web": 0.2, "code": 0.3, "math": 0.5, "dead": 0.0}.items()}
        extra = {} if law == "mixing" else {"params": 1e8, "tokens": 1e9}
        assert one.predict(**asked, **extra).point == other.predict(**asked, **extra).point


def test_published_coefficients_are_evaluated_when_all_are_fixed(dcpt_table):
    fit = fitting.fit(dcpt_table, "dcpt", "code", fixed=TRUTH, bootstrap=1000)
    assert {k: v for k, v in fit.params.items() if k != "D_min"} == TRUTH
    assert fit.scores["fit"]["mean_log"] < 2e-3 and fit.scores["held_out"]["n"] == 30
    assert all(len(values) == 0 for values in fit.samples.values()) and fit.codes == {}
    truth = laws.get("dcpt").predict(TRUTH, {**ASKED, "ratio": np.array(0.5)})
    assert fit.predict(target="law", **ASKED, ratio=0.5).point == pytest.approx(truth)


def test_a_fixed_parameter_of_a_constraint_is_held_as_given(dcpt_table):
    fit = fitting.fit(dcpt_table, "dcpt", "code", fixed={"C": 0.8}, bootstrap=0, starts=8)
    assert fit.params["C"] == 0.8 and fit.scores["fit"]["mean_log"] < 2e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fixed": {"alpha": -1.0}}, "alpha = -1 cannot be fixed: dcpt has it from 0.001 to 5"),
        ({"fixed": {"E": np.nan}}, "E = nan cannot be fixed"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"bootstrap": -1}, "must be 0 or more"),
        ({"starts": 0}, "--starts 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(dcpt_table, options, words):
    with pytest.raises(UserError, match=words):
        fitting.fit(dcpt_table, **({"law": "dcpt", "eval": "code", "bootstrap": 2, "starts": 4} | options))
