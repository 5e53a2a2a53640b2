import dataclasses

import numpy as np
import pandas as pd
import pytest

from cptlaw.planning import linear, noise, posterior


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


def repeats(slope, settings=12, seeds=6, seed=0):
    """Runs that repeat a setting, with a variance that goes as own share to the power of `slope`."""
    rng = np.random.default_rng(seed)
    grid = [(share, n, d, k) for share in np.linspace(0.05, 0.95, settings) for n in (5e4, 2e5) for d in (1e5, 1e6)
            for k in range(seeds)]  # fmt: skip
    table = pd.DataFrame(grid, columns=["w_code", "params", "tokens", "seed"])
    table["w_web"], table["run"] = 1 - table["w_code"], [f"r{i}" for i in range(len(table))]
    sd = 0.004 * np.where(table["params"] > 1e5, 2.0, 1.0) * table["w_code"] ** (slope / 2)
    return table.assign(eval="code", loss=3.0 * np.exp(sd * rng.normal(size=len(table))))


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.8])
def test_noise_that_depends_on_the_mix_is_learned_from_repeats(slope):
    found = noise.by_mix(repeats(slope), "code")
    assert found.share == pytest.approx(slope, abs=0.35) and found.tokens == pytest.approx(0, abs=0.15)
    low, high = found.relative(np.array([0.1, 0.9]), np.array([1e5, 1e5]))
    assert low / high == pytest.approx((0.1 / 0.9) ** (slope / 2), rel=0.3)


def test_few_repeats_say_nothing_of_where_noise_is():
    assert noise.by_mix(repeats(-1.0, settings=2, seeds=2), "code") == noise.ByMix()
    assert noise.by_mix(repeats(-1.0, seeds=1), "code") == noise.ByMix()
    assert noise.ByMix().relative(np.array([0.1, 0.9]), np.array([1e5, 1e6])).tolist() == [1, 1]


def test_what_repeats_say_reaches_the_noise_of_candidates(code):
    table = repeats(-1.0).assign(predicted=3.0, held_out=False)
    fit = dataclasses.replace(code, residuals=table.assign(observed=table["loss"]))
    candidates = pd.DataFrame({"params": 5e4, "tokens": 1e6, "w_code": [0.1, 0.9], "w_web": [0.9, 0.1]})
    noisy, quiet = posterior._Linearised(fit, np.array([0])).noise_at(candidates)
    assert noisy[0, 0] / quiet[0, 0] == pytest.approx(9, rel=0.6)
