"""The D-CPT paper's models on a tenth of its tokens: Qwen1.5 0.5B, 1.8B and 4B, web text continued on medicine.

    hf download Qwen/Qwen1.5-0.5B --local-dir weights/qwen1.5-0.5b                  # and 1.8B, 4B
    tfds build c4/en scientific_papers/pubmed                                       # or where $TFDS_DATA_DIR has them
    cptlaw prepare --config configs/qwen.py --workdir /shared/runs/qwen          # tokens, on CPUs, once
    CONFIG=configs/qwen.py WORKDIR=/shared/runs/qwen TPU=cpt ZONE=us-west4-a CHIPS=64 \
        bash launch/tpu/train.sh --size=4b --share=medicine=0.2                     # and so on, a run at a time
    cptlaw sweep --config configs/qwen.py --workdir /shared/runs/qwen            # on one node of 8 H100

Every run is sharded over all devices (fsdp). The arithmetic, of `cptlaw footprint --config configs/qwen.py
--devices 8 --gib 80` and `--devices 64 --platform tpu --gib 16 --tflops 197`, at 40% of the peak:

    size   FLOPs/token  runs     tokens      FLOPs          8 x H100            64 x v5e
    0_5b   3.09e+09     11   2.36e+10   7.29e+19     3.1 GiB   6.4 h     0.4 GiB   4.0 h
    1_8b   9.76e+09      4   8.59e+09   8.38e+19     8.0 GiB   7.4 h     1.2 GiB   4.6 h
    4b     2.26e+10      2   4.29e+09   9.72e+19    14.8 GiB   8.5 h     2.2 GiB   5.4 h

2.5e20 FLOPs: 22 hours on 8 H100 (178 device-hours) or 14 on a v5e-64 (895 chip-hours); evaluations add less than 1%.
At a row a chip the small sizes will not reach 40% on 64 of them. GiB are of a device in a training step. Expected
losses: none have been measured; the paper's general loss of 1.8B is 2.86 before it is continued.
"""

from ml_collections import ConfigDict

STEP = 64 * 2048  # tokens, the paper's 131,072


def get_config(weights: str = "weights") -> ConfigDict:
    """The config; `weights` is where the downloaded models are (configs/qwen.py:/data/weights)."""
    return ConfigDict(
        {
            "name": "qwen",
            "corpora": {
                "web": {"source": "tfds:c4/en:3.1.0", "max_bytes": 26_000_000_000, "validation_bytes": 20_000_000},
                "medicine": {
                    "source": "tfds:scientific_papers/pubmed:1.1.1",
                    "text_field": "article",
                    "validation_bytes": 20_000_000,
                },
            },
            "general": "web",
            "domains": ("medicine",),
            "vocabulary": {"kind": "file", "path": f"{weights}/qwen1.5-0.5b"},
            "seq_len": 2048,
            "batch_size": 64,
            "eval_batch_size": 64,
            "eval_max_tokens": 2_000_000,
            "model": {"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
            "sizes": {"0_5b": {}, "1_8b": {}, "4b": {}},
            "init_from": {size: f"{weights}/qwen1.5-{size.replace('_', '.')}" for size in ("0_5b", "1_8b", "4b")},
            "base": None,
            "mesh": {"data": 1, "fsdp": -1},
            "cpt": {"tokens": 16_384 * STEP, "peak_lr": 1e-4, "warmup_tokens": 128 * STEP},
            "eval_tokens": tuple(steps * STEP for steps in (1024, 2048, 4096, 8192, 16_384)),
            "grid": {
                "0_5b": {
                    "domain_shares": (0.0, 0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 0.9, 1.0),
                    "repeat_shares": (0.33,),
                    "repeat_seeds": (1, 2),
                },
                "1_8b": {"domain_shares": (0.0, 0.2, 0.5, 0.8)},
                "4b": {"domain_shares": (0.2, 0.5)},
            },
            "held_out": {"size": "4b", "tokens": 8192 * STEP},
        }
    )
