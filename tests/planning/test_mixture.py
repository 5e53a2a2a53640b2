import dataclasses
import sys

import numpy as np
import pandas as pd
import pytest

from cptlaw import cli, laws
from cptlaw.fitting import Fit
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.mixture import mixture

CORPORA = ("web", "code", "math")
SCORES = {"fit": {"rms_log": 0.001, "mean_log": 0.001}, "held_out": {"n": 0, "what": "nothing"}}
SETTINGS = {"seed": 0, "resample": "runs", "fixed": {}, "shared": []}
LAW = laws.get("mixing", corpora=CORPORA)
GRID = np.array(
    [(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1, 101) if a + b <= 1 + 1e-9]
)


def make(eval, c, k, t, seed):
    rng = np.random.default_rng(seed)
    params = {"c": c, "k": k, **{f"t[{name}]": value for name, value in zip(CORPORA, t)}}
    samples = {name: value * np.exp(rng.normal(0, 0.05, 50)) for name, value in params.items()}
    rows = pd.DataFrame({"run": [f"r{i}" for i in range(200)], "eval": eval, "held_out": False})
    rows = rows.assign(loss=2.0, observed=2.0, predicted=2.0)
    empty = {
        "codes": {},
        "influence": {},
        "scores": SCORES,
        "residuals": rows,
        "settings": SETTINGS,
    }
    ranges = {f"w_{name}": (0.0, 0.6) for name in CORPORA}
    return Fit(law=LAW, eval=eval, params=params, samples=samples, ranges=ranges, n_rows=200, digest="a", **empty)


FITS = [
    make("web", 1.5, 1.0, (-2.0, -0.2), 0),
    make("code", 1.0, 1.2, (0.5, -2.5), 1),
    make("math", 1.2, 1.0, (0.3, -0.3), 2),
]


def losses(mix, draw=None):
    x = {f"w_{name}": mix[..., i] for i, name in enumerate(CORPORA)}
    thetas = [fit.params if draw is None else {n: v[draw] for n, v in fit.samples.items()} for fit in FITS]
    return np.stack([LAW.predict(theta, x) for theta in thetas])


@pytest.mark.parametrize(
    ("question", "allowed", "worst"),
    [
        ({}, lambda w, loss: w[:, 0] > -1, False),
        ({"worst": True}, lambda w, loss: w[:, 0] > -1, True),
        ({"ceilings": {"web": 2.0}}, lambda w, loss: loss[0] <= 2.0, False),
        ({"floors": {"math": 0.2}, "caps": {"code": 0.3}}, lambda w, loss: (w[:, 2] >= 0.2) & (w[:, 1] <= 0.3), False),
        ({"tokens": 1e9, "corpus_tokens": {"code": 1e8}, "max_epochs": 2}, lambda w, loss: w[:, 1] <= 0.2, False),
    ],
    ids=["sum", "worst", "ceiling", "limits", "epochs"],
)
def test_no_mix_of_a_fine_grid_is_better(question, allowed, worst):
    decision = mixture(*FITS, **question)
    mix = np.array(list(decision.point.values()))
    assert mix.sum() == pytest.approx(1, abs=1e-6) and (mix >= 0).all()

    def value(loss):
        return loss.max(axis=0) if worst else loss.sum(axis=0)

    on_grid = losses(GRID)
    assert value(losses(mix)) <= value(on_grid)[allowed(GRID, on_grid)].min() + 1e-4
    for target, most in question.get("ceilings", {}).items():
        assert decision.losses[target]["point"] <= most + 1e-3
    # A resample's own mix is the best of its own laws.
    own = np.array([decision.samples[name][7] for name in CORPORA])
    drawn = losses(GRID, 7)
    assert value(losses(own, 7)) <= value(drawn)[allowed(GRID, drawn)].min() + 3e-4


