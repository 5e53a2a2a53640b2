"""A corpus that no fitted run trained on stays out of every plan, wherever its column stands."""

import numpy as np
import pandas as pd
import pytest

from cptlaw import laws
from cptlaw.fitting import Fit
from cptlaw.planning.decision import DecisionError
from cptlaw.planning.mixture import mixture
from cptlaw.planning.tradeoff import trade_off


def mixing(eval, corpora, seed):
    """A fit of mixes of web and code; every other corpus was never trained on."""
    law, rng = laws.get("mixing", corpora=corpora), np.random.default_rng(seed)
    slopes = {"web": -1.5, "code": -0.5} if eval == "web" else {"web": -0.4, "code": -1.8}
    full = {name: slopes.get(name, -9.0) for name in corpora}
    last = next(name for name in corpora if f"t[{name}]" not in law.names)
    params = {"c": 1.5, "k": float(np.exp(full[last]))}  # the last corpus's t is 0, so k takes its part
    params |= {f"t[{name}]": full[name] - full[last] for name in corpora if name != last}
    samples = {name: value * np.exp(rng.normal(0, 0.02, 30)) for name, value in params.items()}
    share = np.tile(np.linspace(0, 1, 10), 20)
    rows = pd.DataFrame({"run": [f"r{i}" for i in range(200)], "eval": eval, "held_out": False, "loss": 2.0})
    rows = rows.assign(observed=2.0, predicted=2.0, w_web=share, w_code=1 - share)
    dead = {f"w_{name}": 0.0 for name in corpora if name not in slopes}
    return Fit(
        law=law, eval=eval, params=params, samples=samples, codes={}, influence={}, n_rows=200, digest="a",
        residuals=rows.assign(**dead), settings={"resample": "runs", "fixed": {}, "seed": 0, "shared": []},
        scores={"fit": {}, "held_out": {"n": 0, "what": ""}},
        ranges={f"w_{name}": (0.0, 1.0) if name in slopes else (0.0, 0.0) for name in corpora},
    )  # fmt: skip


@pytest.mark.parametrize(
    "corpora", [("web", "code", "books"), ("books", "web", "code"), ("law", "web", "books", "code")]
)
def test_a_corpus_that_no_run_trained_on_stays_out_wherever_its_column_stands(corpora):
    found = mixture(*(mixing(name, corpora, seed) for seed, name in enumerate(("web", "code"))))
    alone = mixture(*(mixing(name, ("web", "code"), seed) for seed, name in enumerate(("web", "code"))))
    assert found.point["books"] == 0 and not found.samples["books"].any()
    assert found.point["web"] == pytest.approx(alone.point["web"], abs=2e-3)
    assert next(iter(found.point)) not in ("books", "law")  # the influential runs are told of a share that moves
    assert any("share of 0% of books, so it is kept there" in note for note in found.warnings)
    with pytest.raises(DecisionError, match="books: every fitted run has a share of 0%"):
        mixture(*(mixing(name, corpora, 0) for name in ("web", "code")), floors={"books": 0.2})


def test_a_trade_off_leaves_out_a_corpus_that_no_run_trained_on():
    fits = [mixing(name, ("books", "web", "code"), seed) for seed, name in enumerate(("web", "code"))]
    found = trade_off(*fits, params=8e5, tokens=1e6, base_loss=1.8, tolerance=0.05)
    assert 0 < found.point["share"] < 1
