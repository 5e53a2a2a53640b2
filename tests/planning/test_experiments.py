import dataclasses

import numpy as np
import pandas as pd
import pytest

from cptlaw import cli
from cptlaw.planning import experiments
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.experiments import choose, next_runs
from cptlaw.planning.tradeoff import trade_off

X = {"params": 8e5, "tokens": 1e6}


@pytest.fixture(scope="module")
def both(general, code):
    """The fits with the other corpus's share in their rows, as rows of a runs table have."""

    def complete(fit, other):
        return dataclasses.replace(
            fit, residuals=fit.residuals.assign(**{f"w_{other}": 1 - fit.residuals[f"w_{fit.eval}"]})
        )

    return complete(general, "code"), complete(code, "general")


@pytest.fixture(scope="module")
def decision(both):
    return trade_off(*both, **X, base_loss=3.26)


def random_problem(seed, candidates=5, m=2):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(candidates * m + 1, candidates * m + 1))
    return root @ root.T, 0.3 * np.eye(m) + 0.1, rng.uniform(1, 3, candidates)


@pytest.mark.parametrize("seed", range(5))
def test_variance_left_is_that_of_gaussian_conditioning_on_all_that_was_chosen(seed):
    covariance, error, cost = random_problem(seed)
    chosen, left = choose(covariance, error, cost, 4)
    for n in range(1, 5):
        seen = np.concatenate([np.arange(2 * i, 2 * i + 2) for i in chosen[:n]])
        own = covariance[np.ix_(seen, seen)] + np.kron(np.eye(n), error)  # a repeat has noise of its own
        cross = covariance[-1, seen]
        assert left[n - 1] == pytest.approx(covariance[-1, -1] - cross @ np.linalg.solve(own, cross), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_choice_is_the_best_of_all_per_cost(seed):
    covariance, error, cost = random_problem(seed)
    single = [choose(covariance[np.ix_(keep, keep)], error, cost[i : i + 1], 1)[1][0] for i in range(5)
              for keep in [[2 * i, 2 * i + 1, 10]]]  # fmt: skip
    gain = (covariance[-1, -1] - np.array(single)) / cost
    assert choose(covariance, error, cost, 1)[0] == [int(np.argmax(gain))]


def test_it_measures_where_the_decision_hangs(both, decision):
    here, elsewhere = decision.point["share"], 0.0
    table = pd.DataFrame({"params": 8e5, "tokens": 1e6, "w_code": [elsewhere, here], "cost": 1.0})
    table["w_general"] = 1 - table["w_code"]
    row = next_runs(decision, *both, candidates=table).rows[0]
    assert row["w_code"] == here
    assert 0 < row["interval shrinks to"] < 1


def test_a_dear_run_must_be_worth_it(both, decision):
    table = pd.DataFrame({"params": [8e5, 8e5], "tokens": 1e6, "w_code": decision.point["share"], "cost": [1.0, 3.0]})
    table["w_general"] = 1 - table["w_code"]
    assert next_runs(decision, *both, candidates=table).rows[0]["cost"] == 1.0


def test_a_batch_narrows_step_by_step_and_beats_chance(both, decision):
    found = next_runs(decision, *both, k=4)
    widths = [row["interval shrinks to"] for row in found.rows]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < found.inputs["random"]


def test_default_candidates_fill_the_gaps_between_fitted_shares(both):
    table = experiments.default_candidates(both)
    assert set(table["w_code"].round(3)) == {0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1}
    assert set(table["params"]) == {5e4, 2e5, 8e5}
    assert (table["cost"] == 6 * table["params"] * table["tokens"]).all()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"tokens": [1e6], "w_code": [0.5], "w_general": [0.5]}, "no column 'params'"),
        ({"params": [1e6], "tokens": [1e6], "w_code": [0.9], "w_general": [0.5]}, "row 0: shares sum to 1.4"),
        ({"params": [1e6], "tokens": [1e6], "w_code": [0.5], "w_general": [0.5], "cost": [0]}, "must be positive"),
    ],
)
def test_bad_candidates_are_refused(both, decision, table, words):
    with pytest.raises(DecisionError, match=words):
        next_runs(decision, *both, candidates=pd.DataFrame(table))


def test_decisions_with_nothing_to_learn_are_refused(both, decision):
    with pytest.raises(DecisionError, match="same share"):
        next_runs(dataclasses.replace(decision, samples={"share": np.ones(200)}), *both)
    with pytest.raises(DecisionError, match="not made from these fits"):
        next_runs(dataclasses.replace(decision, samples={"share": np.arange(7.0)}), *both)
    with pytest.raises(DecisionError, match="at least one"):
        next_runs(decision, *both, k=0)


def test_the_command_chooses_from_a_file(both, decision, tmp_path, capsys):
    for fit in both:
        fit.save(tmp_path / f"{fit.eval}.json")
    decision.save(tmp_path / "d.json")
    table = pd.DataFrame({"params": 8e5, "tokens": 1e6, "w_code": [0.1, 0.4], "w_general": [0.9, 0.6]})
    table.to_csv(tmp_path / "c.csv", index=False)
    files = [str(tmp_path / f"{name}.json") for name in ("general", "code")]
    words = ["plan", "next", "--decision", str(tmp_path / "d.json"), "--fits", *files]
    out = str(tmp_path / "next.json")
    assert cli.main([*words, "--candidates", str(tmp_path / "c.csv"), "-k", "2", "--out", out]) == 0
    assert len(Decision.load(out).rows) == 2
    assert cli.main([*words, "--candidates", "nowhere.csv"]) == 2
    assert "no such file" in capsys.readouterr().err
