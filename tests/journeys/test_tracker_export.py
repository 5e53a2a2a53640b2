"""An engineer with the export of a tracker: from the file as it was downloaded to a decision and its page.

Each step is a command, and what to type next is read from what the one before it said.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cptlaw.cli import main

QUICK = ["--bootstrap", "20", "--starts", "4", "--law", "dcpt:constrained=false", "--no-remedies"]
BATCH = 1e9 / 500  # tokens of a step


def losses(params, tokens, share):
    return 1.0 + 60 / params**0.28 + 150 * share**1.3 / tokens**0.35 + 0.5 / (share + 0.1) ** 0.5


@pytest.fixture
def here(tmp_path, monkeypatch):
    """export.csv, as a table of runs with their history is downloaded: a loss column a corpus, steps, config fields."""
    monkeypatch.chdir(tmp_path)
    n, r, step = (
        a.ravel() for a in np.meshgrid([3e7, 1e8, 3e8], [0.1, 0.3, 0.5, 0.8], [0, 500, 2000, 8000], indexing="ij")
    )
    noise = 1 + 1e-3 * np.random.default_rng(0).normal(size=(2, len(n)))
    tokens, all_tokens = np.maximum(step, 1) * BATCH, np.where(step == 0, 8000, step) * BATCH
    table = pd.DataFrame({
        "Name": [f"cpt-{a / 1e6:.0f}M-{b}" if s else f"base-{a / 1e6:.0f}M" for a, b, s in zip(n, r, step)],
        "State": "finished", "_step": step, "n_params": [f"{a / 1e6:g}M" for a in n],
        "mix.med": [f"{100 * b:g}%" for b in r], "mix.web": [f"{100 - 100 * b:g}%" for b in r],
        "val/loss_med": np.where(step == 0, 4.2, losses(n, tokens, r)) * noise[0],
        "val/loss_web": np.where(step == 0, 0.98, 1) * losses(n, all_tokens, 1 - r) * noise[1],
        "val/loss_med__MIN": 0.0, "train/loss (smoothed)": 3.0, "notes": "",
    })  # fmt: skip
    table.drop_duplicates(["Name", "_step"]).to_csv("export.csv", index=False)


def said(capsys, *words):
    """What a command that is refused says; stdout and stderr of one that is not."""
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_from_the_export_to_the_page(here, capsys):
    code, _, err = said(capsys, "fit", "export.csv", "--eval", "med", *QUICK)
    assert code == 2 and "--loss med=val/loss_med,web=val/loss_web" in err
    loss = shlex.split(re.search(r"name them with (--loss \S+)", err)[1].rstrip(";"))

    code, _, err = said(capsys, "fit", "export.csv", "--eval", "med", *QUICK, *loss)
    assert code == 2 and "--columns params=n_params" in err
    mapping = [*loss, "--columns", "params=n_params,w_*=mix.*"]

    code, _, err = said(capsys, "fit", "export.csv", "--eval", "med", *QUICK, *mapping)
    assert code == 2 and "--tokens-per-step N" in err
    mapping += ["--tokens-per-step", f"{BATCH / 1e6:g}M"]

    for name in ("med", "web"):
        code, out, err = said(capsys, "fit", "export.csv", "--eval", name, *QUICK, *mapping, "--out", f"{name}.json")
        assert code == 0 and f"eval {name}: 36 rows, 12 runs" in out and "runs are told by 'Name'" in err

    run = ["--params", "300M", "--tokens", "16B"]
    code, out, _ = said(
        capsys,
        "plan",
        "trade-off",
        "--general",
        "web.json",
        "--domain",
        "med.json",
        *run,
        "--law-only",
        "--out",
        "d.json",
    )
    assert code == 0 and "med" in out
    code, out, _ = said(
        capsys,
        "report",
        "export.csv",
        "--fits",
        "med.json",
        "web.json",
        "--decisions",
        "d.json",
        "-o",
        "page.html",
        "-q",
    )
    assert code == 0 and out == "page.html\n"
    page = Path("page.html").read_text()
    assert "export.csv" in page and "<svg" in page
    code, out, _ = said(capsys, "predict", "med.json", *run, "--ratio", "30%", "--target", "law")
    assert code == 0 and re.search(r"loss [12]\.\d+ +90% \[", out)


def test_the_same_runs_by_an_import_need_no_flags_afterwards(here, capsys):
    mapping = ["--loss", "*=val/loss_*", "--columns", "params=n_params,w_*=mix.*", "--tokens-per-step", "2M"]
    assert said(capsys, "runs", "import", "export.csv", *mapping, "--out", "runs.csv")[0] == 0
    code, out, err = said(capsys, "fit", "runs.csv", "--eval", "med", *QUICK)
    assert code == 0 and "eval med: 36 rows" in out and "note" not in err
