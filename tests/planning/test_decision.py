"""A saved decision is read as it was, or refused by name."""

import copy
import dataclasses
import json
import random

import numpy as np
import pytest

from cptlaw import cli
from cptlaw.fitting.verdicts import Check, LackOfFit
from cptlaw.planning import Decision, DecisionError, budget, pareto, trade_off

X = {"params": 8e5, "tokens": 1e6}
VALUES = (None, True, -1, 0, 3.5, 10**400, "text", [], [1], {}, {"mean": "x"}, [[[]]], "\ud800")


@pytest.fixture(scope="module")
def decisions(general, code):
    return [
        trade_off(general, code, **X, base_loss=3.26),
        budget(code, general, flops=4.8e12, ceiling=3.4, sizes=[2e5, 8e5]),
        pareto(general, code, **X, points=3),
    ]


def test_a_rejected_law_is_the_first_line_of_every_decision(general, code, tmp_path):
    found = LackOfFit((Check("settings", 1e-4, 30.0, (8.0, 6.0), 0.003, 0.02),), 3, 6, 2.5)
    against = dataclasses.replace(code, lack_of_fit={"code": found})
    for decision in (
        trade_off(general, against, **X, base_loss=3.26),
        budget(against, general, flops=4.8e12, ceiling=3.4, sizes=[2e5, 8e5]),
        pareto(general, against, **X, points=3),
    ):
        first = decision.text().splitlines()[0]
        assert first.startswith("REJECTED: the table rejects the law dcpt: of code") and decision.rejections == (first,)
        decision.save(tmp_path / "d.json")
        assert Decision.load(tmp_path / "d.json").rejections == (first,)
    assert pareto(general, code, **X, points=3).rejections == ()


def paths(value, prefix=()):
    """Every place in a JSON value, a few of each long list."""
    yield prefix
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*prefix, key))
    elif isinstance(value, list):
        for i, item in enumerate(value[:2]):
            yield from paths(item, (*prefix, i))


def with_change(data, path, change):
    data = copy.deepcopy(data)
    *parents, last = path
    at = data
    for key in parents:
        at = at[key]
    change(at, last)
    return data


def read(path):
    """A decision or None if it is refused; says it in words, which must not fail for one that is read."""
    try:
        decision = Decision.load(path)
    except DecisionError as error:
        assert str(path) in str(error)
        return None
    decision.text()
    return decision


@pytest.mark.parametrize("old", [False, True], ids=["with its digest", "of the version without one"])
def test_changed_values_are_refused_by_name_and_never_a_traceback(decisions, tmp_path, old):
    rng, file = random.Random(0), tmp_path / "d.json"
    refused = 0
    for decision in decisions:
        data = decision.to_json()
        if old:
            del data["sha256"]
            data["cptlaw_decision"] = 1
        places = [path for path in paths(data) if path]
        for path in rng.choices(places, k=60):
            value = rng.choice(VALUES)

            def put(at, key, value=value):
                at[key] = value

            def drop(at, key):
                del at[key]

            file.write_text(json.dumps(with_change(data, path, rng.choice((put, put, drop)))))
            found = read(file)
            refused += found is None
            same = json.loads(file.read_text()) == json.loads(json.dumps(data))
            assert old or found is None or same, path
    assert refused > 50


def test_changed_bytes_are_refused(decisions, tmp_path):
    rng, file = random.Random(1), tmp_path / "d.json"
    for decision in decisions:
        decision.save(file)
        content = file.read_bytes()
        for _ in range(70):
            at, damaged = rng.randrange(len(content)), bytearray(content)
            kind = rng.randrange(3)
            if kind == 0:
                damaged[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                del damaged[at:]
            else:
                damaged[at:at] = bytes(rng.randrange(256) for _ in range(3))
            file.write_bytes(damaged)
            found = read(file)
            # Blanks between values may change; nothing that is read may.
            assert found is None or found.to_json() == decision.to_json(), (kind, at)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("level",), "high", "decision.level: expected float"),
        (("level",), 90, "decision.level: expected a confidence"),
        (("interval", "share"), [1], "decision.interval.share: expected 2 entries"),
        (("samples", "share"), ["x"], "decision.samples.share: expected a list of numbers"),
        (("regret",), {"mean": 1.0}, "decision.regret: has no 'p90'"),
        (("losses", "code"), {"point": 1.0}, "decision.losses.code: has no 'low'"),
        (("options", 0, "point"), 5, r"decision.options\[0\].point: expected a mapping"),
        (("inputs",), {}, "decision.inputs: has no 'params'"),
        (("influence", 0), {"run": "a"}, r"decision.influence\[0\]: has no 'share without it'"),
        (("warning",), "x", "decision.warning: no such field; did you mean 'warnings'"),
    ],
)
def test_the_field_is_named(decisions, tmp_path, path, value, words):
    data = decisions[0].to_json() | {"cptlaw_decision": 1}
    del data["sha256"]
    (tmp_path / "d.json").write_text(json.dumps(with_change(data, path, lambda at, key: at.__setitem__(key, value))))
    with pytest.raises(DecisionError, match=words):
        Decision.load(tmp_path / "d.json")


def test_decisions_of_the_version_without_a_digest_are_read(decisions, tmp_path):
    for decision in decisions:
        data = decision.to_json() | {"cptlaw_decision": 1}
        del data["sha256"]
        (tmp_path / "d.json").write_text(json.dumps(data))
        assert Decision.load(tmp_path / "d.json").to_json() == decision.to_json()


def test_numbers_that_are_not_finite_survive(decisions, tmp_path):
    fields = {"samples": {"share": np.array([0.1, np.nan])}, "regret": {"mean": np.nan, "p90": 1.0}}
    odd = dataclasses.replace(decisions[0], **fields)
    odd.save(tmp_path / "d.json")
    found = Decision.load(tmp_path / "d.json")
    assert np.isnan(found.samples["share"][1]) and np.isnan(found.regret["mean"])


def test_the_commands_exit_2_with_the_file_and_the_field(decisions, general, code, tmp_path, capsys):
    data = decisions[0].to_json() | {"cptlaw_decision": 1, "samples": {"share": "x"}}
    del data["sha256"]
    (tmp_path / "d.json").write_text(json.dumps(data))
    for fit in (general, code):
        fit.save(tmp_path / f"{fit.eval}.json")
    fits = [str(tmp_path / f"{fit.eval}.json") for fit in (general, code)]
    assert cli.main(["plan", "next", "--decision", str(tmp_path / "d.json"), "--fits", *fits]) == 2
    said = capsys.readouterr().err
    assert "d.json: decision.samples.share" in said and "Traceback" not in said
