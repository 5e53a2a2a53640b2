"""Other scores than perplexity."""

import numpy as np
import pytest
from tiny_scores import CHUNK, rows

from cptlaw.selection import alternatives, choose
from cptlaw.selection.landscape import LandscapeError
from cptlaw.selection.pool import Pool


def test_excess_loss_is_a_score_like_any_other():
    base, reference = rows(), rows()
    reference["nats"] *= np.where(reference["document"] % 2, 0.5, 1.0)
    x = alternatives.excess(base, reference)
    pool = Pool.of(base, CHUNK, x=x, unit="excess")
    chosen = choose.select(pool, "high", fraction=0.3)
    assert (pool.spans["document"].iloc[chosen] % 2 == 1).all()
    with pytest.raises(LandscapeError, match="different chunks"):
        alternatives.excess(base, reference.iloc[1:])


def test_text_whose_loss_tells_good_models_scores_high():
    rng = np.random.default_rng(1)
    table = rows(60)
    groups = (table["document"] % 3).to_numpy()  # 0 follows quality, 1 is its opposite, 2 knows nothing of it
    quality = rng.random(40)
    scores = []
    for q in quality:
        factor = np.select([groups == 0, groups == 1], [2 - q, 1 + q], 1 + rng.random())
        scores.append(table.assign(nats=table["nats"] * factor))
    gamma = alternatives.correlation(scores, quality, groups)
    assert gamma[groups == 0][0] == pytest.approx(1) and gamma[groups == 1][0] == pytest.approx(-1)
    assert abs(gamma[groups == 2][0]) < 0.4


def test_models_that_are_equal_count_equally_in_any_order():
    table = rows(9)
    groups = (table["document"] % 3).to_numpy()
    factor, quality = np.array([[1, 1, 2, 3], [2, 1, 1, 1]]), np.array([0.3, 0.3, 0.2, 0.1])
    scores = [table.assign(nats=table["nats"] * np.where(groups == 0, a, b)) for a, b in factor.T]
    gamma = alternatives.correlation(scores, quality, groups)
    turned = alternatives.correlation(scores[::-1], quality[::-1], groups)
    np.testing.assert_allclose(gamma, turned)
    with pytest.raises(LandscapeError, match="all 4 models have the quality 1"):
        alternatives.correlation(scores, np.ones(4), groups)
