"""Dataclasses from plain values: what is checked, how it is said, and under which path."""

import dataclasses
import math
import pickle
from typing import Annotated

import pytest

from cptlaw import fields
from cptlaw.fields import ConfigError, NotEmpty, OneOf, Range, above, at_least, between


@dataclasses.dataclass(frozen=True)
class Inner:
    kind: Annotated[str, OneOf(("linear", "cosine"))] = "linear"
    pair: Annotated[tuple[int, int], at_least(0)] = (0, 0)

    def __post_init__(self):
        if self.pair[0] > self.pair[1]:
            raise ConfigError("inner.pair", "falls")


@dataclasses.dataclass(frozen=True)
class Outer:
    name: Annotated[str, NotEmpty()]
    count: Annotated[int, at_least(1)] = 1
    rate: Annotated[float, above(0)] = 0.5
    shares: Annotated[tuple[float, ...], between(0, 1)] = ()
    most: Annotated[int | None, at_least(1)] = None
    sizes: dict[str, Annotated[int, at_least(1)]] = dataclasses.field(default_factory=dict)
    inner: Inner = Inner()
    clip: Annotated[float, Range(low=0, infinite=True)] = math.inf

    def __post_init__(self):
        fields.check(self, "outer")


def test_values_become_what_the_annotations_say():
    built = fields.build(
        Outer, {"name": "a", "count": 2.0, "rate": 1, "shares": [0, 0.5], "inner": {"pair": [1, 2]}}, "config"
    )
    assert built == Outer("a", 2, 1.0, (0.0, 0.5), inner=Inner(pair=(1, 2)))
    assert isinstance(built.count, int) and isinstance(built.rate, float) and built.most is None


@pytest.mark.parametrize(
    "values, said",
    [
        ({}, "config.name: missing"),
        ({"name": ""}, "config.name: must not be empty"),
        ({"nam": "a"}, "config.nam: no such field; did you mean 'name'?"),
        ({"zzz": 1}, "config.zzz: no such field; it has name, count"),
        ({"count": 0}, "config.count: must be at least 1, not 0"),
        ({"count": True}, "config.count: expected int, got True"),
        ({"count": 1.5}, "config.count: expected int, got 1.5"),
        ({"count": "3"}, "config.count: expected int, got '3'"),
        ({"count": math.nan}, "config.count: expected int, got nan"),
        ({"count": None}, "config.count: expected int, got None"),
        ({"rate": 0}, "config.rate: must be above 0, not 0"),
        ({"rate": math.nan}, "config.rate: must be a finite number above 0, not nan"),
        ({"rate": math.inf}, "config.rate: must be a finite number above 0, not inf"),
        ({"rate": [1.0]}, "config.rate: expected float, got [1.0]"),
        ({"clip": math.nan}, "config.clip: must be at least 0, not nan"),
        ({"shares": (0.5, 2)}, "config.shares: must be between 0 and 1, not 2"),
        ({"shares": 0.5}, "config.shares: expected a list, got 0.5"),
        ({"shares": "0.5"}, "config.shares: expected a list, got '0.5'"),
        ({"shares": ("a",)}, "config.shares[0]: expected float, got 'a'"),
        ({"most": 0}, "config.most: must be at least 1, not 0"),
        ({"sizes": {"a": 0}}, "config.sizes.a: must be at least 1, not 0"),
        ({"sizes": [1]}, "config.sizes: expected a mapping, got [1]"),
        ({"inner": {"kind": "cosin"}}, "config.inner.kind: one of linear, cosine, not 'cosin'; did you mean 'cosine'?"),
        ({"inner": {"pair": (1,)}}, "config.inner.pair: expected 2 entries, got (1,)"),
        ({"inner": {"pair": (2, 1)}}, "config.inner.pair: falls"),
        ({"inner": "linear"}, "config.inner: expected fields, got 'linear'"),
        ({"count": 10**400, "rate": -1}, "config.rate: must be above 0"),
    ],
)
def test_what_cannot_be_is_named_with_what_would_be_valid(values, said):
    with pytest.raises(ConfigError) as error:
        fields.build(
            Outer, values if "nam" in values or not values or "name" in values else {"name": "a", **values}, "config"
        )
    assert str(error.value).startswith(said)


def test_a_value_made_in_python_is_checked_by_the_same_ranges_and_keeps_its_type():
    with pytest.raises(ConfigError, match=r"outer\.rate: must be above 0"):
        Outer("a", rate=-1.0)
    with pytest.raises(ConfigError, match=r"outer\.count: expected int, got 2\.0"):
        Outer("a", count=2.0)


def test_some_fields_alone_are_checked():
    fields.check_some(Outer, {"count": 3}, "config.part")
    for values, said in (
        ({"count": 0}, "must be at least 1"),
        ({"name": "a"}, "no such field"),
        ({"count": 2.0}, "int"),
    ):
        with pytest.raises(ConfigError, match=rf"config\.part\.\w+: .*{said}"):
            fields.check_some(Outer, values, "config.part", but=("name",))


def test_an_error_can_go_to_another_process():
    error = ConfigError("config.x", "is wrong")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "config.x: is wrong"
