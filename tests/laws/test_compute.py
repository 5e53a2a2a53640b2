import numpy as np
import pytest

from cptlaw import laws

THETA = {"E": 1.5, "A": 0.8, "alpha": 0.15, "B": 0.3, "beta": 0.4}


def test_flops_are_six_times_size_and_pretraining_tokens():
    x = {"params": np.array(1e9), "pretrain_tokens": np.array(20e9), "tokens": np.array(5e9)}
    assert laws.get("compute").predict(THETA, x) == pytest.approx(1.5 + 0.8 / 0.12**0.15 + 0.3 / 5**0.4)
    run = {name: THETA[name] for name in ("E", "A", "alpha")}
    assert laws.get("compute", base=False).predict(run, {"params": 1e9, "tokens": 20e9}) == pytest.approx(
        1.5 + 0.8 / 0.12**0.15
    )
