"""A saved decision is read back whole, and damage is refused by file and field."""

import json

import numpy as np
import pytest

from cptlaw import records
from cptlaw.planning.budget import budget
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.limited_data import limited_data
from cptlaw.planning.pareto import pareto
from cptlaw.planning.tradeoff import trade_off

RUN = {"params": 8e5, "tokens": 1e6}


@pytest.fixture(scope="module")
def decisions(general, code):
    return [
        trade_off(general, code, **RUN, base_loss=3.26),
        limited_data(code, params=8e5, domain_tokens=1e5),
        budget(code, flops=4e12, share=0.5, sizes=[5e4, 8e5]),
        pareto(general, code, **RUN, points=3),
    ]


@pytest.fixture(scope="module")
def written(decisions, tmp_path_factory):
    """The smallest text of a trade-off: its samples and runs cut to a few."""
    path = tmp_path_factory.mktemp("decision") / "d.json"
    decisions[0].save(path)
    fields = json.loads(path.read_text())
    fields.pop(records.SEAL)
    fields["samples"]["share"] = fields["samples"]["share"][:5]
    return fields


def test_every_kind_comes_back_as_it_was(decisions, tmp_path):
    for decision in decisions:
        decision.save(tmp_path / "d.json")
        again = Decision.load(tmp_path / "d.json")
        assert again.to_json() == decision.to_json() and again.text() == decision.text()


def test_a_file_without_a_seal_of_an_earlier_version_loads(written, tmp_path):
    (tmp_path / "d.json").write_text(json.dumps(written))
    assert Decision.load(tmp_path / "d.json").kind == "trade-off"


def test_an_edit_that_every_field_allows_is_seen_by_the_seal(written, tmp_path):
    records.write(tmp_path / "d.json", written)
    text = (tmp_path / "d.json").read_text()
    (tmp_path / "d.json").write_text(text.replace('"base_loss": 3.26', '"base_loss": 3.27'))
    with pytest.raises(DecisionError, match=r"d\.json: its content does not match its hash"):
        Decision.load(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda d: d.pop("level"), "level"),
        (lambda d: d.update(level=7), "level"),
        (lambda d: d.update(samples=[1, 2]), "samples"),
        (lambda d: d["samples"].update(share=["a"]), "samples.share"),
        (lambda d: d["interval"].update(share=[0.1]), "interval.share"),
        (lambda d: d["inputs"].update(base_loss="3"), "inputs.base_loss"),
        (lambda d: d["inputs"].pop("ceiling"), "inputs.ceiling"),
        (lambda d: d["losses"]["code"].pop("low"), "losses.code.low"),
        (lambda d: d["losses"].pop("general"), "losses.general"),
        (lambda d: d["options"][1].pop("losses"), r"options\[1\]"),
        (lambda d: d["options"][0].update(holds=2), r"options\[0\].holds"),
        (lambda d: d["influence"][0].pop("run"), r"influence\[0\].run"),
        (lambda d: d.update(supported="yes"), "supported"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d["point"].update(share=10**400), "point.share"),
    ],
)
def test_damage_is_refused_by_field(written, tmp_path, change, field):
    fields = json.loads(json.dumps(written))
    change(fields)
    (tmp_path / "d.json").write_text(json.dumps(fields))
    with pytest.raises(DecisionError, match=rf"d\.json: damaged: field '{field}'"):
        Decision.load(tmp_path / "d.json")


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


def test_no_flipped_byte_is_accepted(written, tmp_path):
    records.write(tmp_path / "sound.json", written)
    sound, path = (tmp_path / "sound.json").read_bytes(), tmp_path / "d.json"
    rng = np.random.default_rng(1)
    for _ in range(300):
        text = bytearray(sound)
        text[rng.integers(len(text))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(text) if rng.random() < 0.9 else sound[: rng.integers(len(sound))])
        try:
            loaded = Decision.load(path)
        except DecisionError as error:
            assert str(path) in str(error)
        else:  # white space between the values
            assert loaded.to_json() == Decision.load(tmp_path / "sound.json").to_json()
