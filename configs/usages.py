"""The three questions that the D-CPT paper answers, asked of two small sizes and confirmed by real runs of a third.

    cptlaw study configs/usages.py:share --workdir runs/usages        the share whose general loss stays under a ceiling
    cptlaw study configs/usages.py:budget --workdir runs/usages       the size and tokens for a number of FLOPs
    cptlaw study configs/usages.py:limited --workdir runs/usages_limited      the share when there is little domain text

Que et al. 2024 (arXiv 2406.01375), section 5: usages 1, 3 and 2. Base models and domains are those of configs/cpt8.py.
The laws are fitted to 27k and 99k parameters; 323k is trained at three shares for comparison, and no fit sees it. What
is recommended is then trained with three seeds that no run of the grid has, and measured beside the prediction.

`share` and `budget` have one grid, so that the second of them trains its confirming runs alone. `limited` has 160,000
tokens of domain text: its grid is so short (196k tokens) that hardly any is read twice, and its question is of four
times as many tokens, where a share of 0.5 reads it two and a half times.

The arithmetic (a step is 8 x 64 = 512 tokens, a base sees 2.1M tokens and a run 0.79M):

    size   FLOPs/token   base         one run      runs (share, budget)   runs (limited)
    27k    3.81e+05      0.8 TFLOP    0.3 TFLOP    11                     6, a quarter as long
    99k    1.03e+06      2.2 TFLOP    0.8 TFLOP    11                     6, a quarter as long
    323k   2.64e+06      5.5 TFLOP    2.1 TFLOP    6                      3

33 TFLOP for the first grid and 17 for the second, evaluations half as much again; three confirming runs of 323k and of
each domain 6 TFLOP.

Written before the first run, as what will be asked and when it counts as answered:

- share: the recommendation passes if the mean general loss of its three runs is under the ceiling, and if the share is
  within 10 points of where the ceiling is crossed by the measured losses of 323k, interpolated between its shares.
- budget: passes if the domain loss of the recommended size, mean of three runs, is no more than 1% above that of the
  best of the three sizes trained with the same FLOPs (the others are read from the grid, interpolated in tokens).
- limited: passes if the measured domain loss at the recommended share is no more than 1% above the best of the three
  shares that 323k was trained at.
- All: the measured losses lie within the 90% intervals of the predictions.

The results are published as they fall.
"""

from ml_collections import ConfigDict

from cptlaw.configs import cpt8
from cptlaw.errors import UserError

SHARES = (0.33, 0.0, 0.9, 0.1, 0.67, 0.5)
QUESTIONS = {
    "share": {"kind": "trade-off", "tolerance": 0.03, "confidence": 0.9},
    "budget": {"kind": "budget", "flops": 1.6e12, "share": 0.5, "sizes": ("27k", "99k", "323k")},
    "limited": {"kind": "limited-data", "tokens": cpt8.SHORT[-1], "max_epochs": 8.0},
}


def get_config(usage: str = "share") -> ConfigDict:
    """The config of one usage, of `QUESTIONS`."""
    if usage not in QUESTIONS:
        raise UserError(f"configs/usages.py:{usage}: one of {', '.join(QUESTIONS)}")
    whole = cpt8.get_config()
    limited = usage == "limited"
    domains = ("biomedical",) if limited else ("code", "biomedical")
    config = whole.copy_and_resolve_references()
    with config.unlocked():
        config.name = f"usages_{usage}" if limited else "usages"
        config.corpora = {name: whole.corpora[name].to_dict() for name in (whole.general, *domains)}
        if limited:
            config.corpora.biomedical["max_bytes"] = 550_000
            config.cpt.tokens = cpt8.SHORT[1]
            config.eval_tokens = (cpt8.SHORT[0] // 2, *cpt8.SHORT[:2])
        config.domains = domains
        config.sizes = {size: whole.sizes[size].to_dict() for size in ("27k", "99k", "323k")}
        grid = {size: {"domain_shares": SHARES} for size in ("27k", "99k")}
        config.grid = {**grid, "323k": {"domain_shares": (0.33, 0.1, 0.67), "eval_tokens": cpt8.SHORT}}
        config.held_out = {"size": "323k", "tokens": 0}
        config.evaluate = "all"
        config.fit = {"law": "auto", "bootstrap": 1000}
        config.question = QUESTIONS[usage]
        config.confirm_runs = 3
        config.first = ()
    return config
