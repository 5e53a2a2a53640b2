"""Somebody with a law of their own, in a file of their own: from the shipped table to a decision and its page."""

import re
from pathlib import Path

import pytest

from cptlaw import cli

LAW = """
from cptlaw.laws import Param, law

@law(
    [Param("E", low=0, linear=True), Param("A", low=0, linear=True), Param("alpha", 0, 2, start=(0.1, 1)),
     Param("B", low=0, linear=True), Param("beta", 0, 2, start=(0.1, 1))],
    ["params", "tokens", "ratio"],
)
def own_tokens(p, x, xp):
    return p.E + p.A / (x.params / 1e6) ** p.alpha + p.B / (1e-3 + x.ratio * x.tokens / 1e6) ** p.beta
"""
ROWS = ["--where", "lr > 0 and w_code + w_wiki > 0.99 and w_code > 0 and params < 2e6"]


def command(capsys, *words):
    code = cli.main(list(map(str, words)))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_from_a_law_in_a_file_to_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    law = ["--law", "mine.py:own_tokens"]
    code, _, err = command(capsys, "fit", "cpt8", "--eval", "code", *ROWS, *law)
    assert code == 2 and "no such file mine.py; a law of your own is given as FILE.py:NAME" in err
    Path("mine.py").write_text(LAW)
    quick = ["--bootstrap", "20", "--starts", "8", "--no-remedies"]
    for name in ("code", "wiki"):
        code, out, err = command(capsys, "fit", "cpt8", "--eval", name, *ROWS, *law, *quick, "--out", f"{name}.json")
        assert code == 0 and f"eval {name}: " in out, err

    at = ["--params", "755k", "--tokens", "1.5M", "--ratio", "30%"]
    code, _, err = command(capsys, "predict", "code.json", *at)
    assert code == 2 and "fitted by a user's law" in err
    said = re.search(r"--law \S+mine\.py:own_tokens|--law mine\.py:own_tokens", err)
    assert said, "it says what to type"
    code, out, err = command(capsys, "predict", "code.json", *at, *said[0].split())
    assert code == 0 and re.search(r"loss 2\.\d+", out), err
    asked = ["--general", "wiki.json", "--domain", "code.json", *at[:4], "--base-loss", "3.57"]
    code, out, err = command(capsys, "plan", "trade-off", *asked, *law, "--out", "decision.json", "--plot", "share.pdf")
    assert code == 0 and "code text" in out and Path("share.pdf").read_bytes().startswith(b"%PDF"), err
    files = ["--fits", "code.json", "wiki.json", "--decisions", "decision.json"]
    code, out, err = command(capsys, "report", "cpt8", *files, *law, "-o", "page.html", "-q")
    assert code == 0 and "own_tokens" in Path("page.html").read_text(), err
    assert "<svg" in Path("page_figures/front.svg").read_text()

    Path("mine.py").write_text(LAW + "\nraise SystemExit('this was run')\n")
    code, _, err = command(capsys, "predict", "code.json", *at, *law)
    assert code == 2 and "has changed since the fit" in err and "nothing of it was run" in err
