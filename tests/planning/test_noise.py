import dataclasses

import numpy as np
import pandas as pd
import pytest

from cptlaw.planning import linear, noise


def rows(run_sd, checkpoint_sd, runs=400, checkpoints=5, seed=0):
    rng = np.random.default_rng(seed)
    common = np.repeat(rng.normal(0, run_sd, runs), checkpoints)
    setting = {"params": rng.choice([5e4, 2e5, 8e5], runs), "w_code": rng.uniform(0, 1, runs)}
    return pd.DataFrame({
        **{name: np.repeat(value, checkpoints) for name, value in setting.items()},
        "tokens": np.tile(np.geomspace(1e5, 1e6, checkpoints), runs),
        "run": np.repeat([f"r{i}" for i in range(runs)], checkpoints), "predicted": 3.0, "held_out": False,
        "observed": 3.0 + common + rng.normal(0, checkpoint_sd, runs * checkpoints),
    })  # fmt: skip


@pytest.mark.parametrize(("run_sd", "checkpoint_sd"), [(0.01, 0.002), (0.0, 0.005), (0.004, 0.004)])
def test_the_parts_of_the_noise_are_told_apart(code, run_sd, checkpoint_sd):
    found = noise.of_fit(dataclasses.replace(code, residuals=rows(run_sd, checkpoint_sd)))
    assert found == pytest.approx((run_sd, checkpoint_sd), rel=0.1, abs=1e-3)


def test_runs_of_one_checkpoint_have_checkpoint_noise_alone(code):
    run, checkpoint = noise.of_fit(dataclasses.replace(code, residuals=rows(0.01, 0.0, checkpoints=1)))
    assert checkpoint == pytest.approx(0.01, rel=0.1) and run == 0


def test_noise_that_a_small_fit_has_taken_up_is_allowed_for(code):
    """Eleven runs and nine parameters: the residuals are much smaller than the noise, of which they still tell."""
    found, seen = [], []
    for seed in range(40):
        table = rows(0.003, 0.001, runs=11, seed=seed)
        x = linear.columns(code, table)
        slopes = linear.jacobian(code.law, code.params, x, linear.free(code))
        taken = slopes @ np.linalg.lstsq(slopes, table["observed"] - 3.0, rcond=None)[0]
        fitted = dataclasses.replace(code, residuals=table.assign(predicted=3.0 + taken))
        found.append(noise.of_fit(fitted))
        seen.append((table["observed"] - 3.0 - taken).groupby(table["run"]).mean().std())
    run, checkpoint = np.sqrt(np.mean(np.square(found), axis=0))
    assert np.sqrt(np.mean(np.square(seen))) < 0.75 * 0.003
    assert run == pytest.approx(0.003, rel=0.2) and checkpoint == pytest.approx(0.001, rel=0.1)


def test_whitening_is_that_of_the_whole_covariance():
    rng = np.random.default_rng(0)
    group, columns = np.array([0, 1, 1, 2, 2, 2, 0]), rng.normal(size=(2, 7, 3))
    matrix, log_det = noise.whitened(columns, group, 2.5)
    whole = np.eye(7) + 2.5 * (group[:, None] == group)
    np.testing.assert_allclose(matrix, columns.swapaxes(1, 2) @ np.linalg.inv(whole) @ columns)
    assert log_det == pytest.approx(np.linalg.slogdet(whole)[1])


def test_held_out_rows_do_not_count(code):
    table = rows(0.003, 0.001)
    far = table.assign(held_out=True, observed=9.0)
    with_far = noise.of_fit(dataclasses.replace(code, residuals=pd.concat([table, far])))
    assert with_far == noise.of_fit(dataclasses.replace(code, residuals=table))


def test_seed_noise_is_pooled_over_repeated_settings():
    rng = np.random.default_rng(0)
    found = [
        {"run": f"{share}-{seed}", "params": 1e6, "tokens": 1e6, "w_a": share, "w_b": 1 - share, "eval": "a",
         "loss": 3 + share + rng.normal(0, 0.02)}
        for share in np.linspace(0, 1, 200) for seed in range(2)
    ]  # fmt: skip
    lonely = {"run": "x", "params": 2e6, "tokens": 1e6, "w_a": 1.0, "w_b": 0.0, "eval": "b", "loss": 9.0}
    table = noise.of_seeds(pd.DataFrame([*found, lonely]))
    assert list(table["eval"]) == ["a"]
    assert table["sd"].iloc[0] == pytest.approx(0.02, rel=0.1)
    assert table["settings"].iloc[0] == 200
