import numpy as np
import pandas as pd
import pytest

from cptlaw import cli, laws
from cptlaw.fitting import Fit
from cptlaw.planning.best_subset import BEST, RANDOM, best_subset, option
from cptlaw.planning.decision import Decision, DecisionError

MU, SIGMA = 20.0, 8.0
SCORES = {"fit": {"rms_log": 0.001, "mean_log": 0.001}, "held_out": {"n": 0, "what": "nothing"}}
SETTINGS = {"seed": 0, "resample": "runs", "fixed": {}, "shared": []}


def make(law, params):
    rng = np.random.default_rng(0)
    samples = {name: value * (1 + rng.normal(0, 0.002, 60)) for name, value in params.items()}
    ranges = {"ppl_mean": (5.0, 60.0), "ppl_std": (2.0, 30.0), "tokens": (1e8, 1e9)}
    rows = pd.DataFrame({"run": [f"r{i}" for i in range(200)], "eval": "bio", "held_out": False})
    rows = rows.assign(loss=2.0, observed=2.0, predicted=2.0)
    empty = {
        "codes": {},
        "influence": {},
        "scores": SCORES,
        "residuals": rows,
        "settings": SETTINGS,
    }
    return Fit(
        law=laws.get(law), eval="bio", params=params, samples=samples, ranges=ranges, n_rows=200, digest="a", **empty
    )


@pytest.fixture(scope="module")
def bowl():
    """A quadratic surface in the logs whose minimum is at (MU, SIGMA)."""
    m, s, c3, c4, c5 = np.log(MU), np.log(SIGMA), 0.05, 0.08, 0.01
    squares = {"c1": -2 * c3 * m - c5 * s, "c2": -2 * c4 * s - c5 * m, "c3": c3, "c4": c4, "c5": c5}
    return make("perplexity_quadratic", {"E": 2.0, **squares, "D_c": 0.1, "aD": 0.3})


def test_a_minimum_inside_is_found_and_called_one(bowl):
    decision = best_subset(bowl, tokens=1e9, random=(30, 6))
    assert decision.point["mean"] == pytest.approx(MU, rel=0.05)
    assert decision.point["spread"] == pytest.approx(SIGMA, rel=0.05)
    assert "a minimum of the law" in decision.answer and decision.supported
    assert decision.regret["p90"] < 1e-3


def test_out_of_reach_the_best_that_can_be_chosen_is_said_to_be_at_the_edge(bowl):
    decision = best_subset(bowl, tokens=1e9, random=(5, 3), reachable=[(5, 3), (6, 3), (7, 4)])
    assert decision.point == {"mean": 7, "spread": 4}
    assert "at its edge" in decision.answer


def test_a_saddle_is_told_and_the_best_of_the_box_taken():
    params = {"E": 2.0, "D_c": 1.0, "a0": 0.5, "a1": -0.02, "b0": 0.4, "b1": -0.01, "aD": 0.3}
    fit = make("perplexity", params)
    decision = best_subset(fit, tokens=1e9, random=(30, 6))
    mu, sigma = np.meshgrid(np.geomspace(5, 60, 300), np.geomspace(2, 30, 300))
    best = fit.law.predict(params, {"tokens": 1e9, "ppl_mean": mu, "ppl_std": sigma}).min()
    assert decision.losses["bio"]["point"] == pytest.approx(best, abs=2e-3)


def test_what_does_not_surely_gain_on_random_text_is_not_recommended(bowl):
    sure = best_subset(bowl, tokens=1e9, random=(6, 3), reachable=[(5, 3), (7, 4)], miss=0.0)
    gain = sure.inputs["gain"]
    x = {"tokens": 1e9, "ppl_mean": np.array([6.0, 7.0]), "ppl_std": np.array([3.0, 4.0])}
    assert gain["point"] == pytest.approx(-np.diff(bowl.law.predict(bowl.params, x))[0])
    assert sure.supported and sure.point == {"mean": 7, "spread": 4} and gain["low"] > 0
    # The same prediction, by a law that misses subsets which it has not seen by as much as it promises.
    unsure = best_subset(bowl, tokens=1e9, random=(6, 3), reachable=[(5, 3), (7, 4)], miss=gain["point"])
    assert not unsure.supported and unsure.point == {"mean": 6, "spread": 3}
    assert unsure.answer.startswith("Random text. A mean of 7")
    assert option(unsure, BEST) == (7, 4) and option(unsure, RANDOM) == (6, 3)
    assert unsure.inputs["gain"]["low"] < 0 < unsure.inputs["gain"]["point"]


def test_random_text_may_be_the_best(bowl):
    decision = best_subset(bowl, tokens=1e9, random=(MU, SIGMA), reachable=[(5, 3), (7, 4)])
    assert not decision.supported and decision.inputs["gain"]["point"] == 0


def test_the_best_subset_does_not_depend_on_tokens():
    fit = make("perplexity", {"E": 2.0, "D_c": 1.0, "a0": 0.5, "a1": -0.02, "b0": 0.4, "b1": -0.01, "aD": 0.3})
    assert best_subset(fit, tokens=1e8, random=(30, 6)).point == best_subset(fit, tokens=1e10, random=(30, 6)).point


def test_bad_questions_are_refused(bowl, code):
    with pytest.raises(DecisionError, match="knows no perplexity"):
        best_subset(code, tokens=1e9, random=(30, 6))
    with pytest.raises(DecisionError, match="pairs of positive numbers"):
        best_subset(bowl, tokens=1e9, random=(30, 6), reachable=[(1, -1)])
    with pytest.raises(DecisionError, match="random: give"):
        best_subset(bowl, tokens=1e9, random=(1, 0))
    with pytest.raises(DecisionError, match="miss -1"):
        best_subset(bowl, tokens=1e9, random=(30, 6), miss=-1)


def test_the_command(bowl, tmp_path, capsys):
    bowl.save(tmp_path / "fit.json")
    pd.DataFrame({"mean": [5, 7], "spread": [3, 4]}).to_csv(tmp_path / "pool.csv", index=False)
    words = ["plan", "subset", "--fit", str(tmp_path / "fit.json"), "--tokens", "1e9"]
    assert cli.main([*words, "--reachable", str(tmp_path / "pool.csv")]) == 2
    assert "--random: give the mean and the spread of the whole pool" in capsys.readouterr().err
    words = [*words, "--random", "5", "3", "--miss", "0.0001"]
    assert cli.main([*words, "--reachable", str(tmp_path / "pool.csv"), "--out", str(tmp_path / "d.json")]) == 0
    assert Decision.load(tmp_path / "d.json").point == {"mean": 7, "spread": 4}
    pd.DataFrame({"mu": [5]}).to_csv(tmp_path / "pool.csv", index=False)
    assert cli.main([*words, "--reachable", str(tmp_path / "pool.csv")]) == 2
    assert "mean and spread" in capsys.readouterr().err
