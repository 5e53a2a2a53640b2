"""Derivatives of a fit by its data equal what refitting says."""

import numpy as np
import pytest
from known_laws import TRUTH, pose

from cptlaw import fitting
from cptlaw.fitting import estimate, sensitivity
from cptlaw.fitting.objective import Objective
from cptlaw.laws import dcpt


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


def test_reported_parameters_move_with_the_free_ones_that_bind_them(dcpt_table):
    table = dcpt_table[dcpt_table["eval"] == "code"]
    problem, _ = pose(table, "dcpt", Objective())
    theta = np.array([{**TRUTH, "C": 0.3}[name] for name in problem.free])
    jacobian = sensitivity.reported_jacobian(problem, theta)
    at = list(problem.law.names).index("C")  # C = C0 + the free excess, and C0 is proportional to B
    bound = dcpt.lower_bound(TRUTH | {"D_min": problem.fixed["D_min"]})
    assert jacobian[at, at] == pytest.approx(1, rel=1e-6)
    assert jacobian[at, list(problem.free).index("B")] == pytest.approx(bound / TRUTH["B"], rel=1e-6)
