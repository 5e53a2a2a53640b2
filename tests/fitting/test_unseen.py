"""Several domains in one table: pooled, asked about one, and left out in turn."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cptlaw import fitting, laws, runs
from cptlaw.errors import UserError
from cptlaw.fitting import bootstrap, estimate, unseen
from cptlaw.fitting.draws import draw
from cptlaw.fitting.rows import collect

PROBE = (5e4, 2e5)
LAW = laws.get("dcpt", constrained=False)
COMMON = {"E": 1.2, "A": 0.006, "alpha": 0.5, "B": 0.02, "beta": 0.5, "eta": 0.3, "C": 0.4, "gamma": 0.5, "eps": 0.05}


def raw(levels=(0.0, 0.2, 0.5, -0.3), seed=0) -> pd.DataFrame:
    """Domains d0, d1, ... mixed into wiki: one law, whose loss each domain shifts by a level of its own."""
    rng, rows = np.random.default_rng(seed), []
    names = [f"d{i}" for i in range(len(levels))]
    for i, name in enumerate(names):
        for size in (27e3, 99e3, 323e3):
            for share in (0.0, 0.2, 0.5, 0.9) if i == 0 else (0.2, 0.5, 0.9):
                for tokens in (5e4, 2e5, 8e5):
                    shares = {f"w_{n}": share if n == name else 0.0 for n in names}
                    run = {"run": f"{name}-{size:g}-{share}", "params": size, "tokens": tokens, "w_wiki": 1 - share}
                    for corpus, own in (("wiki", 1 - share), *([(name, share)] if share else [])):
                        x = {"params": size, "tokens": tokens, "ratio": own}
                        theta = COMMON | ({"E": COMMON["E"] + levels[i]} if corpus == name else {})
                        loss = float(LAW.predict(theta, x)) + 0.003 * rng.standard_normal()
                        rows.append({**run, **shares, "eval": corpus, "loss": loss})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def pooled():
    return runs.by_domain(raw(), "wiki", PROBE)


@pytest.fixture(scope="module")
def fit(pooled):
    """Of three domains; d3 is not among them."""
    seen = pooled[pooled["mixed_in"] != "d3"].reset_index(drop=True)
    law = "dcpt:constrained=false"
    return fitting.fit(seen, law, "domain", bootstrap=0, starts=8, hold_out=np.zeros(len(seen), bool))


def test_a_table_of_several_domains_becomes_one_of_two_corpora(pooled):
    table = raw()
    assert set(pooled["eval"]) == {"wiki", runs.DOMAIN} and runs.corpora(pooled) == ["wiki", runs.DOMAIN]
    runs.check(pooled)
    of_d1 = pooled[pooled["mixed_in"] == "d1"]
    own = table[table["run"].str.startswith("d1")]
    mixed = of_d1[of_d1["w_domain"] > 0]
    assert sorted(mixed["loss"]) == sorted(own["loss"])
    # The runs without any domain are in every domain's series, under ids of their own.
    alone = of_d1[of_d1["w_domain"] == 0]
    assert len(alone) == 9 and alone["run"].str.endswith(" (d1)").all() and (alone["eval"] == "wiki").all()
    # K is the mixed-in domain's for both corpora: the smallest size, the largest share.
    small = own[(own["params"] == 27e3) & (own["w_d1"] == 0.9) & (own["eval"] == "d1")].set_index("tokens")["loss"]
    assert of_d1["k1"].unique() == pytest.approx([small[5e4]])
    assert of_d1["k2"].unique() == pytest.approx([small[5e4] - small[2e5]])
    assert "k3" not in pooled and "k1" not in runs.by_domain(table, "wiki")


def test_a_table_that_cannot_be_pooled_is_refused():
    table = raw()
    for general, tokens, words in (
        ("web", PROBE, "name the general corpus"),
        ("wiki", (5e4, 3e5), "learnability of d0: no probing run was evaluated at 300000 tokens"),
        ("wiki", (5e4,), "give two or three, rising"),
    ):
        with pytest.raises(runs.TableError, match=words):
            runs.by_domain(table, general, tokens)
    only = table[table["eval"] == "wiki"]
    with pytest.raises(runs.TableError, match="no run mixes one domain"):
        runs.by_domain(only, "wiki")


def test_the_resamples_of_a_law_with_k_are_of_domains(pooled):
    law, several = laws.get("cross_domain"), collect(pooled, laws.get("cross_domain"), ("domain",))
    assert estimate._unit(several, law) == "domains" and estimate._unit(several, LAW) == "runs"
    weights = bootstrap.draw("domains", 20, several, several.y, 0).weights(np.arange(20))
    for name in ("d0", "d1", "d2", "d3"):  # all rows of a domain are drawn together
        assert (np.ptp(weights[:, (several.frame["mixed_in"] == name).to_numpy()], axis=1) == 0).all()
    assert len(np.unique(weights, axis=0)) > 10
    one = collect(pooled[pooled["mixed_in"] == "d0"], law, ("domain",))
    assert estimate._unit(one, law) == "runs"
    with pytest.raises(UserError, match="no two domains"):
        bootstrap.draw("domains", 2, one, one.y, 0)


def test_a_probe_tells_a_new_domain_from_those_fitted(fit, pooled):
    new = pooled[(pooled["mixed_in"] == "d3") & (pooled["eval"] == "domain")]
    probe = new[(new["params"] == 27e3) & (new["w_domain"] == 0.9) & (new["tokens"] <= 2e5)]
    asked = new[new["params"] == 323e3]
    x = {"params": asked["params"], "tokens": asked["tokens"], "ratio": asked["w_domain"]}
    y = asked["loss"].to_numpy()
    blind, told = fit.predict(**x), fit.for_domain("d3", probe).predict(**x)
    assert np.abs(told.point / y - 1).mean() < 0.4 * np.abs(blind.point / y - 1).mean()
    assert ((told.high - told.low) < 0.7 * (blind.high - blind.low)).all()
    # A fitted domain is told by its own rows.
    seen = pooled[(pooled["mixed_in"] == "d1") & (pooled["eval"] == "domain") & (pooled["params"] == 323e3)]
    x = {"params": seen["params"], "tokens": seen["tokens"], "ratio": seen["w_domain"]}
    known = fit.for_domain("d1")
    assert known.eval == "d1"
    np.testing.assert_allclose(known.predict(**x).point, seen["loss"], rtol=0.01)


def test_draws_of_a_new_domain_have_the_spread_of_its_predictive(fit, pooled):
    new = pooled[(pooled["mixed_in"] == "d3") & (pooled["eval"] == "domain") & (pooled["params"] == 27e3)]
    process = fit.for_domain("d3", new.iloc[:2]).process["d3"]
    x = {"params": np.full(3, 323e3), "tokens": np.full(3, 8e5), "ratio": np.array([0.2, 0.5, 0.9])}
    mean, draws = draw(process, 3000, seed=1).at(x)
    found = process.predict(x, "mean")
    np.testing.assert_allclose(mean, found.mean, rtol=1e-9)
    np.testing.assert_allclose(draws.std(axis=0), found.sd * np.sqrt(found.df / (found.df - 2)), rtol=0.15)


def test_a_question_about_a_domain_that_nothing_tells_of_is_refused(fit, pooled, tmp_path):
    law = laws.get("cross_domain")
    cross = replace(
        fit,
        law=law,
        params=COMMON | {"F": 0.1, "mu": 0.5, "w2": 0.1},
        samples={},
        process={},
    )
    with pytest.raises(fitting.FitError, match="no domain 'd9' among those fitted"):
        cross.for_domain("d9")
    with pytest.raises(fitting.FitError, match="needs k2 of d9"):
        cross.for_domain("d9", k1=6.0)
    asked = cross.for_domain("d9", k1=6.0, k2=2.0)
    assert asked.law.columns == ("params", "tokens", "ratio")
    x = {"params": 1e5, "tokens": 1e5, "ratio": 0.5}
    assert asked.predict(**x).point == pytest.approx(law.predict(cross.params, {**x, "k1": 6.0, "k2": 2.0}))
    with pytest.raises(fitting.FitError, match="save the fit of all"):
        asked.save(tmp_path / "one.json")
    probe = pooled[(pooled["mixed_in"] == "d1") & (pooled["params"] == 27e3)]
    with pytest.raises(fitting.FitError, match="d1 is a domain of the fitted table"):
        fit.for_domain("d1", probe)
    plain = replace(fit, residuals=fit.residuals.drop(columns="mixed_in"))
    with pytest.raises(fitting.FitError, match="not of a table of several domains"):
        plain.for_domain("d1")


def test_every_domain_is_left_out_beside_what_one_would_do_without_the_law(pooled):
    found = unseen.leave_out(pooled, tokens=PROBE, coefficients=(), seed=0)
    error = found.summary().set_index("method")["mean_log"]
    # Levels are all that differs here, so one constant tells a new domain, and the pooled law alone cannot.
    assert error["pooled + constant"] < 0.4 * error["pooled"]
    assert error["process on pooled"] < 0.5 * error["pooled"]
    assert error[found.own] < error.drop(found.own).min()
    lines = found.table
    assert set(lines["domain"]) == {"d0", "d1", "d2", "d3"} and (lines["folds"] == 1).all()
    assert (lines["rows"] == 27 - 2).all()
    with pytest.raises(fitting.FitError, match="at least three others"):
        unseen.leave_out(pooled, tokens=PROBE, leave=2)


@pytest.mark.slow
def test_the_law_with_k_is_among_what_is_tried(pooled):
    found = unseen.leave_out(pooled, tokens=PROBE, coefficients=("K1", "K3"), seed=0)
    assert {"K1", "K3", "process on K3", "process on pooled"} < set(found.table["method"])
    covers = found.table[found.table["method"].str.startswith("process")]
    assert covers["cover"].between(0, 1).all() and (covers["width"] > 0).all()
