"""The predictive distribution: its algebra by other means, its parts, its honesty out of range, its form as data."""

import json

import numpy as np
import pandas as pd
import pytest

from cptlaw import laws
from cptlaw.errors import UserError
from cptlaw.fitting import kernels
from cptlaw.fitting.condition import condition
from cptlaw.fitting.draws import draw
from cptlaw.fitting.process import Process

LAW = laws.get("chinchilla")
THETA = {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}
SIZES, TOKENS = np.geomspace(0.1e9, 1.6e9, 4), np.geomspace(1e9, 32e9, 6)


def rows(bend=0.0, noise=0.002, run_noise=0.004, seed=0):
    """Four sizes, two runs each, six checkpoints; `bend` is what the law misses, in log loss."""
    rng, found = np.random.default_rng(seed), []
    for size in SIZES:
        for k in range(2):
            effect = run_noise * rng.standard_normal()
            for tokens in TOKENS:
                miss = bend * np.log(size / 4e8) ** 2 + effect + noise * rng.standard_normal()
                loss = float(LAW.predict(THETA, {"params": size, "tokens": tokens}) * np.exp(miss))
                found.append((f"{size:.3g}-{k}", size, tokens, loss))
    return pd.DataFrame(found, columns=["run", "params", "tokens", "loss"])


def conditioned(table, **settings) -> Process:
    x = {"params": table["params"].to_numpy(), "tokens": table["tokens"].to_numpy()}
    return condition(LAW, THETA, x, table["loss"].to_numpy(), table["run"].tolist(), **settings)


@pytest.fixture(scope="module")
def process():
    return conditioned(rows())


def at(size, tokens):
    size, tokens = np.broadcast_arrays(np.asarray(size, float), np.asarray(tokens, float))
    return {"params": size.ravel(), "tokens": tokens.ravel()}


def test_the_posterior_is_that_of_the_joint_normal(process):
    """Mean and variance by conditioning one dense covariance of rows and questions, law and all."""
    asked = at([0.5e9, 3.2e9], [64e9, 16e9])
    x = {k: np.concatenate([process.x[k], asked[k]]) for k in asked}
    count = len(process.log_y)
    ids = {name: i for i, name in enumerate(dict.fromkeys(process.run))}
    run = np.array([*(ids[r] for r in process.run), -1, -1])
    base = np.array([*np.unique(process.base, return_inverse=True)[1], -1, -1])
    places = kernels.points(x, run, base, process.offset)
    law = process.slopes(x) * process.spread
    whole = law @ law.T
    for term, scale in process.scales.items():
        block = (
            np.eye(count + 2) if term == "checkpoint" else kernels.correlation(term, places, places, process.lengths)
        )
        block[range(count + 2), range(count + 2)] = 1
        whole = whole + scale**2 * block
    middle = process.law_log(process.phi, x) + process.slopes(x) @ (process.centre - process.phi)
    gain = whole[count:, :count] @ np.linalg.inv(whole[:count, :count])
    mean = middle[count:] + gain @ (process.log_y - middle[:count])
    variance = np.diag(whole[count:, count:] - gain @ whole[:count, count:])
    found = process.predict(asked)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.sd**2, process.widened**2 * variance, rtol=1e-4)
    assert process.widened == pytest.approx(np.sqrt(2))  # of eight runs; of twenty 1.15


def test_parts_sum_to_the_whole_and_targets_are_nested(process):
    asked = at([0.4e9, 1.6e9, 6.4e9], [8e9, 64e9, 64e9])
    found = {target: process.predict(asked, target) for target in ("mean", "run", "base")}
    for answer in found.values():
        np.testing.assert_allclose(sum(answer.parts.values()), answer.sd**2, rtol=1e-9)
    assert (found["mean"].sd < found["run"].sd).all() and (found["run"].sd <= found["base"].sd).all()
    assert found["base"].sd[1] > found["run"].sd[1]  # at a size of the table its base is known
    assert "run" in found["run"].parts and "run" not in found["mean"].parts
    with pytest.raises(UserError, match="mean, run, base"):
        process.predict(asked, "median")


def test_it_is_continuous_and_widens_along_every_axis(process):
    for asked in (at(1.6e9 * np.geomspace(1, 8, 200), 8e9), at(0.4e9, 32e9 * np.geomspace(1, 8, 200))):
        sd = process.predict(asked, "mean").sd
        assert (np.diff(sd) > -1e-6).all() and sd[-1] > 1.5 * sd[0]
        # Beyond the first point, whose size has a base of the table, no step is larger than its neighbours allow.
        assert np.abs(np.diff(sd[1:])).max() < 0.05 * sd[-1]


