"""Real tables with published answers (see the README beside each); skipped where the data is absent."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cptlaw import fitting, laws, runs
from cptlaw.fitting import estimate
from cptlaw.fitting.objective import Objective
from cptlaw.fitting.rows import collect

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")


def optimum(table, objective, delta=1e-3, law="chinchilla", starts=16):
    made = laws.for_table(law, table)
    rows = collect(table, made, tuple(table["eval"].unique()))
    problem = estimate.pose(rows, made, Objective(objective, delta), {})
    best = estimate.optimise(problem, rows.fitted, starts)
    return best, problem.reported(best.theta)


def r2(observed, predicted):
    return 1 - np.sum((observed - predicted) ** 2) / np.sum((observed - np.mean(observed)) ** 2)


@pytest.fixture(scope="module")
def chinchilla_points():
    return runs.read(DATA / "llm_kyotakano" / "df.csv", {"params": "N", "tokens": "D"})


def test_asymmetric_objective_beats_the_published_grid(chinchilla_points):
    best, theta = optimum(chinchilla_points, "asymmetric")
    assert best.value / len(chinchilla_points) <= 0.0227818835
    found = [
        theta["E"],
        theta["A"] * 1e9 ** theta["alpha"],
        theta["B"] * 1e9 ** theta["beta"],
        theta["alpha"],
        theta["beta"],
    ]
    np.testing.assert_allclose(found, [1.7002, 184.69, 1633.5, 0.28901, 0.35579], rtol=1e-3)


def test_huber_gives_the_usual_irreducible_loss(chinchilla_points):
    assert optimum(chinchilla_points, "huber")[1]["E"] == pytest.approx(1.82, abs=0.05)
    assert optimum(chinchilla_points, "huber_scale")[1]["E"] == pytest.approx(1.82, abs=0.05)


@pytest.mark.parametrize(
    ("file", "delta", "objective"),
    [
        ("hot", 1e-3, 0.0019816128),
        ("hot", 1e-4, 0.0002075052),
        ("cool_end", 1e-4, 0.0002047791),
        ("lr_ablation_hot", 1e-4, 0.0002058421),
        ("slim_chinchilla", 1e-4, 1.30364e-5),
    ],
)
def test_gemstones_objective_is_the_best_known(file, delta, objective):
    path = DATA / "gemstones" / f"wandb_df_for_fitting_{file}.csv"
    best, _ = optimum(runs.read(path, {"params": "params_active_precise", "loss": "final_loss"}), "huber", delta)
    digit = 10 ** np.floor(np.log10(objective) - 8)  # the last one printed
    assert best.value <= objective + digit and best.agree > 0.9


def test_datablations_published_parameters_give_the_published_r2():
    table = pd.read_csv(DATA / "datablations" / "c4_runs.csv")
    table = table[(table["in_fit_cell25"] == 1) & ~table["tag"].fillna("").str.contains("dedup")]
    alpha = 0.3526596
    theta = {"E": np.exp(0.6254804), "A": np.exp(6.255414) / 1e9**alpha, "B": np.exp(7.3049974) / 1e9**alpha}
    theta |= {"alpha": alpha, "beta": alpha, "R_D": 15.387756, "R_N": 5.309743}
    x = {name: table[name].to_numpy() for name in ("params", "tokens", "unique_tokens")}
    observed = table["val_loss"].to_numpy()
    found = r2(observed, laws.get("repetition", tied=True).predict(theta, x))
    assert len(table) == 182 and found == pytest.approx(0.7722046084968408, abs=1e-12)
    assert r2(observed, laws.get("chinchilla").predict(theta, x)) == pytest.approx(0.4451684378759986, abs=1e-12)


def test_scalebench_data_constrained_refit():
    def read(split):
        path = DATA / "scalebench" / f"data_constrained_scaling_law__{split}.csv"
        return runs.read(path)

    fit = fitting.fit(read("train"), "repetition", bootstrap=0, starts=16, hold_out=np.zeros(161, bool))
    test = read("test")
    columns = {name: test[name].to_numpy() for name in ("params", "tokens", "unique_tokens")}
    assert r2(test["loss"].to_numpy(), fit.predict(**columns, target="law").point) >= 0.95


def test_scalebench_domain_mixture():
    def read(split, corpus):
        table = pd.read_csv(DATA / "scalebench" / f"domain_mixture_scaling_law__{split}.csv")
        shares = table.filter(like="proportion_")
        shares = shares.div(shares.sum(axis=1), axis=0).rename(columns=lambda c: "w_" + c.removeprefix("proportion_"))
        return shares.assign(
            run=table.index.astype(str), eval=corpus, loss=table[f"loss_domain_{corpus}"], group=table["group"]
        )

    scores = []
    for corpus in "12345":
        train, test = read("train", corpus), read("test", corpus)
        predicted = pd.Series(index=test.index, dtype=float)
        for group, rows in train.groupby("group"):
            held = np.zeros(len(rows), bool)
            fit = fitting.fit(rows, "mixing", objective="squared_loss", bootstrap=0, starts=16, hold_out=held)
            asked = test[test["group"] == group]
            shares = {name: asked[f"w_{name}"].to_numpy() for name in runs.corpora(asked)}
            predicted[asked.index] = fit.predict(shares=shares, target="law").point
        scores.append(r2(test["loss"].to_numpy(), predicted.to_numpy()))
    assert np.mean(scores) >= 0.978


@pytest.mark.slow
def test_fine_tuning_curves_with_a_users_rectified_law():
    @laws.law(
        [
            laws.Param("E", low=0, linear=True),
            laws.Param("B", low=0, linear=True),
            laws.Param("ln_D0", 0, 20, (2.0, 12.0)),
            laws.Param("beta", 1e-3, 3, (0.1, 1.0)),
        ],
        ["tokens"],
        equation="E + B / (1 + (D/D0)^beta)",
    )
    def rectified(p, x, xp):
        return p.E + p.B / (1 + xp.exp(p.beta * (xp.log(x.tokens) - p.ln_D0)))

    observed, predicted = [], []
    for file in ("flan", "gigaword", "wikiword"):
        curves = pd.read_csv(DATA / "sld_sft" / f"{file}.csv").set_index("model")
        sizes = np.array([float(c) for c in curves.columns[1:]])
        for model, losses in curves.iloc[:, 1:].iterrows():
            table = pd.DataFrame({"run": model, "tokens": sizes * 1000, "eval": file, "loss": losses.to_numpy(float)})
            fit = fitting.fit(table, rectified, bootstrap=0, starts=16, hold_out="tokens == 819200000")
            observed.append(losses.iloc[-1])
            predicted.append(float(fit.predict(tokens=819200e3, target="law").point))
    assert r2(np.array(observed), np.array(predicted)) >= 0.994


def test_cmr_extrapolates_the_ratio_and_avoids_the_log_slide():
    ratios = np.array([1, 3 / 4, 1 / 2, 1 / 3, 1 / 4])
    shares = pd.DataFrame({"w_code": ratios, "w_web": 1 - ratios})
    published = {
        460e6: ([1.4628, 1.4844, 1.5122, 1.5387, 1.5561], (-0.426, 0.178, 1.889)),
        940e6: ([1.3723, 1.3910, 1.4155, 1.4385, 1.4538], (-0.371, 0.179, 1.743)),
        1.6e9: ([1.3242, 1.3416, 1.3643, 1.3854, 1.3994], (-0.312, 0.198, 1.637)),
        3.1e9: ([1.2585, 1.2750, 1.2965, 1.3170, 1.3305], (-0.357, 0.163, 1.615)),
    }
    for losses, (a, s, b) in published.values():
        table = shares.assign(run=list("abcde"), eval="code", loss=losses)
        fit = fitting.fit(table, "cmr", objective="squared_loss", bootstrap=0, hold_out="w_code == 0.25")
        np.testing.assert_allclose([fit.params[k] for k in "asb"], [a, s, b], atol=1e-3)
        assert abs(fit.predict(ratio=0.25, target="law").point / losses[-1] - 1) < 1e-4  # of 0.003 to 0.008 %


@pytest.mark.slow
def test_mixing_law_ranks_regmix_at_1b_better_than_lightgbm():
    import importlib.util

    spec = importlib.util.spec_from_file_location("regmix", Path(__file__).parents[2] / "benchmarks" / "regmix.py")
    regmix = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(regmix)
    found = regmix.scores("mixing", ["pile_cc", "wikipedia_en"])
    assert found.loc["pile_cc", "test_1B"] > 96.51 and (found > 95).all().all()