def test_floors_and_caps_are_kept_exactly():
    decision = mixture(*FITS, floors={"math": 0.2}, caps={"code": 0.3})
    for values in ({name: np.array([share]) for name, share in decision.point.items()}, decision.samples):
        assert (values["math"] >= 0.2 - 1e-9).all() and (values["code"] <= 0.3 + 1e-9).all()


def test_weights_move_the_mix_and_the_front_agrees():
    plain, heavy = mixture(*FITS).point, mixture(*FITS, weights={"web": 5.0, "code": 1.0, "math": 1.0}).point
    assert heavy["web"] > plain["web"] + 0.1


def test_it_says_where_it_extrapolates_and_compares_with_equal_shares():
    decision = mixture(*FITS)
    assert any("of code is outside the fitted shares" in note for note in decision.extrapolation)
    assert decision.options[0].point == pytest.approx(dict.fromkeys(CORPORA, 1 / 3))
    assert decision.regret["mean"] >= 0


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"floors": {"prose": 0.1}}, "floors: there is no prose; there are web, code, math"),
        ({"floors": {"web": 0.7, "code": 0.7}}, "leave no mix"),
        ({"caps": {"web": 0.1, "code": 0.1, "math": 0.1}}, "largest shares to 0.3"),
        ({"floors": {"web": 0.5}, "caps": {"web": 0.2}}, "web: its floor 0.5 is over"),
        ({"ceilings": {"web": 0.1}}, r"meets the ceilings.*gives web \d\.\d+: raise"),
        ({"weights": {"web": -1}}, "weight of 0 or more"),
        ({"corpus_tokens": {"web": 0}, "tokens": 1e9}, "not a positive count of tokens"),
        ({"corpus_tokens": {"web": 1e9}, "tokens": 1e9, "max_epochs": 0}, "max_epochs of web: more than 0"),
        ({"tokens": 20}, "is it in billions"),
        ({"corpus_tokens": {"web": 1e9}}, "give tokens"),
        ({"caps": {"web": 20}}, r"not a share in \[0, 1\]"),
    ],
)
def test_bad_questions_are_refused(question, words):
    with pytest.raises(DecisionError, match=words):
        mixture(*FITS, **question)


def test_a_corpus_is_fitted_once_and_a_mix_that_nothing_settles_is_not_given():
    with pytest.raises(DecisionError, match="2 of them of web: give one of each"):
        mixture(*FITS, FITS[0])
    rng = np.random.default_rng(0)
    vague = [
        dataclasses.replace(fit, samples={n: v * np.exp(rng.normal(0, 2.0, 50)) for n, v in fit.params.items()})
        for fit in FITS
    ]
    decision = mixture(*vague)
    assert not decision.supported and decision.answer.startswith("These runs cannot say which mix")


def test_laws_of_a_run_need_its_tokens():
    law = laws.get("additive", corpora=CORPORA)
    params = {p.name: 0.5 for p in law.params}
    fit = dataclasses.replace(FITS[0], law=law, params=params, samples={n: np.full(9, v) for n, v in params.items()})
    with pytest.raises(DecisionError, match="depend on params"):
        mixture(fit, tokens=1e9)
    assert mixture(fit, params=1e9, tokens=1e9).point["web"] == pytest.approx(
        1 / 3, abs=1e-3
    )  # all alike, concave gains


def test_the_command(tmp_path, capsys):
    for fit in FITS:
        fit.save(tmp_path / f"{fit.eval}.json")
    files = [str(tmp_path / f"{name}.json") for name in CORPORA]
    out = str(tmp_path / "d.json")
    assert cli.main(["plan", "mixture", "--fits", *files, "--floors", "math=0.2", "--out", out]) == 0
    assert Decision.load(out).point["math"] >= 0.2 - 1e-9
    assert cli.main(["plan", "mixture", "--fits", *files, "--floors", "prose=0.2"]) == 2