def test_it_corrects_a_law_that_is_wrong():
    table = rows(bend=0.01, noise=0.001, run_noise=0.001)
    truth = LAW.predict(THETA, at(3.2e9, 8e9)) * np.exp(0.01 * np.log(3.2e9 / 4e8) ** 2)
    found = conditioned(table).predict(at(3.2e9, 8e9))
    low, high = found.interval(0.9)
    assert low[0] <= truth[0] <= high[0]
    assert abs(found.mean[0] - np.log(truth[0])) < 0.02  # the law's own miss is .043
    held = at(table["params"], table["tokens"])
    own = conditioned(table).predict(held, "run", table["run"].to_numpy())
    assert np.sqrt(np.mean((own.mean - np.log(table["loss"])) ** 2)) < 0.002


def test_more_of_a_known_run_is_surer_than_a_new_run(process):
    asked = at(1.6e9, 64e9)
    known, new = process.predict(asked, "run", np.array(["1.6e+09-0"])), process.predict(asked, "run")
    assert known.sd[0] < 0.9 * new.sd[0]


def test_joint_draws_have_the_predictive_s_moments(process):
    asked = at(np.array([0.4e9, 1.6e9, 3.2e9, 3.3e9]), 16e9)
    exact = process.predict(asked, "mean")
    mean, draws = draw(process, 4000, seed=3).at(asked)
    np.testing.assert_allclose(mean, exact.mean, atol=1e-9)
    np.testing.assert_allclose(draws.std(axis=0) / exact.sd, np.sqrt(process.df / (process.df - 2)), rtol=0.12)
    assert np.corrcoef(draws[:, 2], draws[:, 3])[0, 1] > 0.99
    # The same draws wherever and in whatever company they are asked.
    np.testing.assert_allclose(draw(process, 4000, seed=3).at(at(3.2e9, 16e9))[1][:, 0], draws[:, 2], atol=1e-9)


def test_it_is_data(process):
    again = Process.from_json(json.loads(json.dumps(process.to_json(), allow_nan=False)), LAW)
    asked = at([0.4e9, 3.2e9], 64e9)
    np.testing.assert_array_equal(again.predict(asked).sd, process.predict(asked).sd)
    np.testing.assert_array_equal(draw(again, 3, 1).at(asked)[1], draw(process, 3, 1).at(asked)[1])


def test_what_is_not_known_is_said(process):
    assert process.cautions(at(3.2e9, 32e9)) == []
    far = at([3.2e9, 48e9], 32e9)
    assert any("say nothing 30 times out" in note for note in process.cautions(far))
    assert process.silent(far).tolist() == [False, True]
    short = rows()[lambda t: t["params"] < 4e8].iloc[:10]
    notes = conditioned(short).cautions(at(0.3e9, 8e9))
    assert "2 sizes" not in notes[0] and "10 rows" in notes[0] and "runs" in notes[0]


def test_a_corpus_never_dropped_is_not_said_to_be_droppable():
    law = laws.get("dcpt", free_sign=True)
    theta = {
        "E": 1.4,
        "A": 0.45,
        "alpha": 0.35,
        "B": 0.12,
        "beta": 0.4,
        "eta": 1.4,
        "C": 0.8,
        "gamma": 0.5,
        "eps": 0.12,
    }
    n, d, r = (v.ravel() for v in np.meshgrid([1e8, 4e8, 1e9], [1e9, 4e9], [0.1, 0.3, 0.5, 0.9], indexing="ij"))
    x = {"params": n, "tokens": d, "ratio": r}
    found = condition(law, theta, x, law.predict(theta, x), [f"{a:g}-{b:g}" for a, b in zip(n, r)])
    asked = {"params": np.full(2, 1e9), "tokens": np.full(2, 4e9), "ratio": np.array([0.2, 0.0])}
    assert found.silent(asked).tolist() == [False, True]
    assert any("share of 0" in note for note in found.cautions(asked))
    assert {"mix", "mix x size", "mix x tokens", "base", "drift"} <= set(found.scales)


def test_terms_that_a_table_cannot_show_are_left_out():
    table = rows().groupby("run", sort=False).tail(1)  # one checkpoint a run, all at the same tokens
    found = conditioned(table)
    assert not {"run", "drift", "tokens", "size x tokens", "mix"} & set(found.scales)
    assert {"checkpoint", "size", "base"} <= set(found.scales)
