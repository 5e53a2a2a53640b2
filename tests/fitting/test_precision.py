"""Standard errors of losses as weights."""

import numpy as np
import pytest

from cptlaw import fitting, laws
from cptlaw.fitting import precision
from cptlaw.fitting.rows import collect


@pytest.fixture
def noisy(chinchilla_table):
    """The exact law, but every third loss evaluated on too little text: 3% off, as its standard error says."""
    law, rng = laws.get("chinchilla"), np.random.default_rng(0)
    truth = {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}
    x = {name: chinchilla_table[name].to_numpy() for name in law.columns}
    relative = np.where(np.arange(30) % 3 == 0, 0.03, 3e-4)
    exact = law.predict(truth, x)
    loss = exact * np.exp(relative * rng.standard_normal(30))
    return chinchilla_table.assign(loss=loss, loss_se=relative * exact), law, truth


def test_rows_weigh_by_their_standard_errors(noisy):
    table, law, truth = noisy
    far = {"params": 3e10, "tokens": 3e11}
    exact = law.predict(truth, far)
    with_se = fitting.fit(table, "chinchilla", bootstrap=0, starts=8)
    without = fitting.fit(table.drop(columns="loss_se"), "chinchilla", bootstrap=0, starts=8)
    error = [abs(float(fit.predict(**far).point) / exact - 1) for fit in (with_se, without)]
    assert error[0] < 0.003 and error[0] < error[1] / 2
    assert with_se.settings["loss_se"].startswith("used: rows weigh") and without.settings["loss_se"] == ""


@pytest.mark.parametrize(
    ("se", "words"),
    [
        (0.01, "the same in every row"),
        (0.0, "not used: it is 0"),
        ([np.nan, *[0.01] * 29], "not used: it is missing in 1 of 30"),
        (np.nan, ""),
    ],
)
def test_standard_errors_that_say_nothing_are_not_used(chinchilla_table, se, words):
    own = chinchilla_table["loss"] * 0.01 if words.startswith("the same") else se
    rows = collect(chinchilla_table.assign(loss_se=own), laws.get("chinchilla"), ("web",))
    error, said = precision.relative(rows)
    assert error is None and words in said


def test_where_runs_scatter_more_than_evaluations_rows_weigh_alike():
    rng = np.random.default_rng(0)
    error = np.where(np.arange(400) % 2 == 0, 1e-3, 3e-3)
    residual = np.hypot(error, 0.02) * rng.standard_normal(400)
    assert precision.beyond(error, residual) == pytest.approx(0.02, rel=0.15)
    assert precision.beyond(error, error * rng.standard_normal(400)) < 1e-3


def test_weights_have_mean_one_over_the_fitted_rows(chinchilla_table):
    table = chinchilla_table.assign(loss_se=np.linspace(0.001, 0.05, 30))
    rows = collect(table, laws.get("chinchilla"), ("web",), "params > 2e9")
    weighed, _ = precision.weigh(rows, table["loss_se"].to_numpy(), np.full(30, 1e-3))
    assert weighed.weights[rows.fitted].mean() == pytest.approx(1) and (weighed.weights[rows.held_out] == 0).all()
