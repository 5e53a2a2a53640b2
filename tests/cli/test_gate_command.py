"""`cptlaw plan gate` from a table, and what it refuses before anything is fitted."""

import json

import numpy as np
import pandas as pd
import pytest

from cptlaw.cli import main


@pytest.fixture
def table(tmp_path):
    rows = [
        {"run": f"{name}-{n:g}", "params": n, "tokens": d, "w_code": share, "w_web": 1 - share, "eval": name_eval,
         "loss": 1.5 + 60 / n**0.3 + 150 / d**0.35 - better * share}
        for name, share in (("a", 0.25), ("b", 0.5)) for n in (1e7, 3e7, 1e8) for d in (2e8, 6e8, 2e9)
        for name_eval, better in (("code", 0.3), ("web", -0.1))
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    path = tmp_path / "runs.csv"
    table = pd.DataFrame(rows)
    table.assign(loss=table["loss"] + 0.002 * rng.normal(size=len(table))).to_csv(path, index=False)
    return path


def asked(path, *flags):
    return ["plan", "gate", "--table", str(path), "--params", "300M", "--tokens", "4B", *flags]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--baseline", "w_code == 0.3", "--candidate", "w_code == 0.5"], "--baseline: no row of"),
        (["--baseline", "w_code == 0.25", "--candidate", "w_code == 0.5"], "--eval: choose the corpus"),
        (["--baseline", "w_cod == 0.25", "--candidate", "w_code == 0.5"], "w_cod"),
    ],
)
def test_what_is_no_ladder_is_refused(table, capsys, flags, message):
    assert main(asked(table, *flags)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_ladders_of_a_table_and_their_page(table, tmp_path, capsys):
    page = tmp_path / "gate.html"
    flags = ["--baseline", "w_code == 0.25", "--candidate", "w_code == 0.5", "--bootstrap", "50", "--no-remedies"]
    assert main(asked(table, *flags, "--eval", "code", "--json", "--page", str(page))) == 0
    found = json.loads(capsys.readouterr().out)
    low, high = found["interval"]["loss ratio"]
    truth = 1.5 + 60 / 3e8**0.3 + 150 / 4e9**0.35
    assert low < (truth - 0.15) / (truth - 0.075) < high
    assert found["agreement"] > 0.9 and found["inputs"]["rungs"] == 9
    assert "compute saved" in page.read_text() and "candidate wins" in page.read_text()
