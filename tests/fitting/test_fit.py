"""The fitter: right optimum, honest codes, saved fits, clear refusals."""

import json
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.optimize

from cptlaw import fitting, laws
from cptlaw.errors import UserError
from cptlaw.fitting import bootstrap, estimate, intervals, sensitivity
from cptlaw.fitting.objective import NAMES, Objective
from cptlaw.fitting.rows import collect

TRUTH = {"E": 1.4, "A": 0.45, "alpha": 0.35, "B": 0.12, "beta": 0.4, "eta": 1.4, "C": 0.8, "gamma": 0.5, "eps": 0.12}
CHINCHILLA = {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}  # as in conftest.py
ASKED = {"params": 6e9, "tokens": 20e9}


@pytest.fixture(scope="module")
def code(dcpt_table):
    return fitting.fit(dcpt_table, "dcpt", "code", bootstrap=40, starts=16)


@pytest.fixture(scope="module")
def web(chinchilla_table):
    return fitting.fit(chinchilla_table, "chinchilla", bootstrap=60, starts=16)


def pose(table, law, objective):
    made = laws.get(law)
    rows = collect(table, made, tuple(table["eval"].unique()))
    return estimate.pose(rows, made, objective, {}), rows


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


@pytest.mark.parametrize("objective", list(NAMES))
def test_every_objective_reaches_what_scipy_cannot_better(chinchilla_table, objective):
    problem, rows = pose(chinchilla_table, "chinchilla", Objective(objective, 1e-3))
    best = estimate.optimise(problem, rows.fitted, 16)
    with jax.enable_x64():

        def value(theta):
            predicted = problem.law.predict(dict(zip(problem.free, theta)), problem.x)
            residual = np.log(predicted / problem.y) if problem.objective.in_log else predicted - problem.y
            return float(problem.objective.terms(residual, np.ones(30), problem.objective.stages()[-1]).value.sum())

        assert value(best.theta) == pytest.approx(best.value, rel=1e-9)
        other = scipy.optimize.minimize(
            value, best.theta, method="Nelder-Mead", options={"maxiter": 300, "xatol": 1e-10}
        )
    assert other.fun >= best.value - 1e-7 * abs(best.value)
    assert best.agree > 0.9


def test_least_squares_equals_scipy_trf(dcpt_table):
    problem, rows = pose(dcpt_table[dcpt_table["eval"] == "code"], "dcpt_l6", Objective("squared"))
    best = estimate.optimise(problem, rows.fitted, 16)
    low, high = problem.box

    def residual(theta):
        return np.log(problem.law.predict(dict(zip(problem.free, theta)), problem.x)) - np.log(problem.y)

    start = np.clip(best.theta * 1.05, low + 1e-9, high)
    other = scipy.optimize.least_squares(residual, start, bounds=(low, high), x_scale="jac", xtol=1e-15, ftol=1e-15)
    assert best.value <= other.cost * (1 + 1e-9)


@pytest.mark.parametrize("name", ["dcpt", *(n for n in laws.names() if n.startswith("dcpt_l"))])
def test_every_form_recovers_its_own_truth(name, dcpt_table):
    law = laws.get(name)
    table = dcpt_table[dcpt_table["eval"] == "code"].reset_index(drop=True)
    theta = TRUTH | {"b": 1.8, "c": 2.5, "sigma": 0.4, "D_min": 0.5}
    if name == "dcpt_l5b":
        theta["sigma"] = 2.0
    x = {
        "params": table["params"].to_numpy(),
        "tokens": table["tokens"].to_numpy(),
        "ratio": table["w_code"].to_numpy(),
    }
    exact = law.predict(theta, x)
    problem, rows = pose(table.assign(loss=exact), name, Objective())
    best = estimate.optimise(problem, rows.fitted, 16)
    far = {"params": 8e9, "tokens": 40e9, "ratio": np.array([0.05, 0.5, 1.0])}
    np.testing.assert_allclose(law.predict(problem.reported(best.theta), far), law.predict(theta, far), rtol=2e-4)


def test_joint_fits_share_what_they_are_told_to(dcpt_table):
    fit = fitting.fit(
        dcpt_table, "dcpt:constrained=false", ["code", "web"], shared=["alpha", "A"], bootstrap=10, starts=8
    )
    assert "alpha" in fit.params and "beta[web]" in fit.params and "alpha[web]" not in fit.params
    one = fit.single("web")
    for target in ("law", "run"):
        joint, alone = (
            f.predict(**ASKED, ratio=0.5, target=target, **of) for f, of in ((fit, {"eval": "web"}), (one, {}))
        )
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


