"""A question that the grid or the law cannot answer is refused before any corpus is read."""

import pytest

from cptlaw import cli
from cptlaw.fields import ConfigError
from cptlaw.studies import answerable, prepared
from cptlaw.studies import config as config_lib

MIXTURE = {"kind": "mixture"}
THREE = {"corpora": {"prose": "a", "code": "b", "law": "c"}, "domains": ("code", "law"), "fit": {"law": "mixing"}}
SIMPLEX = {"grid": {size: {"simplex": {"count": 6, "floors": {"prose": 0.4}}} for size in ("small", "large")}}

ALL_THREE = [{"prose": prose, "code": 0.9 - prose, "law": 0.1} for prose in (0.3, 0.8)]


def pairs(*shares, **sizes):
    return {"grid": {size: {"domain_shares": sizes.get(size, shares)} for size in ("small", "large")}}


@pytest.mark.parametrize(
    "changes, says",
    [
        (pairs(0.5), r"config\.grid: a trade-off question compares mixes, and .* have 1 of prose, code alone"),
        ({**THREE, "grid": {size: {"mixes": ALL_THREE} for size in ("small", "large")}},
         r"config\.grid: .* have 0 of prose, code alone"),
        ({**THREE, **pairs(0.5, 0.9), "question": MIXTURE, "fit": {"law": "joint_mixture"}},
         r"config\.fit\.law: .*too few"),
        ({**THREE, **SIMPLEX, "question": {**MIXTURE, "caps": {"prose": 0.3}}},
         r"config\.question: no blend of the meas"),
        ({**pairs(0.1, 0.5, large=()), **pairs(0.1, 0.5), "question": {"kind": "budget", "flops": 1e12},
          "eval_tokens": (256,), "held_out__tokens": 0}, r"config\.grid: every fitted run .* the same params"),
        ({**pairs(0.1, 0.5), "eval_tokens": (256,), "held_out": {"size": "large", "tokens": 256},
          "question": {"kind": "limited-data"}}, r"config\.grid: every fitted run .* the same tokens"),
        ({**pairs(0.1, 0.5), "held_out": {"size": "large", "tokens": 0}}, r"config\.question: it is about .* params"),
        ({**pairs(0.1, 0.5), "sizes": {"small": {}, "large": {"d_model": 16}, "huge": {"d_model": 32}},
          "held_out": {"size": "large", "tokens": 256}, "question": {"size": "huge"}},
         r"config\.question: its ceiling is relative to the base model's loss at size 'huge'"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_said(make_config, changes, says):
    study = config_lib.parse(make_config(**changes))
    with pytest.raises(ConfigError, match=says):
        answerable.check(study)


@pytest.mark.parametrize(
    "changes",
    [
        {**pairs(0.1, 0.5, 0.9), "fit": {"law": "mixing"}, "held_out": {"size": "large", "tokens": 128}},
        {**THREE, **SIMPLEX, "question": MIXTURE, "held_out": {"size": "large", "tokens": 128}},
        {**THREE, **SIMPLEX, "question": {**MIXTURE, "caps": {"prose": 0.3}, "beyond": True}},
    ],
)
def test_what_can_be_answered_passes(make_config, changes):
    answerable.check(config_lib.parse(make_config(**changes)))


def test_the_command_refuses_before_it_reads(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(prepared.build, "prepare", lambda *_, **__: pytest.fail("it must be refused first"))
    path = tmp_path / "config.py"
    path.write_text(
        "from cptlaw.configs import demo\ndef get_config():\n    config = demo.get_config('fast')\n"
        "    for size in config.grid: config.grid[size] = {'domain_shares': (0.5,)}\n    return config\n"
    )
    assert cli.main(["study", str(path), "--workdir", str(tmp_path / "work"), "--quiet"]) == 2
    assert "a trade-off question compares mixes" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
