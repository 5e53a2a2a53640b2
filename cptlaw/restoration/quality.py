"""PSNR and SSIM as restoration papers give them: RGB, no border left out, values clipped and rounded to 8 bits."""

import numpy as np
from scipy import ndimage

from cptlaw.restoration.degradations import to_bytes


def psnr(restored: np.ndarray, truth: np.ndarray) -> float:
    """10 log10(255^2 / mean squared error) in dB, of two images (H, W, 3) in [0, 1]; infinite for equal ones."""
    difference = to_bytes(restored).astype(np.float64) - to_bytes(truth)
    error = float((difference**2).mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def ssim(restored: np.ndarray, truth: np.ndarray) -> float:
    """Wang et al. 2004: Gaussian windows of 11x11 and deviation 1.5 that lie within the image, mean over channels.

    Raises ValueError for images smaller than a window.
    """
    if min(truth.shape[:2]) < 11:
        raise ValueError(f"ssim: images of {truth.shape[:2]} pixels; a window has 11x11")
    x, y = to_bytes(restored).astype(np.float64), to_bytes(truth).astype(np.float64)

    def mean(z: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(z, (1.5, 1.5, 0), radius=(5, 5, 0))[5:-5, 5:-5]

    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y, cov = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2, mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    like = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(like.mean())
