import numpy as np
import pandas as pd
import pytest

from cptlaw import cli, fitting, laws
from cptlaw.planning.influence import leave_one_out
from cptlaw.planning.share_for_loss import share_for_loss

QUESTION = {"loss": 3.1, "params": 4e5, "tokens": 1e6}


@laws.law(
    [laws.Param("E", linear=True), laws.Param("slope", linear=True), laws.Param("B", linear=True)],
    ["params", "tokens", "ratio"],
)
def straight(p, x, xp):
    return p.E + p.slope * x.ratio + p.B * (1e5 / x.tokens) + 0 * x.params


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    rows = []
    for share in np.linspace(0, 1, 8):
        effect = 0.3 if share == 1 else rng.normal(0, 0.003)  # one run that pulls
        for tokens in (1e5, 1e6):
            loss = 3.4 - 0.6 * share + 0.1 * (1e5 / tokens) + effect
            row = {"run": f"s{share:.2f}", "params": 4e5, "tokens": tokens, "w_a": share, "w_b": 1 - share}
            rows.append({**row, "eval": "a", "loss": loss})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def fitted(table):
    return fitting.fit(table, straight, "a", objective="squared", bootstrap=20, hold_out=np.zeros(len(table), bool))


def test_taking_a_run_out_is_refitting_without_it(table, fitted):
    fit = fitted.alone()
    decision = leave_one_out(share_for_loss, fit, **QUESTION)
    assert decision.influence[0]["run"] == "s1.00"
    rest = fitting.fit(table[table["run"] != "s1.00"], straight, "a", objective="squared", bootstrap=20)
    exact = share_for_loss(rest.alone(), **QUESTION).point["share"]
    assert decision.influence[0]["share without it"] == pytest.approx(exact, abs=1e-4)
    first_order = share_for_loss(fit, **QUESTION).influence[0]
    assert first_order["run"] == "s1.00"
    assert first_order["change"] == pytest.approx(decision.influence[0]["change"], rel=0.6)


@pytest.mark.slow
def test_under_the_predictive_distribution_the_refits_are_too(table, fitted):
    decision = leave_one_out(share_for_loss, fitted, **QUESTION)
    first = decision.influence[0]
    rest = fitting.fit(table[table["run"] != first["run"]], straight, "a", objective="squared", bootstrap=20)
    assert first["share without it"] == pytest.approx(share_for_loss(rest, **QUESTION).point["share"], abs=1e-4)
    assert first["change"] == pytest.approx(first["share without it"] - decision.point["share"])
    # The run that pulls is set right where it lies, so the answer, far from it, hangs on it less than the law's does.
    pull = {row["run"]: row["change"] for row in leave_one_out(share_for_loss, fitted.alone(), **QUESTION).influence}
    assert abs(first["change"]) < abs(pull["s1.00"])


LAW_FILE = """
from cptlaw import laws

@laws.law([laws.Param("E", linear=True), laws.Param("slope", linear=True)], ["params", "tokens", "ratio"])
def straight(p, x, xp):
    return p.E + p.slope * x.ratio + 0 * x.params + 0 * x.tokens
"""


def test_the_command_refits_on_request(table, tmp_path, capsys):
    (tmp_path / "law.py").write_text(LAW_FILE)
    nothing = np.zeros(len(table), bool)
    fit = fitting.fit(table, f"{tmp_path / 'law.py'}:straight", "a", starts=2, bootstrap=20, hold_out=nothing)
    fit.save(tmp_path / "fit.json")
    words = [
        "plan",
        "share",
        "--fit",
        str(tmp_path / "fit.json"),
        "--params",
        "4e5",
        "--tokens",
        "1e6",
        "--loss",
        "3.1",
        "--law",
        f"{tmp_path / 'law.py'}:straight",
    ]
    assert cli.main([*words, "--exact", "--law", f"{tmp_path / 'law.py'}:straight"]) == 0
    assert "without the run" in capsys.readouterr().out
