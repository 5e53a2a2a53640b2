import numpy as np
import pytest

from cptlaw import laws
from cptlaw.laws.factor import at_level, factored

THETA = {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}
X = {"params": np.array([1e9, 2e9]), "tokens": np.array([5e9, 9e9])}


def test_a_level_multiplies_the_loss_and_the_reference_does_not():
    law = factored(laws.get("chinchilla"), "schedule", ("cosine", "constant"))
    plain = laws.get("chinchilla").predict(THETA, X)
    found = law.predict(THETA | {"offset[constant]": 0.03}, X | {"factor": np.array([0.0, 1.0])})
    np.testing.assert_allclose(found, plain * [1, np.exp(0.03)])


def test_at_a_level_the_law_reads_no_factor_unless_rows_bring_theirs():
    law = factored(laws.get("chinchilla"), "schedule", ("cosine", "constant"))
    here = at_level(law, "constant")
    theta = THETA | {"offset[constant]": 0.03}
    assert "factor" not in here.columns
    np.testing.assert_allclose(here.predict(theta, X), law.predict(theta, X | {"factor": np.ones(2)}))
    own = X | {"factor": np.zeros(2)}
    np.testing.assert_allclose(here.predict(theta, own), law.predict(theta, own))


def test_an_unknown_level_is_refused_with_those_known():
    law = factored(laws.get("chinchilla"), "schedule", ("cosine", "constant"))
    with pytest.raises(laws.LawError, match=r"no level 'linear' of schedule.*constant, cosine"):
        at_level(law, "linear")


def test_the_same_levels_give_the_same_law():
    law = laws.get("chinchilla")
    assert factored(law, "lr", ("1", "2")) is factored(law, "lr", ("1", "2"))
