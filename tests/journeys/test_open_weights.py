"""A practitioner with a model as downloaded and two kinds of text: from the folder to a page, by commands alone."""

import sys
from pathlib import Path

import pandas as pd
import pytest

from cptlaw import cli

sys.path.insert(0, str(Path(__file__).parent))
from people import practitioner

QUICK = ["--law", "cmr_tokens", "--bootstrap", "20", "--starts", "4", "--no-remedies"]


def command(capsys, *words):
    code = cli.main(list(map(str, words)))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


@pytest.mark.slow
def test_from_a_folder_of_weights_and_text_to_the_page(tmp_path, monkeypatch, capsys):
    config = practitioner(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the config's paths are taken from its own folder

    said = command(capsys, "footprint", "--config", config, "--devices", 1, "--gib", 16, "--tflops", 1)
    assert "tiny" in said
    command(capsys, "prepare", "--config", config, "--workdir", "runs")
    command(capsys, "sweep", "--config", config, "--workdir", "runs")
    table = pd.read_csv("runs/runs.csv")
    assert sorted(table["w_law"].unique()) == [0.1, 0.3, 0.5, 0.9] and set(table["eval"]) == {"notes", "law"}
    last = table[table["tokens"] == table["tokens"].max()].set_index("eval")
    before = table[table["tokens"] == 0].groupby("eval")["loss"].first()
    assert (last.loc["law", "loss"] < before["law"]).all(), "what was trained learned"

    for name in ("notes", "law"):
        said = command(capsys, "fit", "runs/runs.csv", "--eval", name, "--out", f"{name}.json", *QUICK)
        assert f"eval {name}: " in said
    command(capsys, "fit", "runs/runs.csv", "--eval", "law", *QUICK, "--plot", "law.svg", "--plot-width", 3.3)
    assert "<svg" in Path("law.svg").read_text()
    command(capsys, "report", "runs/runs.csv", "--fits", "law.json", "notes.json", "-o", "page.html", "-q")
    assert "<svg" in Path("page.html").read_text()
