"""All-in-one restoration of five degradations at the paper's size: DCPT of NAFNet, arXiv 2501.15510.

    cptlaw restoration study configs/restoration_5d.py --workdir runs/restoration_5d       # see "Data"

NAFNet of width 64, 67.888835M parameters, and its classifier of 49.290505M, float32. Multiplications of a crop of 128:
15.9e9 of the network and 23.4e9 of the classifier, so that

    phase        steps    crops a step    FLOPs a crop    FLOPs
    DCPT         100k     32              3.3e11          1.06e18      3.5 steps of fine-tuning a step
    fine-tuning  750k     24              9.5e10          1.71e18

2.8e18 FLOPs an arm with pre-training: at 40% of a H100's 495e12 in TF32 4 hours of one, and more likely a day, since a
network of small convolutions seldom reaches 10%. Weights, gradient, moments and average of the pair: 117M x 4 bytes x
5 = 2.3 GB. Expected, of the paper's table: 29.84 dB in the mean of its five test sets, 27.76 from scratch as quoted
there. On other images it will be another; the baselines were not trained with this data.

Data: a folder of the pairs of the public sets, TYPE/degraded/NAME and TYPE/clean/NAME with the types below. The images
of the paper's tests are named in `held_out` by hand, or by a share of the files. Images are kept in memory: 5,000 of
0.5 megapixels are 30 GB, so choose `most` by what the host has.

Where this is not the paper: the pre-training's cosine over a million steps, stopped after 100k, is a constant rate
here; the average of the weights is corrected for its start; test images are cut to patches, without local average
pooling.
"""

from ml_collections import ConfigDict


def get_config(pairs: str = "") -> ConfigDict:
    """The config; `pairs` is the folder of image pairs (configs/restoration_5d.py:/data/five). Without it the
    degradations are made, of the photographs inside packages."""
    images = {"kind": "packages"}
    if pairs:
        images = {"kind": "pairs", "path": pairs, "held_out": (), "held_out_share": 0.02}
    return ConfigDict(
        {
            "name": "restoration_5d",
            "images": images,
            "kinds": ("rain", "noise", "haze", "low_light", "motion_blur"),
            "network": {"kind": "nafnet", "width": 64, "encoder": (1, 1, 1, 28), "middle": 1, "decoder": (1, 1, 1, 1)},
            "pretrain": {
                "kind": "dcpt", "steps": 100_000, "batch_size": 32, "crop": 128, "peak": 3e-4, "classifier_peak": 1e-4,
                "decay": "constant", "classifier_weight_decay": 1e-4,
            },
            "fine_tune": {
                "kind": "fine_tune", "steps": 750_000, "batch_size": 24, "crop": 128, "peak": 3e-4, "decay": "cosine",
                "final": 1e-6, "clip": 0.01, "ema": 0.999,
            },
            "test": {"patch": 128, "each": 8, "probe": 4},
            "evaluations": 15,
            "seeds": (0, 1, 2),
        }
    )  # fmt: skip
