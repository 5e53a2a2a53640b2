"""The perplexity study, asked properly: which text of four domains is worth training on, of two sizes and four bases?

    cptlaw perplexity-study configs/perplexity.py --workdir runs/perplexity
    cptlaw perplexity-study configs/perplexity.py:99k --workdir runs/perplexity     the smaller size alone, a quarter

Base models are pre-trained on 90% WikiText-2 and 2.5% of each domain, so that they find every domain likelier than
chance by far. Each of the four bases (99k and 323k, two seeds) scores each domain in chunks of 256 tokens, and twelve
cells (four means of log-perplexity by three spreads) and random text are drawn, a fifth of the domain each, with three
seeds. The perplexity-aware law and its null competitors are fitted to their losses; the choice is the best subset by
whichever predicts left-out subsets best. It is trained with eight further seeds against random text of the same size,
and so is the law's own best subset; low, middle and high perplexity with three. Then a second round, see below.

The arithmetic (a step is 4 x 256 = 1024 tokens; a run is 98k tokens, and its two evaluations cost as much again):

    size   bases x domains   cells   confirming   second round   FLOPs/token
    99k    8                 39      25           17             1.3e6
    323k   8                 39      25           17             3.2e6

1,296 runs, about 600 TFLOP with evaluations: two hours on two idle cores with AVX-512.

Written before the first run, as what will be asked and when it counts as answered:

- The one primary contrast: the final held-out domain loss of the choice less that of random text of the same size,
  paired by seed, in each of the 16 pairs of base and domain. Choosing pays if the contrast, as a mean over the domains
  and bases of a size, is below zero with 95% confidence by Student's t over the four domains (each domain the mean of
  its two bases).
- Whether the recommendation can be trusted: of the pairs in which the choice is recommended (the 90% interval of its
  predicted gain lies above zero), in how many the measured gain is above zero; and of those in which random text is,
  in how many the choice measured no more than 0.01 nats better.
- The law beside its competitors: in how many of the 16 it predicts left-out subsets best, and what its own choice
  gains on random text.
- The second round: the base is trained once on its choice, its domain scored again and chosen again, and trained on
  from there on the new choice or on the first one. It helps if the contrast of the two is below zero in the same sense.

The results are published as they fall.

Choices:
- Domains whose documents are long enough for chunks of 256 tokens; licences and API reference repeat themselves, code
  and scripture do not.
- 65,536 tokens of each held-out text are scored: the difference of two runs is then known to 0.004 nats (code, the
  worst; see configs/cpt8.py).
- A fifth of the smallest domain is 250k tokens, more than the 79k that a run reads: no text is repeated.
"""

from ml_collections import ConfigDict

from cptlaw.errors import UserError

STEP = 4 * 256  # tokens


def get_config(size: str = "") -> ConfigDict:
    """The config, of one size or of all; `subsets` holds the fields of `studies.selection_plan.Plan`.

    The runs of one size are those of the whole config, which can go on in the same workdir with --update-config.
    """
    config = ConfigDict(
        {
            "name": "perplexity",
            "corpora": {
                "wiki": {"source": "recipe:wikitext2"},
                "code": {"source": "recipe:django_source"},
                "licences": {"source": "recipe:licences"},
                "scripture": {"source": "recipe:king_james"},
                "api_docs": {"source": "recipe:api_docs", "max_bytes": 12_000_000},
            },
            "general": "wiki",
            "domains": ("code", "licences", "scripture", "api_docs"),
            "vocabulary": {"kind": "sentencepiece", "size": 1024},
            "seq_len": 256,
            "batch_size": 4,
            "eval_batch_size": 8,
            "eval_max_tokens": 65_536,
            "model": {"d_model": 64, "layers": 2, "heads": 2, "kv_heads": 2, "d_ff": 192},
            "sizes": {
                "99k": {},
                "323k": {"d_model": 96, "layers": 3, "heads": 3, "kv_heads": 3, "d_ff": 288},
            },
            "base": {
                "tokens": 2560 * STEP,
                "peak_lr": 3e-3,
                "warmup_tokens": 64 * STEP,
                "schedule": "wsd",
                "cooldown_tokens": 640 * STEP,
                "final_lr": 1e-3,
            },
            "base_shares": {"code": 0.025, "licences": 0.025, "scripture": 0.025, "api_docs": 0.025},
            "cpt": {"tokens": 96 * STEP, "peak_lr": 1e-3, "warmup_tokens": 8 * STEP},
            "eval_tokens": (48 * STEP, 96 * STEP),
            "subsets": {
                "share": 0.8,
                "chunk": 256,
                "by": "chunk",
                "unit": "log-perplexity",
                "fraction": 0.2,
                "mean_levels": (0.1, 0.35, 0.6, 0.85),
                "spread_levels": (0.15, 0.5, 0.85),
                "seeds": (0, 1, 2),
                "base_seeds": (0, 1),
                "confirm_seeds": (101, 102, 103, 104, 105, 106, 107, 108),
                "control_seeds": 3,
                "second_round": True,
                "bootstrap": 1000,
            },
            "workers": 0,
            "checkpoint_seconds": 120.0,
            "seed": 0,
        }
    )
    if size:
        if size not in config.sizes:
            raise UserError(f"configs/perplexity.py:{size}: one of {', '.join(config.sizes)}")
        config.sizes = {size: config.sizes[size].to_dict()}
    return config