def test_resamples_of_two_corpora_are_paired(dcpt_table):
    rows = [collect(dcpt_table, laws.get("dcpt"), (name,)) for name in ("code", "web")]
    drawn = [bootstrap.draw("runs", 5, r, r.y, seed=3).weights(np.arange(5)) for r in rows]
    for weights, r in zip(drawn, rows):
        assert all(len({*w[r.run == i]}) == 1 for w in weights for i in range(len(r.runs)))
    np.testing.assert_array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("kind", list(bootstrap.KINDS))
def test_every_bootstrap_gives_a_spread(chinchilla_table, kind):
    fit = fitting.fit(chinchilla_table, "chinchilla", bootstrap=20, starts=8, resample=kind)
    found = fit.predict(params=6e9, tokens=60e9, target="law")
    assert found.low < found.high and found.samples.shape == (20,)
    assert sum(fit.codes["resamples"].values()) == 20


def test_held_out_rows_are_not_fitted(chinchilla_table):
    poisoned = chinchilla_table.assign(loss=chinchilla_table["loss"].where(chinchilla_table["params"] < 2e9, 9.0))
    fit = fitting.fit(poisoned, "chinchilla", bootstrap=0, starts=8, hold_out="params > 2e9")
    mask = (poisoned["params"] > 2e9).to_numpy()
    assert fit.params == fitting.fit(poisoned, "chinchilla", bootstrap=0, starts=8, hold_out=mask).params
    assert fit.n_rows == 24 and fit.params["E"] == pytest.approx(CHINCHILLA["E"], rel=0.1)
    assert fit.scores["held_out"]["law"]["mean_log"] > 1 and "nearest_size" in fit.scores["held_out"]["beaten_by"]
    assert any("does not beat" in w for w in fit.warnings)


def test_sensitivity_equals_refitting(chinchilla_table):
    problem, rows = pose(chinchilla_table, "chinchilla", Objective("huber", 1e-3))
    best = estimate.optimise(problem, rows.fitted, 16)
    by_weight, by_loss = sensitivity.data_derivatives(problem, np.ones(30), best.theta)
    # The optimum is known to about the square root of the rounding error, so the steps cannot be tiny.
    for row in (3, 17):
        for derivative, change, step in ((by_weight, "weight", 1e-2), (by_loss, "loss", 1e-4)):
            ends = []
            for sign in (1, -1):
                weights, y = np.ones((1, 30)), problem.y[None].copy()
                if change == "weight":
                    weights[0, row] += sign * step
                else:
                    y[0, row] *= np.exp(sign * step)
                found = estimate.solve(problem, best.theta[None], weights, y, stages=(1e-3,), tolerance=1e-15)
                ends.append(found.theta[0])
            difference = (ends[0] - ends[1]) / (2 * step)
            scale = np.abs(derivative).max(axis=1)
            np.testing.assert_allclose(derivative[:, row] / scale, difference / scale, atol=2e-3)


def test_bounds_and_flat_directions_are_named(chinchilla_table):
    tied = chinchilla_table.assign(tokens=20 * chinchilla_table["params"])
    truth = {"params": tied["params"].to_numpy(), "tokens": tied["tokens"].to_numpy()}
    tied["loss"] = laws.get("chinchilla").predict(CHINCHILLA | {"beta": 0.35}, truth)
    tied["tokens"] *= np.linspace(1, 1.0001, 30)  # no duplicate rows
    words = "\n".join(fitting.fit(tied, "chinchilla", bootstrap=0, starts=8).warnings)
    assert "ties alpha to beta" in words and "flat direction" in words
    three = chinchilla_table[chinchilla_table["params"] < 0.5e9]
    assert "3 sizes give 3 equations" in "\n".join(fitting.fit(three, "chinchilla", bootstrap=0, starts=8).warnings)
    flat = chinchilla_table.assign(loss=2.0 * np.exp(1e-4 * np.arange(30) % 7 * 1e-3))
    assert "on a bound" in "\n".join(fitting.fit(flat, "chinchilla", bootstrap=0, starts=8).warnings)


def test_dcpt_warns_below_the_inflection_ratio(dcpt_table):
    rising = dcpt_table[dcpt_table["eval"] == "code"].copy()
    low = rising["w_code"] == 0.1
    rising.loc[low, "loss"] = 3 + 0.05 * np.log(rising.loc[low, "tokens"] / 1e9)
    rising.loc[low, ["w_code", "w_web"]] = (0.0, 1.0)
    words = "\n".join(fitting.fit(rising, "dcpt", bootstrap=0, starts=8).warnings)
    assert "loss rises with tokens in 4 runs" in words and "24 rows at ratio 0" in words and "free_sign" in words


