"""A D-CPT study on Pythia 70M, 160M and 410M: general web text continued on scientific papers.

    hf download EleutherAI/pythia-70m-deduped --local-dir weights/pythia-70m        # and 160m, 410m
    tfds build c4/en scientific_papers/arxiv                                        # or where $TFDS_DATA_DIR has them
    cptlaw prepare --config configs/pythia.py --workdir /shared/runs/pythia      # tokens, on CPUs, once
    CONFIG=configs/pythia.py WORKDIR=/shared/runs/pythia sbatch --array=0-7 --gpus=1 launch/slurm/grid.sh

Each run has a device, or a host of 4 chips, to itself. The arithmetic, of `cptlaw footprint --config
configs/pythia.py --devices 1 --gib 80` and `--devices 4 --platform tpu --gib 16 --tflops 197`, at 40% of the peak:

    size   FLOPs/token  runs     tokens      FLOPs          1 x H100             4 x v5e
    70m    3.06e+08     13   2.79e+10   8.53e+18     8.9 GiB   6.0 h     2.9 GiB   7.5 h
    160m   8.55e+08      6   1.29e+10   1.10e+19    15.0 GiB   7.7 h     5.5 GiB   9.7 h
    410m   2.42e+09      3   6.44e+09   1.56e+19    25.8 GiB  11.0 h    11.3 GiB  13.8 h

3.5e19 FLOPs: 25 H100-hours, 4 hours on 8 (the longest run takes 3.7), or 124 chip-hours of v5e; evaluations add less
than 1%. GiB are of a device in a training step. Expected losses:
none have been measured.

Choices:
- Constant learning rate after re-warm-up, so that every checkpoint is a run of its own length; see configs/demo.py.
- Of C4 12 GB of text are taken, about 2.7 billion tokens: no run reads a document of it twice.
- The paper's nine shares at the smallest size, fewer where a run costs more; the largest size judges the law.
"""

from ml_collections import ConfigDict

STEP = 64 * 2048  # tokens, the paper's 131,072


def get_config(weights: str = "weights") -> ConfigDict:
    """The config; `weights` is where the downloaded models are (configs/pythia.py:/data/weights)."""
    return ConfigDict(
        {
            "name": "pythia",
            "corpora": {
                "web": {"source": "tfds:c4/en:3.1.0", "max_bytes": 12_000_000_000, "validation_bytes": 20_000_000},
                "papers": {
                    "source": "tfds:scientific_papers/arxiv:1.1.1",
                    "text_field": "article",
                    "validation_bytes": 20_000_000,
                },
            },
            "general": "web",
            "domains": ("papers",),
            "vocabulary": {"kind": "file", "path": f"{weights}/pythia-70m"},
            "seq_len": 2048,
            "batch_size": 64,
            "eval_batch_size": 64,
            "eval_max_tokens": 2_000_000,
            "model": {"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
            "sizes": {"70m": {}, "160m": {}, "410m": {}},
            "init_from": {size: f"{weights}/pythia-{size}" for size in ("70m", "160m", "410m")},
            "base": None,
            "cpt": {"tokens": 16_384 * STEP, "peak_lr": 3e-4, "warmup_tokens": 128 * STEP},
            "eval_tokens": tuple(steps * STEP for steps in (1024, 2048, 4096, 8192, 16_384)),
            "grid": {
                "70m": {
                    "domain_shares": (0.0, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0),
                    "repeat_shares": (0.2, 0.67),
                    "repeat_seeds": (1, 2),
                },
                "160m": {"domain_shares": (0.0, 0.1, 0.33, 0.5, 0.67, 0.9)},
                "410m": {"domain_shares": (0.1, 0.5, 0.9)},
            },
            "held_out": {"size": "410m", "tokens": 8192 * STEP},
        }
    )
