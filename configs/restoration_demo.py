"""The pilot of `cptlaw restoration demo`: does a step of degradation classification pre-training pay, at a small size?

    cptlaw restoration demo                          # photographs inside installed packages; 2 CPU cores

NAFNet of width 12 with one block a level, 0.16M parameters, on crops of 32 pixels. FLOPs of a step (`networks.flops`)
make a step of pre-training 2.6 of fine-tuning, counted: 120 steps cost as much as 312. Steps of fine-tuning over two
seeds:

    scratch, read off the next     0
    scratch at equal compute       2 x (600 + 312)
    generation, DCPT, shuffled     3 x 2 x 600, and 3 x 2 x 120 of pre-training

5,424 steps of fine-tuning, 240 of generation alone and 480 of DCPT. By measurements of like steps in CPU seconds one
takes about 0.1 s, and one of DCPT 0.25 s, on two cores: 11 minutes, and one or two for the first compilation and the
degrading of images. The whole has not been timed.

Choices:
- A constant rate and an average of the weights, so that every test is that of a run of its own length and one long run
  from scratch answers for all shorter ones.
- coffee and china are held out: chelsea and flower are so smooth that a motion blur of 7 to 15 pixels leaves 33 dB.
- It is a sign of direction. The paper's claim is of 7 million times the compute.
"""

from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    """The config; `tiny` is a minute, to see the loop run and nothing more."""
    config = ConfigDict(
        {
            "name": "restoration_demo",
            "images": {"kind": "packages", "held_out": ("coffee", "china"), "side": 512},
            "kinds": ("rain", "noise", "haze", "low_light", "motion_blur"),
            "draws": 2,
            "network": {"kind": "nafnet", "width": 12, "encoder": (1, 1, 1), "middle": 1, "decoder": (1, 1, 1)},
            "blocks": 1,
            "expansion": 1,
            "pretrain": {
                "kind": "dcpt", "steps": 120, "batch_size": 8, "crop": 32, "peak": 1e-3, "classifier_peak": 1e-3,
                "decay": "constant",
            },
            "fine_tune": {
                "kind": "fine_tune", "steps": 600, "batch_size": 8, "crop": 32, "peak": 1e-3, "decay": "constant",
                "ema": 0.98, "clip": 1.0,
            },
            "test": {"patch": 64, "each": 8, "probe": 2},
            "evaluations": 6,
            "seeds": (0, 1),
        }
    )  # fmt: skip
    if variant == "tiny":
        config.update(
            {
                "name": "restoration_demo_tiny",
                "kinds": ("noise", "haze"),
                "network": {"width": 4, "encoder": (1,), "decoder": (1,)},
                "pretrain": {"steps": 2, "batch_size": 2, "crop": 16},
                "fine_tune": {"steps": 4, "batch_size": 2, "crop": 16},
                "images": {"side": 128},
                "test": {"patch": 32, "each": 1, "probe": 1},
                "evaluations": 2,
            }
        )
    elif variant:
        raise ValueError(f"no variant {variant!r}; there is tiny")
    return config
