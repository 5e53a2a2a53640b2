"""All-in-one restoration of ten degradations at the paper's size: DCPT of NAFNet, arXiv 2501.15510.

    cptlaw restoration study configs/restoration_10d.py --workdir runs/restoration_10d

As configs/restoration_5d.py, with ten classes, noise of any sigma from 1 to 50, and 500k steps of fine-tuning of 32
crops at 2.5e-4, falling to 1e-5: 1.06e18 FLOPs of pre-training and 1.52e18 of fine-tuning, 2.6e18 an arm with both.
Expected, of the paper's table: 29.72 dB in the mean of its ten test sets, 27.17 from scratch as quoted there.

Made degradations are simpler than the paper's data sets in all of blur, haze, rain and snow
(`cptlaw.restoration.degradations` says how); JPEG, noise, mosaic and inpainting lines are much the same.
"""

from ml_collections import ConfigDict

from cptlaw.configs import restoration_5d


def get_config(pairs: str = "") -> ConfigDict:
    """The config; `pairs` as of configs/restoration_5d.py."""
    config = restoration_5d.get_config(pairs)
    config.name = "restoration_10d"
    noise = "noise" if pairs else "noise:1-50"
    config.kinds = (
        noise, "motion_blur", "defocus_blur", "jpeg", "haze", "rain", "snow", "mosaic", "low_light", "inpainting",
    )  # fmt: skip
    config.fine_tune.update({"steps": 500_000, "batch_size": 32, "peak": 2.5e-4, "final": 1e-5})
    config.evaluations = 10
    return config
