"""Fits of several domains on the command line: asked about a new one from its probe, and about one of theirs."""

import json

import numpy as np
import pandas as pd
import pytest

from cptlaw import cli, fitting, laws, runs

LAW = laws.get("dcpt", constrained=False)
COMMON = {"E": 1.2, "A": 0.006, "alpha": 0.5, "B": 0.02, "beta": 0.5, "eta": 0.3, "C": 0.4, "gamma": 0.5, "eps": 0.05}
ASK = ["--params", "99e3", "--tokens", "8e5"]


def raw(levels: dict[str, float]) -> pd.DataFrame:
    rows = []
    for name, level in levels.items():
        for size in (27e3, 99e3):
            for share in (0.2, 0.5, 0.8):
                for tokens in (5e4, 2e5, 8e5):
                    shares = {f"w_{n}": share if n == name else 0.0 for n in levels}
                    run = {"run": f"{name}-{size:g}-{share}", "params": size, "tokens": tokens, "w_wiki": 1 - share}
                    for corpus, own in (("wiki", 1 - share), (name, share)):
                        x = {"params": size, "tokens": tokens, "ratio": own}
                        loss = float(LAW.predict(COMMON, x)) * np.exp(
                            level * (corpus == name) + 0.002 * len(rows) % 3e-3
                        )
                        rows.append({**run, **shares, "eval": corpus, "loss": loss})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`domain.json` and `wiki.json`, fits of three domains, and `probe.csv` of a fourth."""
    folder = tmp_path_factory.mktemp("domains")
    runs.write(raw({"code": 0.0, "law": 0.1, "chem": -0.1}), folder / "runs.csv")
    pooled = runs.by_domain(runs.read(folder / "runs.csv"), "wiki", (5e4, 2e5))
    for corpus in ("domain", "wiki"):
        nothing = np.zeros(len(pooled), bool)
        fit = fitting.fit(pooled, LAW, corpus, bootstrap=0, starts=4, hold_out=nothing)
        fit.save(folder / f"{corpus}.json")
    new = raw({"music": 0.3})
    runs.write(new[(new["params"] == 27e3) & (new["w_music"] == 0.8) & (new["tokens"] <= 2e5)], folder / "probe.csv")
    runs.write(raw({"music": 0.3, "maths": 0.1}), folder / "two.csv")
    return folder


def told(capsys, *argv: str) -> dict:
    assert cli.main([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_prediction_is_of_the_domain_that_is_named_or_probed(folder, capsys):
    ask = ["predict", str(folder / "domain.json"), *ASK, "--ratio", "0.5"]
    truth = float(LAW.predict(COMMON, {"params": 99e3, "tokens": 8e5, "ratio": 0.5}))
    probed = told(capsys, *ask, "--domain-probe", str(folder / "probe.csv"))["predictions"][0]
    assert probed["loss"] == pytest.approx(truth * np.exp(0.3), rel=0.05)
    named = told(capsys, *ask, "--of-domain", "chem")["predictions"][0]
    assert named["loss"] == pytest.approx(truth * np.exp(-0.1), rel=0.01)
    blind = told(capsys, *ask)["predictions"][0]
    assert blind["high"] - blind["low"] > 1.5 * (probed["high"] - probed["low"])


def test_a_decision_is_made_for_a_probed_domain(folder, capsys):
    fits = ["--general", str(folder / "wiki.json"), "--domain", str(folder / "domain.json")]
    base = str(
        float(LAW.predict(COMMON, {"params": 99e3, "tokens": 8e5, "ratio": 0.3})) / 1.03
    )  # where the loss is steep in the share
    found = told(
        capsys, "plan", "trade-off", *fits, *ASK, "--base-loss", base, "--confidence", "0",
        "--domain-probe", str(folder / "probe.csv"),
    )  # fmt: skip
    assert found["point"]["share"] == pytest.approx(0.7, abs=0.05)
    assert {"music", "wiki"} <= set(found["losses"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--domain-probe", "probe.csv", "--of-domain", "code"], "give one of them"),
        (["--domain-probe", "two.csv"], "it probes maths, music; give one domain's runs"),
        (["--domain-probe", "runs.csv"], "it probes chem, code, law"),
        (["--of-domain", "wine"], "no domain 'wine'"),
    ],
)
def test_what_names_no_domain_is_refused(folder, capsys, flags, words):
    flags = [str(folder / f) if f.endswith(".csv") else f for f in flags]
    assert cli.main(["predict", str(folder / "domain.json"), *ASK, "--ratio", "0.5", *flags]) == 2
    assert words in capsys.readouterr().err
