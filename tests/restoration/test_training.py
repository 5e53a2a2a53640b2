import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cptlaw.fields import ConfigError
from cptlaw.models.sharding import Layout, make_mesh
from cptlaw.restoration import networks, training
from cptlaw.restoration.batches import Crops, Pictures
from cptlaw.restoration.training import Phase
from cptlaw.training.checkpoints import Checkpoints

DCPT = Phase("dcpt", steps=4, batch_size=4, crop=16, peak=1e-3, classifier_peak=5e-4, decay="constant")
TUNE = Phase("fine_tune", steps=4, batch_size=4, crop=16, peak=1e-3, ema=0.5, clip=0.01)


def copied(params):
    """The training loop donates its state to the next step."""
    return jax.tree.map(np.array, params)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def start(pair):
    return training.init(pair, DCPT, seed=0)


@pytest.fixture(scope="module")
def pre_trained(pair, crops, start):
    metrics = []
    result = training.train(pair, DCPT, crops, start, log=metrics.append, log_every=1)
    assert result.status == "finished" and result.point.tokens == 4 * 4 * 16 * 16
    assert [m.point.step for m in metrics] == [1, 2, 3, 4] and metrics[0].count == 4
    return result


@pytest.mark.slow
def test_both_optimisers_step_with_their_own_rate(start, pre_trained):
    """Adam's first steps are about the learning rate in size."""
    moved = {
        part: float(jnp.max(jnp.abs(start[part][name][leaf] - pre_trained.params[part][name][leaf])))
        for part, name, leaf in (("network", "intro", "conv"), ("classifier", "logits", "bias"))
    }
    assert 2e-3 < moved["network"] < 4.1e-3 and 0.8e-3 < moved["classifier"] < 2.1e-3


@pytest.mark.slow
def test_a_resumed_run_is_the_run_that_was_never_stopped(pair, crops, start, pre_trained, tmp_path):
    steps = iter([False, True])
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        stopped = training.train(pair, DCPT, crops, start, checkpoints=checkpoints, should_stop=lambda: next(steps))
    assert (stopped.status, stopped.point.step) == ("stopped", 2)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        resumed = training.train(pair, DCPT, crops, start, checkpoints=checkpoints)
    same(resumed.params, pre_trained.params)


@pytest.mark.slow
def test_fine_tuning_starts_from_all_of_the_network_and_averages(pair, crops, pre_trained):
    with pytest.raises(ValueError, match="phase fine_tune trains network; got classifier and network"):
        training.train(pair, TUNE, crops, pre_trained.params)
    seen = []
    network = {"network": pre_trained.params["network"]}
    training.train(
        pair,
        TUNE,
        crops,
        network,
        eval_steps=[0, 4],
        evaluate=lambda point, params: seen.append((point, copied(params))),
    )
    assert [(p.step, p.averaged) for p, _ in seen] == [(0, False), (0, True), (4, False), (4, True)]
    same(seen[0][1], network)  # strictly all weights, the head among them
    weights, average = seen[2][1]["network"]["head"]["conv"], seen[3][1]["network"]["head"]["conv"]
    assert float(abs(weights - average).max()) > 0


@pytest.mark.slow
def test_a_guide_stays_as_it_is(pair, crops, pre_trained):
    result = training.train(pair, dataclasses.replace(TUNE, kind="guided", ema=0.0), crops, pre_trained.params)
    same(result.params["classifier"], pre_trained.params["classifier"])
    assert (
        float(abs(result.params["network"]["intro"]["conv"] - pre_trained.params["network"]["intro"]["conv"]).max()) > 0
    )


@pytest.mark.slow
def test_four_devices_do_what_one_does(pair, crops, start):
    phase = dataclasses.replace(DCPT, steps=1)
    layout = Layout(make_mesh(2, 2, 1, jax.devices()[:4]), networks.RULES)
    one, four = (training.train(pair, phase, crops, start, layout=at).params for at in (None, layout))
    # Adam's first step is the gradient's sign, so gradients that are nothing but rounding may differ whole.
    off = [float((abs(a - np.asarray(b)) > 1e-5).mean()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four))]
    assert np.mean(off) < 0.02
    assert four["network"]["middle"]["conv1"]["dense"].sharding.spec == jax.P(None, None, "fsdp")


@pytest.mark.slow
def test_the_start_of_a_network_does_not_depend_on_the_classifier(pair):
    same(training.init(pair, DCPT, 3)["network"], training.init(pair, TUNE, 3)["network"])


def test_images_are_restored_in_batches_of_any_size(pair, params):
    images = np.random.default_rng(0).random((5, 8, 8, 3), np.float32)
    whole = training.restored(pair, params["network"], images, batch=4)
    expected = networks.restore(params["network"], pair.network, jnp.asarray(images))[0]
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    assert training.last_features(pair, params["network"], images, batch=4).shape == (5, 8 * 8 * 4)


def test_crops_are_a_pure_function_of_seed_step_and_row(pictures, crops):
    whole = crops.batch(3, slice(None))
    again = dataclasses.replace(crops, pictures=Pictures(pictures, crops.pictures.kinds, seed=0, draws=2))
    part = again.batch(3, np.array([1, 3]))
    for name, array in whole.items():
        np.testing.assert_array_equal(array[[1, 3]], part[name])
    shuffled = Crops(crops.pictures, 64, 16, seed=1, shuffle_labels=True).batch(0, slice(None))
    true = Crops(crops.pictures, 64, 16, seed=1).batch(0, slice(None))
    np.testing.assert_array_equal(shuffled["degraded_BHWC"], true["degraded_BHWC"])
    assert 0.2 < (shuffled["label_B"] == true["label_B"]).mean() < 0.8


@pytest.mark.parametrize("field, value", [("kind", "tune"), ("steps", 0), ("crop", 4), ("peak", 0.0), ("ema", 1.0)])
def test_bad_phases_are_named(field, value):
    with pytest.raises(ConfigError, match=f"phase.{field}"):
        dataclasses.replace(TUNE, **{field: value})
