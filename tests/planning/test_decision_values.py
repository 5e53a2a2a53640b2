"""A saved decision without a digest, of an earlier version: any value may be wrong, and what loads can be shown."""

import json

import numpy as np
import pytest

from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.tradeoff import trade_off


@pytest.fixture(scope="module")
def written(general, code):
    """A trade-off's fields, with few samples and no digest."""
    fields = trade_off(general, code, params=8e5, tokens=1e6, base_loss=3.26).to_json()
    fields.pop("sha256")
    fields["samples"]["share"] = fields["samples"]["share"][:5]
    return fields | {"cptlaw_decision": 1}


def _leaves(value, path=()):
    if isinstance(value, dict | list):
        yield path
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(one, (*path, key))
    else:
        yield path


def _replaced(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replaced(value[path[0]], path[1:], new)
    return copy


def test_no_mutation_of_values_ends_in_a_traceback(written, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "d.json"
    paths, odd = list(_leaves(written)), [None, True, -1, 1e300, "x", "", [], {}, [[]], {"a": {}}]
    for _ in range(300):
        at, new = paths[rng.integers(len(paths))], odd[rng.integers(len(odd))]
        path.write_text(json.dumps(_replaced(written, at, new)))
        try:
            Decision.load(path).text()  # a file without a seal: what loads can be shown
        except DecisionError as error:
            assert str(path) in str(error)
