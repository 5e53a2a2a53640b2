"""The demo: English prose continued on Python source code (or biomedical text), three sizes, one recommendation.

    cptlaw demo                                          the whole loop
    cptlaw sweep --config configs/demo.py --workdir runs/demo        its grid alone
    cptlaw sweep --config configs/demo.py:biomedical ...             the other domain
    cptlaw sweep --config configs/demo.py:fast ...                   about two minutes, for a first look

The arithmetic (FLOPs a token are training FLOPs, 6 a weight of every matmul and attention on top; a step is 8 x 64 =
512 tokens, few on purpose: at a fixed number of tokens these models learn far more from many small steps than from few
large ones):

    size     non-embedding   FLOPs/token   base 1.3M tokens   one run of 0.79M   runs   together
    small        0.027M         0.38M          0.5 TFLOP          0.3 TFLOP       10     3.5 TFLOP
    medium       0.099M         1.0M           1.4 TFLOP          0.8 TFLOP        6     6.2 TFLOP
    large        0.32M          2.6M           3.5 TFLOP          2.1 TFLOP        3     9.7 TFLOP

19.4 TFLOP, and the confirming run's 2.1. A core does 60 to 100 GFLOP/s on such models (AVX-512; half of it without), so
two cores take 2 to 5 minutes for the grid and 20 seconds to a minute for the confirming run. Expected losses (nats per
token): base prose 4.1, 3.75, 3.55 by size; code at a share of a half 3.4, 3.1, 2.8.

Choices that make so small a study informative:
- The learning rate of continual pre-training is constant after its re-warm-up, at the rate at which the base's
  cool-down ends. Every checkpoint is then a run of its own length: tokens are not confounded with a decaying schedule.
- Shares stop at 0.9. Without any replay the general loss rises with tokens, which the D-CPT Law cannot show.
- The law of each corpus is chosen by how well it predicts the grid's own later rows (`auto`), without the paper's
  constraint (eta > 1, C > C0). The constraint says that tokens help more at high shares; here the base has never seen
  code, so its code loss depends on domain tokens, r D, and falls as fast at a low share as at a high one: with the
  constraint the fit's mean error on code is five times as large.
- Heads of 32 channels and evaluation batches of 1,024 tokens are what a CPU is fast at (benchmarks/cpu_step.py).
- Two cells of the small model are repeated with two more seeds, which measures the noise between runs.
"""

from ml_collections import ConfigDict

STEP = 8 * 64  # tokens


def get_config(variant: str = "") -> ConfigDict:
    """The config; `variant` is a comma-separated subset of biomedical, fast."""
    config = ConfigDict(
        {
            "name": "demo",
            "corpora": {
                "prose": {"source": "recipe:wikipedia_leads"},
                "code": {"source": "recipe:python_stdlib"},
                "biomedical": {"source": "recipe:biomedical"},
            },
            "general": "prose",
            "domains": ("code",),
            "vocabulary": {"kind": "sentencepiece", "size": 1024},
            "seq_len": 64,
            "batch_size": 8,
            "eval_batch_size": 16,
            "eval_max_tokens": 24_000,
            "model": {"d_model": 32, "layers": 2, "heads": 1, "kv_heads": 1, "d_ff": 96},
            "sizes": {
                "small": {},
                "medium": {"d_model": 64, "heads": 2, "kv_heads": 1, "d_ff": 192},
                "large": {"d_model": 96, "layers": 3, "heads": 3, "kv_heads": 1, "d_ff": 288},
            },
            "base": {
                "tokens": 2560 * STEP,
                "peak_lr": 3e-3,
                "warmup_tokens": 64 * STEP,
                "schedule": "wsd",
                "cooldown_tokens": 640 * STEP,
                "final_lr": 1e-3,
            },
            "cpt": {"tokens": 1536 * STEP, "peak_lr": 1e-3, "warmup_tokens": 16 * STEP},
            "eval_tokens": tuple(steps * STEP for steps in (96, 192, 384, 768, 1536)),
            "grid": {
                "small": {
                    "domain_shares": (0.0, 0.1, 0.25, 0.5, 0.75, 0.9),
                    "repeat_shares": (0.25, 0.75),
                    "repeat_seeds": (1, 2),
                },
                "medium": {"domain_shares": (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)},
                "large": {"domain_shares": (0.1, 0.5, 0.9)},
            },
            "held_out": {"size": "large", "tokens": 768 * STEP},
            "fit": {"law": "auto", "bootstrap": 1000},
            "question": {"tolerance": 0.03},
            "workers": 0,
            "together": 0,
            "checkpoint_seconds": 60.0,
            "seed": 0,
        }
    )
    for name in filter(None, variant.split(",")):
        if name == "biomedical":
            config.domains = ("biomedical",)
        elif name == "fast":
            _fast(config)
        else:
            raise ValueError(f"configs/demo.py has the variants biomedical and fast, not {name!r}")
    return config


def _fast(config: ConfigDict) -> None:
    """Half of the runs, a sixth of the tokens, smaller models: the loop, not the science."""
    config.sizes.large = {"d_model": 96, "layers": 2, "heads": 3, "kv_heads": 1, "d_ff": 288}
    config.base.tokens, config.base.cooldown_tokens = 768 * STEP, 192 * STEP
    config.cpt.tokens = 256 * STEP
    config.eval_tokens = tuple(steps * STEP for steps in (32, 64, 128, 256))
    config.grid.small = {"domain_shares": (0.0, 0.1, 0.5, 0.9), "repeat_shares": (0.5,), "repeat_seeds": (1,)}
    config.grid.medium = {"domain_shares": (0.1, 0.5, 0.9)}
    config.grid.large = {"domain_shares": (0.1, 0.9)}
    config.held_out.tokens = 128 * STEP
