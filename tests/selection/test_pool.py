"""A pool weighs its units by their chunks, and its strata keep their shares."""

import numpy as np
import pytest
from tiny_scores import CHUNK, rows

from cptlaw.selection import choose, landscape
from cptlaw.selection.pool import Pool


def test_moments_are_those_of_the_chunks_themselves(target):
    """Counted from the rows again, so a document's spread within itself is not lost."""
    table = rows()
    pool = Pool.of(table, CHUNK, by="document")
    chosen = choose.select(pool, fraction=0.3, target=target)
    whole = landscape.whole(table, CHUNK)
    x = np.minimum(whole["nats"] / whole["tokens"], pool.cap)
    x = x[whole["document"].isin(pool.spans["document"].iloc[chosen])]
    np.testing.assert_allclose(pool.moments(chosen), (x.mean(), x.std(ddof=0)), rtol=1e-9)


@pytest.mark.parametrize("method", ["tilt", "swaps", "low", "random", "dos_greedy"])
def test_strata_keep_their_shares(pool, target, method):
    strata = np.where(np.arange(len(pool.count)) % 3 == 0, "wiki", "web")
    options = {"target": target} if method in choose.AIMED else {}
    chosen = choose.select(pool, method, fraction=0.2, strata=strata, **options)
    for name in ("wiki", "web"):
        mine = pool.count[strata == name].sum()
        taken = pool.count[chosen][strata[chosen] == name].sum()
        assert taken == pytest.approx(0.2 * mine, rel=0.02, abs=pool.count.max())
    if options:
        np.testing.assert_allclose(pool.moments(chosen), target, atol=2e-3 * pool.moments()[1])
