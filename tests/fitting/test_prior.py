"""The shipped prior is whole, and a parameter's prior is where its kind says."""

import math

import pytest

from cptlaw.fitting import kernels, prior
from cptlaw.laws import Param


def test_the_shipped_prior_is_whole():
    shipped = prior.shipped()
    assert set(shipped.scales) == set(kernels.TERMS)
    assert all(0 < middle <= 0.1 and 0 < wide <= 3 for middle, wide in shipped.scales.values())
    assert set(shipped.lengths) == {"size", "tokens", "mix", "drift"}


@pytest.mark.parametrize(
    ("param", "start", "wanted"),
    [
        (Param("alpha", low=0), 9.0, (True, math.log(0.35), 0.4)),  # similar in all tables, whatever the fit says
        (Param("beta[code]", low=0), 9.0, (True, math.log(0.35), 0.4)),
        (Param("E", low=0, linear=True), 9.0, (True, math.log(1.2), 0.5)),  # 0.6 of the least loss
        (Param("A", low=0, linear=True), 9.0, (True, math.log(9), 2.0)),  # in the table's own unit
        (Param("s", low=0), 9.0, (True, math.log(9), 1.0)),
        (Param("C1", low=-math.inf, linear=True), -0.2, (False, -0.2, 0.4)),  # may change its sign
    ],
)
def test_a_parameter_s_prior_follows_its_name_and_its_bounds(param, start, wanted):
    log, mean, sd = prior.of_parameter(param, start, least_loss=2.0)
    assert (log, mean, sd) == (wanted[0], pytest.approx(wanted[1]), pytest.approx(wanted[2]))
