"""The demo's loop at the size of a small study: two domains, four sizes, three seeds, more tokens.

    cptlaw sweep --config configs/study_small.py --workdir runs/study_small      the grid
    cptlaw study configs/study_small.py --workdir runs/study_small                         grid, laws, answers, reports

The arithmetic (as in configs/demo.py; a step is 8 x 64 = 512 tokens):

    size     non-embedding   FLOPs/token   base 3.1M tokens   one run of 2.1M    runs   together
    tiny         0.027M         0.38M          1.2 TFLOP          0.8 TFLOP       21     18 TFLOP
    small        0.099M         1.0M           3.2 TFLOP          2.2 TFLOP       21     49 TFLOP
    medium       0.32M          2.6M           8.3 TFLOP          5.5 TFLOP       15     91 TFLOP
    large        0.75M          5.5M          17.3 TFLOP         11.6 TFLOP        7     98 TFLOP

256 TFLOP and the confirming runs' 23: about 85 minutes on 2 cores at 28 GFLOP/s a core, less on an accelerator. The
general corpus is WikiText-2 (about 13 MB of text), so that no base sees a document twice before it is continued.
"""

from ml_collections import ConfigDict

from cptlaw.configs import demo
from cptlaw.configs.demo import STEP


def get_config() -> ConfigDict:
    config = demo.get_config()
    config.name = "study_small"
    config.corpora.prose.source = "recipe:wikitext2"
    config.domains = ("code", "biomedical")
    config.eval_max_tokens = 48_000
    with config.unlocked():
        config.sizes = {
            "tiny": config.sizes.small,
            "small": config.sizes.medium,
            "medium": config.sizes.large,
            "large": {"d_model": 128, "layers": 4, "heads": 4, "kv_heads": 1, "d_ff": 384},
        }
        shares = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
        repeated = {"repeat_shares": (0.25, 0.75), "repeat_seeds": (1, 2)}
        config.grid = {
            "tiny": {"domain_shares": shares, **repeated},
            "small": {"domain_shares": shares, **repeated},
            "medium": {"domain_shares": shares, "repeat_shares": (0.5,), "repeat_seeds": (1,)},
            "large": {"domain_shares": (0.0, 0.1, 0.5, 0.9)},
        }
    config.base.tokens, config.base.cooldown_tokens = 6144 * STEP, 1536 * STEP
    config.cpt.tokens = 4096 * STEP
    config.eval_tokens = tuple(steps * STEP for steps in (128, 256, 512, 1024, 2048, 4096))
    config.held_out.tokens = 2048 * STEP
    return config
