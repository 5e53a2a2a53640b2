"""Degradations of whole images in NumPy, as pure functions of (seed, image, draw).

Each is named, and may carry a level: `noise` draws sigma from 15, 25 and 50, `noise:25` has 25, `noise:1-50` any
between. `a+b` is a mixture. The five types and the ten of the paper are `FIVE` and `TEN`. What is made here is simpler
than the paper's data sets: motion blur is a straight line and not the mean of video frames, haze and defocus know no
measured depth, rain and snow are not filmed, and the mosaic is filled in by averages of its neighbours.
"""

import io
import zlib
from collections.abc import Callable, Collection

import numpy as np
from scipy import ndimage, signal

from cptlaw.errors import UserError, did_you_mean

Image = np.ndarray  # float32 (H, W, 3)
Random = np.random.Generator
Range = tuple[float, float] | None
Degradation = Callable[[Image, Random, Range], np.ndarray]

FIVE = ("rain", "noise", "haze", "low_light", "motion_blur")
TEN = (
    "noise:1-50", "motion_blur", "defocus_blur", "jpeg", "haze", "rain", "snow", "mosaic", "low_light", "inpainting",
)  # fmt: skip
# The eleven of CDD-11 (Guo et al., "OneRestore", ECCV 2024): singles, pairs and triples.
MIXED = (
    "low_light", "haze", "rain", "snow", "low_light+haze", "low_light+rain", "low_light+snow", "haze+rain",
    "haze+snow", "low_light+haze+rain", "low_light+haze+snow",
)  # fmt: skip
# In what order the parts of a mixture happen, whatever the order in its name: in the scene, the air, then the camera.
_ORDER = (
    "low_light", "rain", "snow", "haze", "motion_blur", "defocus_blur", "mosaic", "noise", "jpeg", "inpainting",
)  # fmt: skip


class DegradationError(UserError):
    """A degradation that is unknown, or has a level that it cannot have."""


def degrade(image: Image, kind: str, *, seed: int, index: int, draw: int = 0) -> Image:
    """The degraded image, float32 (H, W, 3). Noise is not clipped, so values may leave [0, 1].

    Args:
      image: (H, W, 3), values in [0, 1].
      kind: a name, with a level or without, or a mixture.
      seed, index, draw: what alone decides the randomness: of the data set, the image in it, and which of its draws.

    Raises DegradationError for a kind that does not exist.
    """
    out = np.asarray(image, np.float32)
    for part in sorted(kind.split("+"), key=lambda part: _ORDER.index(parse(part)[0])):
        name, level = parse(part)
        # crc32 and not hash: the same in every process. Sequences of integers seed independent streams.
        rng = np.random.default_rng([seed, index, draw, zlib.crc32(name.encode())])
        out = KINDS[name](out, rng, level).astype(np.float32)
    return out


def check(kinds: Collection[str], field: str) -> None:
    """Raises DegradationError naming `field` when one of the kinds does not exist."""
    for kind in kinds:
        for part in kind.split("+"):
            parse(part, field)


def parse(part: str, field: str = "degradation") -> tuple[str, Range]:
    """`noise:1-50` -> (noise, (1, 50)). Raises DegradationError."""
    name, colon, level = part.partition(":")
    if name not in KINDS:
        hint = did_you_mean(name, KINDS)
        raise DegradationError(f"{field}: no degradation {name!r}; {hint or 'there are ' + ', '.join(KINDS)}")
    if not colon:
        return name, None
    if name not in _LEVELS:
        raise DegradationError(f"{field}: {name} has no level, so write {name!r} and not {part!r}")
    unit, low, high = _LEVELS[name]
    try:
        first, _, last = level.partition("-")
        bounds = float(first), float(last or first)
    except ValueError:
        bounds = high, low
    if not low <= bounds[0] <= bounds[1] <= high:
        raise DegradationError(f"{field}: {part!r} needs {unit} between {low:g} and {high:g}, such as {name}:25")
    return name, bounds


def _rain(x: Image, rng: Random, _: Range) -> np.ndarray:
    """Drops on 1 to 4% of the pixels, drawn out along a steep line, and added."""
    return np.clip(x + _streaks(x.shape[:2], rng, rng.uniform(0.01, 0.04), (9, 15), rng.uniform(60, 120)), 0, 1)


def _streaks(size: tuple[int, ...], rng: Random, density: float, lengths: tuple[int, int], angle: float) -> np.ndarray:
    drops = (rng.random(size) < density) * rng.uniform(0.5, 1, size)
    kernel = line(int(rng.integers(lengths[0], lengths[1] + 1)), angle)
    return rng.uniform(3, 6) * np.maximum(signal.fftconvolve(drops, kernel, "same"), 0)[..., None]


def _noise(x: Image, rng: Random, level: Range) -> np.ndarray:
    """Gaussian, not clipped."""
    sigma = float(rng.choice([15, 25, 50])) if level is None else rng.uniform(*level)
    return x + rng.normal(0, sigma / 255, x.shape)


def _haze(x: Image, rng: Random, _: Range) -> np.ndarray:
    """x t + a (1 - t), t = exp(-beta d), of a smooth random depth d between 0 and 2."""
    coarse = rng.random((4, 4))
    depth = ndimage.zoom(coarse, [n / 4 for n in x.shape[:2]], order=1, grid_mode=True, mode="nearest")
    depth = depth[: x.shape[0], : x.shape[1]]
    t = np.exp(-rng.uniform(0.5, 1.6) * 2 * depth)[..., None]
    return x * t + rng.uniform(0.7, 1) * (1 - t)


