import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from cptlaw import cli, laws, runs
from cptlaw.planning.decision import Decision

BOTH = ["--general", "general.json", "--domain", "code.json"]
RUN = ["--params", "8e5", "--tokens", "1e6"]


def another(fit, law, eval):
    """A fit of another law and corpus, on the same runs."""
    theta = dict.fromkeys(law.names, 0.5)
    return dataclasses.replace(
        fit, law=law, eval=eval, params=theta, samples={name: np.full(200, 0.5) for name in theta}, influence={},
        residuals=fit.residuals.assign(eval=eval),
        ranges={name: fit.ranges.get(name, (0.0, 1.0)) for name in law.columns},
    )  # fmt: skip


@pytest.fixture
def saved(tmp_path, general, code, monkeypatch):
    general.save(tmp_path / "general.json")
    for name, law in (("size", laws.get("chinchilla")), ("web", laws.get("mixing", corpora=("web", "math")))):
        another(general, law, name).save(tmp_path / f"{name}.json")
    code.save(tmp_path / "code.json")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "question",
    [
        ["trade-off", *BOTH, *RUN, "--base-loss", "3.26"],
        ["trade-off", *BOTH, *RUN, "--base-loss", "3.26", "--rise", "0.1"],
        ["share", "--fit", "general.json", *RUN, "--loss", "3.4"],
        ["limited-data", "--domain", "code.json", "--params", "8e5", "--domain-tokens", "1e5", "--max-epochs", "3"],
        ["budget", "--domain", "code.json", "--flops", "4e12", "--share", "0.5", "--sizes", "5e4,8e5"],
        ["budget", "--domain", "code.json", "--general", "general.json", "--flops", "4e12", "--ceiling", "3.4"],
        ["pareto", *BOTH, *RUN, "--points", "3"],
    ],
    ids=lambda words: "-".join(words[:1]),
)  # fmt: skip
def test_every_question_answers_in_text_and_json_and_saves(saved, capsys, question):
    assert cli.main(["plan", *question, "--out", "d.json"]) == 0
    text = capsys.readouterr().out
    decision = Decision.load("d.json")
    assert decision.question in text and decision.answer in text
    assert cli.main(["plan", *question, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == decision.answer


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (["trade-off", "--general", "prose", "--domain", "code.json", *RUN, "--base-loss", "3"], "give --table"),
        (["trade-off", *BOTH, *RUN], "--base-loss"),
        (["trade-off", "--general", "no.json", "--domain", "code.json", *RUN, "--base-loss", "3"], "no such file"),
        (["share", "--fit", "general.json", *RUN, "--loss", "9"], "losses go from"),
        (["budget", "--domain", "code.json", "--flops", "1", "--share", "0.5"], "give at least"),
        (["trade-off", *BOTH, "--params", "0.8", "--tokens", "1e6", "--base-loss", "3"], "is it in billions"),
        (["limited-data", "--domain", "code.json", "--params", "8e5", "--domain-tokens", "5"], "is it in billions"),
        (["trade-off", "--general", "code.json", "--domain", "code.json", *RUN, "--base-loss", "3"], "one of each"),
        (
            ["trade-off", "--general", "size.json", "--domain", "code.json", *RUN, "--base-loss", "3"],
            "not read the mix",
        ),
        (["pareto", "--general", "size.json", "--domain", "code.json", *RUN], "not read the mix"),
        (["share", "--fit", "size.json", *RUN, "--loss", "3"], "not read the mix"),
        (["limited-data", "--domain", "size.json", "--params", "8e5", "--domain-tokens", "1e5"], "not read the mix"),
        (["trade-off", "--general", "web.json", "--domain", "code.json", *RUN, "--base-loss", "3"], "reads w_math"),
        (["next", "--predict", "params=8e5,tokens=1e6,w_code=2", "--fits", "code.json"], "not a share"),
        (["next", "--predict", "params=8e5", "--fits", "code.json"], "candidates: params, tokens, w_<corpus>"),
        (["next", "--predict", "params=0.5,tokens=1e6", "--fits", "code.json"], "is it in billions"),
        (
            [
                "design",
                "--assume",
                "code.json",
                *RUN,
                "--ratio",
                "2",
                "--precision",
                "0.1",
                "--sizes",
                "1e5",
                "--lengths",
                "1e6",
            ],
            "ratio 2 is not a share",
        ),
    ],
)
def test_a_question_that_cannot_be_answered_exits_with_what_to_do(saved, capsys, question, words):
    assert cli.main(["plan", *question]) == 2
    assert words in capsys.readouterr().err


def test_the_base_loss_comes_from_the_table(saved, capsys):
    row = {"run": "base", "params": 8e5, "tokens": 0, "w_general": 1.0, "w_code": 0.0, "eval": "general", "loss": 3.26}
    runs.write(pd.DataFrame([row]), "runs.csv")
    assert cli.main(["plan", "trade-off", *BOTH, *RUN, "--table", "runs.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inputs"]["base_loss"] == 3.26
    assert cli.main(["plan", "trade-off", *BOTH, "--params", "1e6", "--tokens", "1e6", "--table", "runs.csv"]) == 2
    assert "such rows for 800k" in capsys.readouterr().err


def test_planning_from_saved_fits_needs_no_jax(saved):
    question = ["plan", "trade-off", *BOTH, *RUN, "--base-loss", "3.26"]
    program = f"import sys; from cptlaw import cli; code = cli.main({question}); sys.exit(code or 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
