"""Resamples of runs, rows and residuals."""

import numpy as np
import pytest

from cptlaw import fitting, laws
from cptlaw.fitting import bootstrap
from cptlaw.fitting.rows import collect


def test_resamples_of_two_corpora_are_paired(dcpt_table):
    rows = [collect(dcpt_table, laws.get("dcpt"), (name,)) for name in ("code", "web")]
    drawn = [bootstrap.draw("runs", 5, r, r.y, seed=3).weights(np.arange(5)) for r in rows]
    for weights, r in zip(drawn, rows):
        assert all(len({*w[r.run == i]}) == 1 for w in weights for i in range(len(r.runs)))
    np.testing.assert_array_equal(drawn[0], drawn[1])


ONE_DOMAIN = [kind for kind in bootstrap.KINDS if kind != "domains"]  # those are drawn in test_unseen


@pytest.mark.parametrize("kind", ONE_DOMAIN)
def test_every_bootstrap_gives_a_spread(chinchilla_table, kind):
    fit = fitting.fit(chinchilla_table, "chinchilla", bootstrap=20, starts=8, resample=kind)
    found = fit.predict(params=6e9, tokens=60e9, target="law")
    assert found.low < found.high and found.samples.shape == (20,)
    assert sum(fit.codes["resamples"].values()) == 20


def test_weights_and_losses_by_kind(chinchilla_table):
    rows = collect(chinchilla_table, laws.get("chinchilla"), ("web",), "params > 2e9")
    lanes, predicted = np.arange(4), rows.y * 1.01
    for kind in ONE_DOMAIN:
        made = bootstrap.draw(kind, 4, rows, predicted, seed=0)
        weights = made.weights(lanes)
        assert weights.shape == (4, 30) and (weights[:, rows.held_out] == 0).all()
        if kind == "rows":
            assert (weights.sum(axis=1) == rows.fitted.sum()).all()
        assert (made.y is None) == (kind in ("runs", "rows"))
        if made.y is not None:
            assert (weights[:, rows.fitted] == 1).all()
            noise = np.log(made.y(lanes) / predicted)[:, rows.fitted]
            # The fit is 1% high everywhere: its residuals are centred, so none is left to draw.
            assert np.abs(noise).max() < 1e-12


def test_every_run_is_drawn_as_often_as_another():
    counts = bootstrap.run_counts(2000, 5, seed=0)
    assert (counts.sum(axis=1) == 5).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.1)
    np.testing.assert_array_equal(counts, bootstrap.run_counts(2000, 5, seed=0))