def _low_light(x: Image, rng: Random, _: Range) -> np.ndarray:
    """A curve, a factor, and the noise of a camera in the dark."""
    dark = rng.uniform(0.15, 0.4) * np.clip(x, 0, 1) ** rng.uniform(1.3, 2.2)
    return np.clip(dark + rng.normal(0, 3 / 255, x.shape), 0, 1)


def _motion_blur(x: Image, rng: Random, _: Range) -> np.ndarray:
    return _convolved(x, line(int(rng.integers(7, 16)), rng.uniform(0, 180)))


def _defocus_blur(x: Image, rng: Random, _: Range) -> np.ndarray:
    """A disc, equal over the image."""
    radius = rng.uniform(2, 5)
    n = int(np.ceil(radius))
    y, z = np.mgrid[-n : n + 1, -n : n + 1]
    disc = np.clip(radius + 0.5 - np.hypot(y, z), 0, 1)
    return _convolved(x, disc / disc.sum())


def _jpeg(x: Image, rng: Random, level: Range) -> np.ndarray:
    """Quality 10, 20, 30, 40 or 50."""
    from PIL import Image as pictures

    quality = int(rng.choice([10, 20, 30, 40, 50])) if level is None else round(rng.uniform(*level))
    buffer = io.BytesIO()
    pictures.fromarray(to_bytes(x)).save(buffer, "JPEG", quality=quality)
    return np.asarray(pictures.open(buffer), np.float32) / 255


def _snow(x: Image, rng: Random, _: Range) -> np.ndarray:
    """Flakes of three sizes, blurred by their fall, in front of the image."""
    mask = np.zeros(x.shape[:2])
    for size in (0.6, 1.0, 1.7):
        flakes = ndimage.gaussian_filter((rng.random(mask.shape) < 0.004 / size).astype(np.float64), size)
        mask += signal.fftconvolve(
            flakes * 2 * np.pi * size**2, line(int(rng.integers(3, 8)), rng.uniform(60, 120)), "same"
        )
    cover = np.clip(rng.uniform(1, 2) * mask, 0, 1)[..., None]
    return x * (1 - cover) + rng.uniform(0.85, 1) * cover


def _mosaic(x: Image, rng: Random, _: Range) -> np.ndarray:
    """One colour a pixel (Bayer, RGGB); the others are averages of the neighbours that have them."""
    rows, columns = np.indices(x.shape[:2]) % 2
    has = np.stack([(rows == 0) & (columns == 0), rows != columns, (rows == 1) & (columns == 1)], -1).astype(float)
    kernel = np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])

    def summed(channel: np.ndarray) -> np.ndarray:
        return ndimage.convolve(channel, kernel, mode="constant")

    filled = np.stack([summed(x[..., c] * has[..., c]) / summed(has[..., c]) for c in range(3)], -1)
    return np.where(has > 0, x, filled)


def _inpainting(x: Image, rng: Random, _: Range) -> np.ndarray:
    """5 to 10 straight lines, 5 to 10 pixels thick, white or black."""
    H, W = x.shape[:2]
    y, z = np.mgrid[:H, :W]
    out = np.array(x)
    for _line in range(rng.integers(5, 11)):
        (y0, y1), (z0, z1), thick = rng.uniform(0, H, 2), rng.uniform(0, W, 2), rng.uniform(5, 10)
        along = np.hypot(y1 - y0, z1 - z0) + 1e-9
        share = ((y - y0) * (y1 - y0) + (z - z0) * (z1 - z0)) / along**2
        across = abs((y - y0) * (z1 - z0) - (z - z0) * (y1 - y0)) / along
        out[(across <= thick / 2) & (share >= 0) & (share <= 1)] = float(rng.integers(2))
    return out


def line(length: int, angle: float) -> np.ndarray:
    """A blur kernel of sum 1: a line of `length` pixels at `angle` degrees from the row."""
    n = length // 2 + 1
    y, z = np.mgrid[-n : n + 1, -n : n + 1]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    weight = np.clip(1 - abs(y * c - z * s), 0, 1) * np.clip(length / 2 + 0.5 - abs(z * c + y * s), 0, 1)
    return weight / weight.sum()


def _convolved(x: Image, kernel: np.ndarray) -> np.ndarray:
    """Mirrored beyond the border."""
    n = kernel.shape[0] // 2
    padded = np.pad(x, ((n, n), (n, n), (0, 0)), "symmetric")
    return np.clip(signal.fftconvolve(padded, kernel[..., None], "valid", axes=(0, 1)), 0, 1)


def to_bytes(x: Image) -> np.ndarray:
    """Clipped and rounded to uint8."""
    return (np.clip(x, 0, 1) * 255).round().astype(np.uint8)


KINDS: dict[str, Degradation] = {
    "rain": _rain,
    "noise": _noise,
    "haze": _haze,
    "low_light": _low_light,
    "motion_blur": _motion_blur,
    "defocus_blur": _defocus_blur,
    "jpeg": _jpeg,
    "snow": _snow,
    "mosaic": _mosaic,
    "inpainting": _inpainting,
}
_LEVELS = {"noise": ("a sigma of 8-bit values", 0.0, 255.0), "jpeg": ("a quality", 1.0, 100.0)}
