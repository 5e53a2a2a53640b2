"""The learning-rate-aware law of continual pre-training (Wang et al. 2025, arXiv 2505.07796).

Columns: `lr_sum` (S1 of CPT, the sum of learning rates over its steps), `lr_anneal` (S2 of CPT), and the same of
pre-training, `lr_sum_pretrain` and `lr_anneal_pretrain`; `cptlaw.schedules.dynamics` computes them from the learning
rates. Learning rates are in raw units. A law that reads tokens alone takes the effect of the schedule's decay for an
effect of tokens; this law tells them apart.
"""

from typing import Any

import numpy as np

from cptlaw.laws.base import Array, Law, LawError, Param, builder

SOURCE = "Wang et al. 2025, Learning Dynamics in CPT (arXiv 2505.07796)"
KINDS = ("old", "new")


@builder
def dynamics(corpus: str = "old", replay: bool = False, from_weights: bool = False) -> Law:
    """L0 + A (S1_pt + S1_cpt)^-alpha - C1 S2_pt - C2 S2_cpt + B (1 - (1 + E S1_cpt)^-beta).

    Args:
      corpus: "old" (the general corpus, which is forgotten: B > 0) or "new" (the domain, which is learnt: B < 0).
      replay: with the evaluated corpus's share r: old shift x (1 - exp(-a2 r_new)), new shift x (exp(a2 r_new) - 1),
        S2_cpt x exp(a1 r).
      from_weights: the base is an open-weights model: S1_pt is unknown, so it is fitted, and S2_pt is part of L0.
    """
    if corpus not in KINDS:
        raise LawError(f"dynamics: corpus {corpus!r} is not one of {', '.join(KINDS)}")
    old = corpus == "old"
    params = [
        Param("L0", low=0, linear=True),
        Param("A", low=0, linear=True),
        Param("alpha", 1e-3, 5, (0.1, 1.0)),
        Param("C2", low=0, linear=True, about="annealing in CPT"),
        Param("B", 0 if old else -np.inf, np.inf if old else 0, linear=True, about="distribution shift"),
        Param("E", 1e-3, 1e7, (1.0, 5000.0)),
        Param("beta", 1e-3, 5, (0.05, 1.0)),
    ]
    if from_weights:
        params.append(Param("S1_pt", 1e-6, 1e6, (0.1, 20.0), about="sum of learning rates of pre-training"))
    else:
        params.insert(3, Param("C1", low=0, linear=True, about="annealing in pre-training"))
    if replay:
        params += [Param("a1", -20, 20, (-1.0, 1.0)), Param("a2", 1e-3, 20, (0.1, 3.0))]

    def function(p: Any, x: Any, xp: Any) -> Array:
        before = p.S1_pt if from_weights else x.lr_sum_pretrain
        loss = p.L0 + p.A * (before + x.lr_sum) ** -p.alpha
        if not from_weights:
            loss = loss - p.C1 * x.lr_anneal_pretrain
        shift = p.B * (1 - (1 + p.E * x.lr_sum) ** -p.beta)
        anneal = p.C2 * x.lr_anneal
        if replay:
            new = 1 - x.ratio if old else x.ratio
            shift = shift * ((1 - xp.exp(-p.a2 * new)) if old else (xp.exp(p.a2 * new) - 1))
            anneal = anneal * xp.exp(p.a1 * x.ratio)
        return loss - anneal + shift

    pretraining = () if from_weights else ("lr_sum_pretrain", "lr_anneal_pretrain")
    return Law(
        name="dynamics",
        title=f"Learning-dynamics law, {corpus} corpus" + (", with replay" if replay else ""),
        equation="L0 + A (S1_pt + S1_cpt)^-alpha - C1 S2_pt - C2 S2_cpt + B (1 - (1 + E S1_cpt)^-beta)",
        source=SOURCE,
        params=tuple(params),
        columns=("lr_sum", "lr_anneal", *pretraining, *(("ratio",) if replay else ())),
        function=function,
    )