def test_the_command_takes_a_ceiling_relative_to_the_tables_base_model(tmp_path, capsys):
    for fit in FITS:
        fit.save(tmp_path / f"{fit.eval}.json")
    at_start = {
        "run": "a",
        "params": 2e6,
        "tokens": 0,
        "eval": "web",
        "loss": 1.9,
        "w_web": 1.0,
        "w_code": 0.0,
        "w_math": 0.0,
    }
    pd.DataFrame([at_start, {**at_start, "tokens": 1e6}]).to_csv(tmp_path / "runs.csv", index=False)
    words = [
        "plan",
        "mixture",
        "--fits",
        *(str(tmp_path / f"{name}.json") for name in CORPORA),
        "--tolerances",
        "web=0.05",
    ]
    table = ["--table", str(tmp_path / "runs.csv"), "--params", "2e6", "--out", str(tmp_path / "d.json")]
    assert cli.main([*words, *table]) == 0
    decision = Decision.load(tmp_path / "d.json")
    assert decision.inputs["ceilings"] == {"web": pytest.approx(1.05 * 1.9)}
    assert decision.losses["web"]["point"] <= 1.05 * 1.9 + 1e-3
    assert cli.main(words) == 2 and "--tolerances: needs --table" in capsys.readouterr().err


def test_the_command_fits_a_table_itself(tmp_path, capsys):
    rng = np.random.default_rng(0)
    mixes = pd.DataFrame(rng.dirichlet(np.ones(3), 12), columns=[f"w_{name}" for name in CORPORA])
    tables = []
    for fit in FITS[:2]:
        loss = LAW.predict(fit.params, {c: mixes[c].to_numpy() for c in LAW.columns}) + rng.normal(0, 1e-3, 12)
        tables.append(mixes.assign(run=[f"r{i}" for i in range(12)], eval=fit.eval, loss=loss))
    pd.concat(tables).to_csv(tmp_path / "runs.csv", index=False)
    words = ["plan", "mixture", "--table", str(tmp_path / "runs.csv"), "--law", "mixing", "--bootstrap", "8"]
    assert cli.main([*words, "--fits", "web", "code", "--out", str(tmp_path / "d.json")]) == 0
    found, known = Decision.load(tmp_path / "d.json").point, mixture(*FITS[:2]).point
    assert found == pytest.approx(known, abs=0.05)


def test_a_mix_that_keeps_its_ceiling_surely_stands_beside_the_best_as_predicted():
    plain, sure = (mixture(*FITS, ceilings={"web": 2.0}, confidence=c) for c in (None, 0.9))
    assert plain.holds < 0.75 and sure.holds >= 0.9 and sure.inputs["confidence"] == 0.9
    assert sure.options[0].name == "as predicted" and sure.options[0].point == pytest.approx(plain.point)
    held = losses(np.array([[sure.point[name] for name in CORPORA]]))[:, 0]
    least = losses(GRID).sum(axis=0)[losses(GRID)[0] <= held[0]].min()
    assert held.sum() < least + 0.02, "no mix that is as good for web is much better"
    assert plain.losses["web"]["point"] > sure.losses["web"]["point"]
    with pytest.raises(DecisionError, match="not a probability"):
        mixture(*FITS, ceilings={"web": 2.0}, confidence=1.0)


def test_the_best_of_many_predictions_is_raised_by_how_far_draws_own_best_lie_below_it(monkeypatch):
    """By hand: two draws, each of which finds its own mix 0.3 and 0.1 nats better than the prediction does."""
    mixes = np.array([[0.2, 0.8], [0.5, 0.5]])
    table = {0.2: [2.0, 1.7, 2.1], 0.5: [2.1, 2.2, 2.0]}  # share of the first corpus -> prediction, draw 1, draw 2

    class Judge:
        targets, fits = ["web"], [None]

        def columns(self, target, mixes):
            return mixes[:, 0]

    planned = sys.modules["cptlaw.planning.mixture"]  # the package's attribute of that name is the question
    monkeypatch.setattr(planned, "losses", lambda fit, shares: np.array([table[share] for share in shares]).T)
    raised = planned._optimism(Judge(), mixes)
    assert raised == {"web": pytest.approx(planned.CURSE * 0.2)}
