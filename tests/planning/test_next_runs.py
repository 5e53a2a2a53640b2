import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import block_diag

from cptlaw import cli, laws
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.mixture import mixture
from cptlaw.planning.next_runs import check_candidates, choose, default_candidates, next_runs
from cptlaw.planning.posterior import Posterior, posteriors
from cptlaw.planning.shares import loss_functions
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


def random_knowledge(seed, candidates=5, m=2, parameters=4):
    """What two fits know, around one basin, and the candidates' costs."""
    rng = np.random.default_rng(seed)
    known = []
    for _ in range(2):
        root = rng.normal(size=(parameters, parameters))
        target, slopes = rng.normal(size=(1, 1, parameters)), rng.normal(size=(1, candidates, m, parameters))
        error = rng.uniform(0.5, 2, (candidates, 1, 1)) * (0.3 * np.eye(m) + 0.1)
        known.append(Posterior((root @ root.T)[None], target, slopes, error))
    return known, rng.uniform(1, 3, candidates)


@pytest.mark.parametrize("seed", range(5))
def test_variance_left_is_that_of_gaussian_conditioning_on_all_that_was_chosen(seed):
    known, cost = random_knowledge(seed)
    chosen, left = choose(known, cost, 4)
    start = sum(one.variance()[0] for one in known)
    for n in range(1, 5):
        variance = 0.0
        for one in known:  # a repeat of a candidate has noise of its own
            seen, target = np.concatenate(one.slopes[0, chosen[:n]]), one.target[0, 0]
            own = seen @ one.covariance[0] @ seen.T + block_diag(*one.error[chosen[:n]])
            cross = seen @ one.covariance[0] @ target
            variance += target @ one.covariance[0] @ target - cross @ np.linalg.solve(own, cross)
        assert left[n - 1] == pytest.approx(variance / start, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_choice_is_the_best_of_all_per_cost(seed):
    known, cost = random_knowledge(seed)
    gain = []
    for i in range(len(cost)):
        alone = [dataclasses.replace(one, slopes=one.slopes[:, [i]], error=one.error[[i]]) for one in known]
        gain.append((1 - choose(alone, cost[[i]], 1)[1][0]) / cost[i])
    assert choose(known, cost, 1)[0] == [int(np.argmax(gain))]


def test_a_basin_that_nothing_moves_has_no_say():
    (first, second), cost = random_knowledge(0)
    both = [dataclasses.replace(one, covariance=np.repeat(one.covariance, 2, 0), target=np.repeat(one.target, 2, 0),
                                slopes=np.repeat(one.slopes, 2, 0)) for one in (first, second)]  # fmt: skip
    assert choose(both, cost, 2) == choose((first, second), cost, 2)


def test_knowledge_before_any_candidate_is_the_delta_method(both, decision):
    """The decision's variance is that of a linear function of the parameters, at the share where the ceiling binds."""
    at = {**X, "w_code": decision.point["share"], "w_general": 1 - decision.point["share"]}
    table = check_candidates(pd.DataFrame([at]))
    known, of_loss = posteriors(decision, both, table), posteriors(at, both, table)
    ends = decision.point["share"] + np.array([-1e-4, 1e-4])
    slope = np.diff(loss_functions(*both, X)[0](ends)[0]) / 2e-4
    loss_variance = np.einsum("p,pq,q", of_loss[0].target[0, 0], of_loss[0].covariance[0], of_loss[0].target[0, 0])
    assert sum(one.variance()[0] for one in known) == pytest.approx(loss_variance / slope[0] ** 2, rel=1e-2)


def test_it_measures_where_the_decision_hangs(both, decision):
    here, elsewhere = decision.point["share"], 0.0
    table = pd.DataFrame({"params": 8e5, "tokens": 1e6, "w_code": [elsewhere, here], "cost": 1.0})
    table["w_general"] = 1 - table["w_code"]
    row = next_runs(decision, *both, candidates=table).rows[0]
    assert row["w_code"] == here
    assert 0 < row["interval shrinks to"] < 1


def test_resamples_that_say_other_than_the_laws_derivatives_are_told(both, decision):
    sure = dataclasses.replace(decision, samples={"share": 0.4 + 1e-9 * decision.samples["share"]})
    assert any("hardly settle the share" in warning for warning in next_runs(sure, *both).warnings)


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
    table = default_candidates(both)
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
    loose = trade_off(*both, **X, base_loss=3.26, tolerance=2.0)
    with pytest.raises(DecisionError, match="no parameter of these laws moves the decision"):
        next_runs(loose, *both)
    with pytest.raises(DecisionError, match="about code too, of which no fit is given"):
        next_runs(decision, both[0])
    with pytest.raises(DecisionError, match="cannot be made surer"):
        next_runs(dataclasses.replace(decision, kind="subset"), *both)
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


def test_default_candidates_of_three_corpora_are_fitted_mixes_and_middles_of_pairs(both):
    mixes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    rows = pd.DataFrame(np.repeat(mixes, 2, axis=0), columns=["w_a", "w_b", "w_c"])
    rows = rows.assign(params=[1e5, 2e5] * 3, tokens=[1e6, 2e6] * 3, run="r", held_out=False)
    table = default_candidates([dataclasses.replace(both[0], residuals=rows)])
    assert len(table) == 2 * 6 and (table["tokens"] == 2e6).all()
    middles = table.loc[table["params"] == 1e5, ["w_a", "w_b", "w_c"]].to_numpy()
    assert [0.5, 0.5, 0] in middles.tolist() and [0, 0.5, 0.5] in middles.tolist() and [1, 0, 0] in middles.tolist()
    many = pd.DataFrame(np.random.default_rng(0).dirichlet(np.ones(4), 300), columns=list("abcd")).add_prefix("w_")
    table = default_candidates([dataclasses.replace(both[0], residuals=many)])
    assert len(table) == 210 and (table["cost"] == 1).all()
    np.testing.assert_allclose(table.filter(like="w_").sum(axis=1), 1)


def test_a_prediction_can_be_made_surer_too(both, tmp_path, capsys):
    at = {"params": 8e5, "tokens": 1e6, "w_code": 0.25, "w_general": 0.75}
    found = next_runs(at, *both, k=2)
    near, far = (check_candidates(pd.DataFrame([{**at, "w_code": s, "w_general": 1 - s}])) for s in (0.25, 1.0))
    table = pd.concat([near, far], ignore_index=True)
    assert next_runs(at, *both, candidates=table).rows[0]["w_code"] == 0.25
    assert found.rows[1]["loss +/-"] < found.rows[0]["loss +/-"]
    for fit in both:
        fit.save(tmp_path / f"{fit.eval}.json")
    words = ["plan", "next", "--predict", "params=8e5,tokens=1e6,w_code=0.25,w_general=0.75", "-k", "2", "--fits"]
    assert cli.main([*words, *(str(tmp_path / f"{fit.eval}.json") for fit in both)]) == 0
    assert found.answer in capsys.readouterr().out


def test_a_mixture_of_three_corpora_is_made_surer_by_runs_near_it(both):
    law = laws.get("mixing", corpora=("web", "code", "math"))
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.dirichlet(np.ones(3), 15), columns=["w_web", "w_code", "w_math"])
    rows = rows.assign(run=[f"r{i}" for i in range(15)], held_out=False)
    fits = []
    for name, theta in (("web", (1.5, 1.0, -2.0, -0.2)), ("code", (1.0, 1.2, 0.5, -2.5))):
        params = dict(zip(law.names, theta))
        predicted = law.predict(params, {c: rows[c].to_numpy() for c in law.columns})
        own = rows.assign(predicted=predicted, observed=predicted + rng.normal(0, 0.01, 15))
        samples = {n: v + rng.normal(0, 0.01, 40) for n, v in params.items()}
        fits.append(dataclasses.replace(
            both[0], law=law, eval=name, params=params, samples=samples, residuals=own, influence={},
            ranges=dict.fromkeys(law.columns, (0.0, 1.0)),
        ))  # fmt: skip
    decision = mixture(*fits)
    found = next_runs(decision, *fits, k=2)
    assert found.rows[1]["interval shrinks to"] < found.rows[0]["interval shrinks to"] < 1
    assert found.rows[0]["cost"] == 1 and "shares +/-" in found.rows[0]
    known = posteriors(decision, fits, default_candidates(fits))
    assert known[0].target.shape[1:] == (3, 4)  # every share of the mix, by each of the law's parameters
    np.testing.assert_allclose(known[0].target.sum(axis=1), 0, atol=1e-6)  # shares sum to one, however they move
