"""Continual pre-training of Llama 3.1 8B on your domain, with replay, at the share that a study recommends.

    hf download meta-llama/Llama-3.1-8B --local-dir weights/llama-3.1-8b
    cptlaw prepare --config configs/llama_8b.py --workdir /shared/runs/llama     # tokens, on CPUs, once
    CONFIG=configs/llama_8b.py WORKDIR=/shared/runs/llama sbatch --nodes=1 --gpus-per-node=8 --ntasks-per-node=8 \
        --time=48:00:00 launch/slurm/train.sh --size=8b --share=domain=0.3
    CONFIG=configs/llama_8b.py WORKDIR=/shared/runs/llama TPU=cpt ZONE=us-west4-a CHIPS=64 \
        bash launch/tpu/train.sh --size=8b --share=domain=0.3

Ten billion tokens, half a million a step. The arithmetic, of `cptlaw footprint --config configs/llama_8b.py
--devices 8 --gib 80` and `--devices 64 --platform tpu --gib 16 --tflops 197`, at 40% of the peak:

    size   FLOPs/token  runs     tokens      FLOPs          8 x H100            64 x v5e
    8b     4.82e+10      1   1.00e+10   4.82e+20    56.8 GiB  42.3 h     8.0 GiB  26.6 h

339 H100-hours or 1,701 chip-hours of v5e; four evaluations add less than 1%. GiB are of a device in a training step, an
estimate; XLA's TPU compiler assigns 8.07 a chip (`--topology v5e:8x8`). A checkpoint is 96 GB, and two are kept.
Expected losses: your corpora's own.
"""

from ml_collections import ConfigDict

STEP = 128 * 4096  # tokens


def get_config(weights: str = "weights") -> ConfigDict:
    """The config; `weights` is where the downloaded models are (configs/llama_8b.py:/data/weights)."""
    return ConfigDict(
        {
            "name": "llama_8b",
            "corpora": {
                # Folders of .jsonl.zst, .jsonl.gz, .parquet or text files, mixed as you like.
                "web": {"source": "corpora/web", "validation_bytes": 40_000_000},
                "domain": {"source": "corpora/domain", "validation_bytes": 40_000_000},
            },
            "general": "web",
            "domains": ("domain",),
            "vocabulary": {"kind": "file", "path": f"{weights}/llama-3.1-8b"},
            "seq_len": 4096,
            "batch_size": 128,
            "eval_batch_size": 64,
            "eval_max_tokens": 4_000_000,
            "model": {"dtype": "bfloat16", "scan_layers": True, "remat": "full"},
            "sizes": {"8b": {}},
            "init_from": {"8b": f"{weights}/llama-3.1-8b"},
            "base": None,
            "mesh": {"data": 1, "fsdp": -1},
            "cpt": {
                "tokens": 19_072 * STEP,
                "peak_lr": 3e-5,
                "warmup_tokens": 128 * STEP,
                "schedule": "wsd",
                "cooldown_tokens": 1_920 * STEP,
            },
            "eval_tokens": tuple(steps * STEP for steps in (1024, 4096, 9536, 19_072)),
            "grid": {"8b": {"domain_shares": (0.3,)}},
            "held_out": {"size": "8b", "tokens": 9536 * STEP},
        }
    )
