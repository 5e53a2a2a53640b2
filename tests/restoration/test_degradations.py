import numpy as np
import pytest

from cptlaw.restoration import quality
from cptlaw.restoration.degradations import FIVE, MIXED, TEN, DegradationError, check, degrade, line


@pytest.fixture(scope="module")
def image(pictures):
    return pictures[0].clean


@pytest.mark.parametrize("kind", sorted({*FIVE, *TEN, *MIXED}))
def test_a_degradation_is_a_pure_function_of_seed_and_image(image, kind):
    made = degrade(image, kind, seed=1, index=2)
    assert made.shape == image.shape and made.dtype == np.float32 and np.isfinite(made).all()
    np.testing.assert_array_equal(made, degrade(image, kind, seed=1, index=2))
    assert 3 < quality.psnr(made, image) < 40
    for other in ({"seed": 2, "index": 2}, {"seed": 1, "index": 3}, {"seed": 1, "index": 2, "draw": 1}):
        if kind not in ("mosaic", "jpeg"):  # the first has no chance in it, the second five qualities
            assert (degrade(image, kind, **other) != made).any()


def test_noise_has_its_deviation_and_is_not_clipped(image):
    noise = degrade(np.ones((200, 200, 3), np.float32), "noise:25", seed=0, index=0) - 1
    assert noise.std() == pytest.approx(25 / 255, rel=0.01) and noise.max() > 0
    drawn = [float(degrade(image * 0, "noise", seed=0, index=i).std()) * 255 for i in range(12)]
    nearest = {min((15, 25, 50), key=lambda sigma: abs(sigma - x)): x for x in drawn}
    assert len(nearest) == 3 and all(x == pytest.approx(sigma, rel=0.05) for sigma, x in nearest.items())


def test_haze_moves_towards_its_light_and_low_light_darkens(image):
    assert degrade(image, "haze", seed=0, index=0).std() < 0.8 * image.std()
    assert degrade(image, "low_light", seed=0, index=0).mean() < 0.5 * image.mean()
    assert degrade(image, "rain", seed=0, index=0).mean() > image.mean()


def test_a_blur_keeps_flat_images_and_the_mosaic_keeps_what_it_has(image):
    flat = np.full((40, 40, 3), 0.3, np.float32)
    for kind in ("motion_blur", "defocus_blur", "mosaic"):
        np.testing.assert_allclose(degrade(flat, kind, seed=0, index=0), flat, atol=1e-5)
    made = degrade(image, "mosaic", seed=0, index=0)
    np.testing.assert_array_equal(made[::2, ::2, 0], image[::2, ::2, 0])
    np.testing.assert_array_equal(made[1::2, 1::2, 2], image[1::2, 1::2, 2])


def test_lines_have_length_and_sum():
    for angle in (0, 37, 90):
        assert line(9, angle).sum() == pytest.approx(1)
    assert (line(9, 0).sum(1) > 1e-9).sum() == 1 and (line(9, 0).sum(0) > 1e-9).sum() == 9


def test_a_mixture_is_its_parts_in_the_order_of_the_world(image):
    mixed = degrade(image, "haze+low_light", seed=0, index=0)
    np.testing.assert_array_equal(mixed, degrade(image, "low_light+haze", seed=0, index=0))
    in_turn = degrade(degrade(image, "low_light", seed=0, index=0), "haze", seed=0, index=0)
    np.testing.assert_array_equal(mixed, in_turn)


@pytest.mark.parametrize(
    "kind, said",
    [
        ("nois", "kinds: no degradation 'nois'; did you mean 'noise'"),
        ("rain:3", "rain has no level"),
        ("noise:50-20", "needs a sigma of 8-bit values between 0 and 255"),
        ("jpeg:x", "needs a quality between 1 and 100"),
        ("haze+snw", "no degradation 'snw'"),
    ],
)
def test_unknown_kinds_are_named(kind, said):
    with pytest.raises(DegradationError, match=said):
        check([kind], "kinds")


def test_psnr_is_of_rounded_bytes():
    truth = np.full((12, 12, 3), 100 / 255)
    assert quality.psnr(truth + 10 / 255, truth) == pytest.approx(20 * np.log10(255 / 10))
    assert quality.psnr(truth + 0.3 / 255, truth) == np.inf  # rounds to the same byte
    assert quality.psnr(truth + 2, truth) == pytest.approx(20 * np.log10(255 / 155))  # clipped


def test_ssim_is_that_of_scikit_image(image):
    metrics = pytest.importorskip("skimage.metrics")
    noisy = degrade(image, "noise:25", seed=0, index=0)
    x, y = ((np.clip(z, 0, 1) * 255).round().astype(np.uint8) for z in (noisy, image))
    expected = metrics.structural_similarity(
        x, y, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert quality.ssim(noisy, image) == pytest.approx(expected, abs=1e-7)


def test_ssim_of_one_window_by_hand(image):
    x, y = image[:11, :11], degrade(image, "noise:25", seed=0, index=0)[:11, :11]
    g = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    w = np.outer(g, g)[..., None] / np.outer(g, g).sum()
    a, b = ((np.clip(z, 0, 1) * 255).round() for z in (x, y))
    mean_a, mean_b = (w * a).sum((0, 1)), (w * b).sum((0, 1))
    var_a, var_b = (w * (a - mean_a) ** 2).sum((0, 1)), (w * (b - mean_b) ** 2).sum((0, 1))
    cov = (w * (a - mean_a) * (b - mean_b)).sum((0, 1))
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mean_a * mean_b + c1) * (2 * cov + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    assert quality.ssim(x, y) == pytest.approx(expected.mean(), abs=1e-9)
    assert quality.ssim(x, x) == pytest.approx(1)
    with pytest.raises(ValueError, match="a window has 11x11"):
        quality.ssim(x[:10], x[:10])
