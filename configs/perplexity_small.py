"""The perplexity study on two domains of the demo: which Python code, and which biomedical text, is worth training on?

    cptlaw perplexity-study configs/perplexity_small.py --workdir runs/perplexity

A base model of 27k parameters learns prose; each domain is scored under it in chunks of 64 tokens; nine cells (three
means of log-perplexity by three spreads, a fifth of the domain each) are trained with two seeds and evaluated at three
token counts; the law is fitted; its best subset, and that of the competitor which predicted best, are trained against
random, low, middle and high perplexity, with six seeds. The arithmetic (0.38 MFLOP a token, training):

    base       1                     1.3M tokens   0.5 TFLOP
    cells      2 domains x 9 x 2     0.13M tokens  1.8 TFLOP
    confirm    2 domains x 6 x 6     0.13M tokens  3.6 TFLOP

5.9 TFLOP: a minute on two idle cores with AVX-512, and twice that for evaluations, scoring, compilation and fits.

What one run of it found (final losses of the choices less those of random text, nats, 95% interval over six seeds):

    code         the law's choice +0.037 (+0.008 to +0.066), the quadratic surface's -0.009 (-0.030 to +0.013)
    biomedical   the law's choice -0.009 (-0.015 to -0.003), the quadratic surface's -0.011 (-0.023 to +0.001)

The law's stationary point is a saddle in both, so it recommends the edge of the cells, at a high mean. In code the
loss is lowest at a middle mean, which the law cannot show: it misses left-out subsets by 0.076 nats, the surface by
0.026. In biomedical text the loss does fall towards that edge (misses 0.032 and 0.007). Low perplexity is the worst
choice by 0.2 to 0.4 nats. Prose pays: against random text the choices cost it 0.02 to 0.08 nats, and low perplexity
spares it as much.

Choices:
- Log-perplexity, not perplexity, is the law's unit: under a base that has never seen code a chunk's perplexity is
  in the hundreds, and mu^(a0 + a1 sigma) then spans hundreds of orders of magnitude.
- A fifth of the biomedical text is 290k tokens, more than the 105k that a run reads of it: no text is repeated.
"""

from ml_collections import ConfigDict

STEP = 8 * 64  # tokens


def get_config() -> ConfigDict:
    """The config; `subsets` holds the fields of `studies.selection_study.Plan`."""
    return ConfigDict(
        {
            "name": "perplexity_small",
            "corpora": {
                "prose": {"source": "recipe:wikipedia_leads"},
                "code": {"source": "recipe:python_stdlib"},
                "biomedical": {"source": "recipe:biomedical"},
            },
            "general": "prose",
            "domains": ("code", "biomedical"),
            "vocabulary": {"kind": "sentencepiece", "size": 1024},
            "seq_len": 64,
            "batch_size": 8,
            "eval_batch_size": 16,
            "eval_max_tokens": 24_000,
            "model": {"d_model": 32, "layers": 2, "heads": 1, "kv_heads": 1, "d_ff": 96},
            "base": {
                "tokens": 2560 * STEP,
                "peak_lr": 3e-3,
                "warmup_tokens": 64 * STEP,
                "schedule": "wsd",
                "cooldown_tokens": 640 * STEP,
                "final_lr": 1e-3,
            },
            "cpt": {"tokens": 256 * STEP, "peak_lr": 1e-3, "warmup_tokens": 16 * STEP},
            "eval_tokens": tuple(steps * STEP for steps in (64, 128, 256)),
            "subsets": {
                "share": 0.8,
                "chunk": 64,
                "by": "chunk",
                "unit": "log-perplexity",
                "fraction": 0.2,
                "levels": (0.15, 0.5, 0.85),
                "seeds": (0, 1),
                "confirm_seeds": (101, 102, 103, 104, 105, 106),
                "bootstrap": 1000,
            },
            "workers": 0,
            "checkpoint_seconds": 60.0,
            "seed": 0,
        }
    )