def test_a_saved_fit_loads_without_jax_and_predicts_the_same(code, tmp_path):
    code.save(tmp_path / "fit.json")
    program = (
        "import sys, json; from cptlaw.fitting import Fit; "
        f"fit = Fit.load({str(tmp_path / 'fit.json')!r}); "
        "p = fit.predict(params=6e9, tokens=20e9, ratio=[.2, .9], method='bca'); "
        "assert not {'jax', 'tensorflow', 'flax', 'scipy'} & set(sys.modules); "
        "print(json.dumps([*p.point, *p.low, *p.high]))"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    here = code.predict(**ASKED, ratio=[0.2, 0.9], method="bca")
    np.testing.assert_allclose(json.loads(out), [*here.point, *here.low, *here.high], rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text[: len(text) // 2], "truncated"),
        (lambda text: "[]", "not a saved fit"),
        (lambda text: text.replace('"version": 1', '"version": 99'), "version 99"),
        (lambda text: text.replace('"params"', '"parms"'), "incomplete"),
    ],
)
def test_a_bad_fit_file_is_refused(code, tmp_path, change, words):
    code.save(tmp_path / "fit.json")
    (tmp_path / "fit.json").write_text(change((tmp_path / "fit.json").read_text()))
    with pytest.raises(UserError, match=words):
        fitting.Fit.load(tmp_path / "fit.json")


def test_a_users_law_does_everything_a_built_in_does(chinchilla_table, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from cptlaw.laws import Param, law\n"
        "@law([Param('E', low=0, linear=True), Param('A', low=0, linear=True), Param('a', 0, 3, (0.1, 1)),"
        " Param('B', low=0, linear=True)], ['params', 'tokens'])\n"
        "def tied(p, x, xp):\n"
        "    return p.E + p.A * (x.params / 1e9) ** -p.a + p.B * (x.tokens / 1e9) ** -p.a\n"
    )
    fit = fitting.fit(chinchilla_table, f"{path}:tied", bootstrap=20, starts=8)
    assert fit.params["a"] == pytest.approx(0.36, abs=0.02) and fit.interval("a")[0] < fit.interval("a")[1]
    fit.save(tmp_path / "fit.json")
    assert fitting.Fit.load(tmp_path / "fit.json").predict(**ASKED).point == fit.predict(**ASKED).point
    path.write_text(path.read_text().replace("1e9", "1e6"))
    with pytest.raises(UserError, match="has changed"):
        fitting.Fit.load(tmp_path / "fit.json")


def test_fixed_parameters_stay(chinchilla_table):
    fit = fitting.fit(chinchilla_table, "chinchilla", bootstrap=5, starts=8, fixed={"alpha": 0.35})
    assert fit.params["alpha"] == 0.35 and set(fit.samples["alpha"]) == {0.35}


def test_a_runs_influence_is_what_leaving_it_out_changes(chinchilla_table, web, monkeypatch):
    without = fitting.fit(chinchilla_table[chinchilla_table["run"] != "r07"], "chinchilla", bootstrap=0, starts=8)
    at = {"params": 3e9, "tokens": 60e9}
    moved = {name: web.params[name] - web.influence["r07"].get(name, 0.0) for name in web.params}
    exact = float(without.predict(**at, target="law").point)
    assert web.law.predict(moved, {k: np.array(v) for k, v in at.items()}) == pytest.approx(exact, rel=1e-6)
    assert dict(web.moves())["r07"] == pytest.approx(float(web.predict(**at, target="law").point) / exact - 1, abs=1e-6)
    monkeypatch.setattr(sensitivity, "REFITTED", 0)  # large tables: to first order, which here is of the same kind
    rough = fitting.fit(chinchilla_table, "chinchilla", bootstrap=2, starts=8, hold_out=np.zeros(30, bool))
    assert set(rough.influence) == set(web.influence) and rough.influence["r07"]["E"] != 0


def test_any_function_has_an_interval(web):
    found = web.of(lambda p: p["alpha"] / (p["alpha"] + p["beta"]), method="bca")
    assert found.low < found.point < found.high and found.samples.shape == (60,)
    assert web.interval("E", level=0.5)[0] > web.interval("E", level=0.9)[0]
    moves = web.moves()
    assert len(moves) == 30 and abs(moves[0][1]) >= abs(moves[-1][1]) > 0


@pytest.mark.parametrize(("units", "parameters", "df"), [(21, 9, 12), (9, 9, 3), (1000, 5, 995)])
def test_few_runs_expand_the_interval_as_students_t_does(units, parameters, df):
    from scipy.stats import norm, t

    for level in (0.5, 0.8, 0.9):
        reach = norm.ppf((1 + intervals.expanded(level, units, parameters)) / 2)
        assert reach == pytest.approx(t.ppf((1 + level) / 2, df) * np.sqrt(units / (units - 1)), rel=0.01)


def test_a_prediction_says_what_it_is_of_and_where_its_width_comes_from(web):
    def ask(size, tokens=30e9, **options):
        return web.predict(params=size, tokens=tokens, **options)

    run, mean, law = ask(6e9), ask(6e9, target="mean"), ask(6e9, target="law")
    assert (run.target, mean.target, law.target) == ("run", "mean", "law")
    assert mean.high - mean.low < run.high - run.low
    assert sum(run.parts.values()) == pytest.approx(1) and {"law", "size", "tokens", "checkpoint"} <= set(run.parts)
    assert law.parts == {} and law.samples.shape == (60,) and run.samples.shape == (0,)
    assert law.point == web.law.predict(web.params, {"params": np.array(6e9), "tokens": np.array(30e9)})
    widths = [float(np.ptp(np.log([ask(n).low, ask(n).high]))) for n in (3e9, 6e9, 12e9, 24e9)]
    assert widths == sorted(widths) and widths[-1] > 1.5 * widths[0]
    known = ask(3e9, 120e9, run="r29"), ask(3e9, 120e9)
    assert known[0].high - known[0].low <= known[1].high - known[1].low
    far = ask([6e9, 90e9])
    assert np.isfinite(far.low).tolist() == [True, False] and np.isfinite(far.point).all()
    assert any("say nothing 30 times out" in note for note in far.notes) and not run.notes


def test_the_law_alone_is_one_step_away(web):
    alone = web.alone()
    found = alone.predict(params=6e9, tokens=30e9)
    assert found.target == "law" and (found.low, found.high) == tuple(
        getattr(web.predict(params=6e9, tokens=30e9, target="law"), end) for end in ("low", "high")
    )
    with pytest.raises(UserError, match="law alone"):
        alone.predict(params=6e9, tokens=30e9, target="mean")
    with pytest.raises(UserError, match="no run 'r99'"):
        web.predict(params=6e9, tokens=30e9, run="r99")
    with pytest.raises(UserError, match="run, mean, base, law|mean, run, base, law"):
        web.predict(params=6e9, tokens=30e9, target="median")


def test_held_out_scores_hold_law_process_and_rivals_and_how_many_runs(web, code):
    for fit, runs in ((web, 6), (code, 5)):
        held = fit.scores["held_out"]
        assert held["runs"] == runs and held["process"]["mean_log"] < 0.01
        assert held["alike"] == {} or "carry_tokens" in held["alike"]["nearest_size"]


def test_bases_named_by_the_table_are_bases_of_the_process(chinchilla_table):
    named = chinchilla_table.assign(base=[f"seed{i % 2}" for i in range(30)])
    fit = fitting.fit(named, "chinchilla", bootstrap=0, starts=8, hold_out=np.zeros(30, bool))
    assert len(set(fit.process["web"].base)) == 10
    assert len(set(fitting.fit(chinchilla_table, "chinchilla", bootstrap=0, starts=8).process["web"].base)) == 5


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


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"params": 1e9, "tokens": 1e9}, "needs ratio"),
        ({"params": 1e9, "tokens": 1e9, "ratio": 1.2}, "share in"),
        ({"params": 0, "tokens": 1e9, "ratio": 0.2}, "positive count"),
        ({"params": 1e9, "tokens": 1e9, "ratio": 0.2, "size": 3}, "does not read size"),
        ({"params": 1e9, "tokens": 1e9, "ratio": 0.2, "level": 1.5}, "level"),
        ({"params": 1e9, "tokens": 1e9, "ratio": 0.2, "method": "magic"}, "percentile, bca"),
    ],
)
def test_bad_questions_are_refused_in_words(code, question, words):
    with pytest.raises(UserError, match=words):
        code.predict(**question)


def test_fitting_leaves_float32_programs_alone(chinchilla_table):
    fitting.fit(chinchilla_table, "chinchilla", bootstrap=0, starts=4)
    assert jax.numpy.ones(3).dtype == np.float32
