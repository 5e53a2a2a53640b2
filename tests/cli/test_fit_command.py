"""The commands as a user meets them."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from cptlaw import laws, registry
from cptlaw.cli import main
from cptlaw.fitting import trials
from cptlaw.fitting.verdicts import Tried


@pytest.fixture(scope="module")
def csv(chinchilla_table, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "runs.csv"
    chinchilla_table.rename(columns={"params": "N", "loss": "val"}).to_csv(path, index=False)
    return path


CHINCHILLA = {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}
COMMON = ["--columns", "params=N,loss=val", "--json"]
FIT = ["--law", "chinchilla", "--starts", "8"]


def test_fit_then_predict(csv, tmp_path, capsys):
    out = tmp_path / "fit.json"
    plots = tmp_path / "plots"
    assert main(["fit", str(csv), *COMMON, *FIT, "--bootstrap", "20", "--out", str(out), "--plot", str(plots)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["intervals"]["alpha"][0] < told["params"]["alpha"] < told["intervals"]["alpha"][1]
    assert told["scores"]["held_out"]["law"]["mean_log"] < told["scores"]["held_out"]["nearest_size"]["mean_log"]
    assert {path.name for path in plots.iterdir()} == {"curves.png", "residuals.png", "observed.png"}
    assert main(["predict", str(out), "--params", "1e9,7e9", "--tokens", "20e9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert len(found) == 2 and all(row["low"] < row["loss"] < row["high"] for row in found)
    assert main(["predict", str(out), "--params", "7e9", "--tokens", "20e9"]) == 0
    assert "above the fitted range" in capsys.readouterr().out


def test_the_readable_report_names_what_matters(csv, capsys):
    assert main(["fit", str(csv), "--columns", "params=N,loss=val", *FIT, "--bootstrap", "10", "--influence"]) == 0
    text = capsys.readouterr().out
    for word in ("alpha", "90% [", "held out", "nearest_size", "starts", "resamples", "runs that move the fit most"):
        assert word in text


def test_compare_ranks_laws_and_baselines(csv, capsys):
    assert main(["compare", str(csv), *COMMON, "--laws", "chinchilla,cmr_tokens,dcpt", "--fold", "size"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in told["ranking"]]
    assert names[0] == "chinchilla" and {"cmr_tokens", "nearest_size", "mean"} <= set(names)
    assert told["ranking"][0]["behind"] == 0 < told["ranking"][1]["behind_low"]
    assert "w_web" in told["refused"]["dcpt"] and len(told["folds"]) == 5


def test_compare_asks_forward_questions_and_leads_with_the_win_or_loss(csv, capsys):
    asked = ["compare", str(csv), "--columns", "params=N,loss=val", "--laws", "chinchilla,auto"]
    assert main([*asked, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ranking"][0]["name"] in ("auto", "chinchilla, corrected") and told["standing"]["wins"] is True
    assert told["asked"]["size"]["rows"] == 12 and told["alike"] == ["nearest_size = carry_tokens"]
    assert main([*asked[:-1], "chinchilla", "--no-auto"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == told["headline"].replace("auto errs", "chinchilla, corrected errs")
    assert not any(line.split()[1:2] == ["auto"] for line in rest) and any(
        "12 rows of 12 runs" in line for line in rest
    )
    assert main([*asked, "--shared", "E"]) == 2
    assert "--fold" in capsys.readouterr().err


@pytest.fixture(scope="module")
def rejected(tmp_path_factory):
    """8 sizes of Chinchilla, each run twice, whose losses bend away from it along tokens."""
    rng, rows = np.random.default_rng(0), []
    for n in np.geomspace(0.1e9, 3e9, 8):
        for seed in (0, 1):
            d = np.geomspace(1e9, 30e9, 6)
            off = 0.004 * rng.standard_normal() + 5e-4 * rng.standard_normal(6) + 0.01 * np.cos(3 * np.log(d))
            loss = laws.get("chinchilla").predict(CHINCHILLA, {"params": n, "tokens": d}) * np.exp(off)
            rows += [(f"{n:.3g}-{seed}", n, t, "web", y) for t, y in zip(d, loss)]
    path = tmp_path_factory.mktemp("rejected") / "runs.csv"
    pd.DataFrame(rows, columns=["run", "params", "tokens", "eval", "loss"]).to_csv(path, index=False)
    return path


def test_a_rejected_law_is_the_first_line(rejected, capsys, monkeypatch):
    tried = Tried("web", "another law", "--law x", (0.02, 0.01), (0.02, 0.01), 8, 4)
    monkeypatch.setattr(trials, "tried", lambda table, law, corpora, **rest: (tried,))
    asked = ["fit", str(rejected), *FIT, "--bootstrap", "0"]
    assert main(asked) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "REJECTED: the table rejects the law chinchilla: of web, runs that repeat a setting differ by"
    )
    assert second.startswith("What helps, tried on held-out rows") and "(--law x): the law errs by 1.00%" in third
    assert main([*asked, "--no-remedies", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rejection"] == [first] and told["remedies"] == [] and told["standing"]["best"]
    assert {test["what"] for test in told["lack_of_fit"]["web"]["tests"]} == {"settings", "curves", "along tokens"}


def test_the_table_is_thinned_and_given_its_learnability_before_the_fit(dcpt_table, tmp_path, capsys):
    path = tmp_path / "dcpt.csv"
    dcpt_table.to_csv(path, index=False)
    law = ["fit", str(path), "--law", "cross_domain", "--eval", "code,web", "--shared", "all"]
    for flags, words in {
        (): "k1",
        ("--learnability", "1e3,2e3"): "no probing run was evaluated at 1000 tokens",
        ("--thin", "-1"): "thinning rate -1",
    }.items():
        assert main([*law, *flags]) == 2
        assert words in capsys.readouterr().err


def test_laws_lists_every_law(capsys):
    assert main(["laws", "--json"]) == 0
    assert {law["name"] for law in json.loads(capsys.readouterr().out)} == set(laws.names())
    assert main(["laws"]) == 0
    assert "B r^eta/D^beta" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        ({"loss": "x"}, [], "line 2: loss x is not a number"),
        ({"params": 0.5}, [], "in billions"),
        ({}, ["--law", "chinchila"], "did you mean 'chinchilla'"),
        ({}, ["--law", "dcpt"], "no column w_web"),
        ({}, ["--columns", "params"], "OURS=THEIRS"),
        ({}, ["--where", "params > 1e12"], "no row satisfies"),
        ({}, ["--where", "params < 1e8 and tokens < 2e10"], "are too few"),
        ({}, ["--hold-out", "N > 1"], "hold-out"),
        ({}, ["--starts", "0"], "--starts 1 or more"),
        ({}, ["--fix", "omega=1"], "no omega to fix"),
    ],
)
def test_what_the_user_can_mend_exits_2_without_a_traceback(chinchilla_table, tmp_path, capsys, change, flags, words):
    path = tmp_path / "runs.csv"
    chinchilla_table.assign(**change).to_csv(path, index=False)
    assert main(["fit", str(path), "--law", "chinchilla", "--bootstrap", "0", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_predict_refuses_bad_files_and_questions(tmp_path, capsys):
    assert main(["predict", str(tmp_path / "absent.json"), "--params", "1e9"]) == 2
    assert "no such file" in capsys.readouterr().err


def loaded(program):
    """Modules that a program leaves loaded in a process of its own."""
    told = subprocess.run([sys.executable, "-c", f"import sys; {program}; print(*sys.modules, file=sys.stderr)"],
                          check=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    return set(told.stderr.split("\n")[-2].split())


def test_importing_is_instant_and_fitting_loads_nothing_heavy(csv):
    assert not {"numpy", "pandas", "jax", "scipy"} & loaded("import cptlaw, cptlaw.cli")
    args = ["fit", str(csv), "--columns", "params=N,loss=val", "--law", "chinchilla", "--bootstrap", "0"]
    modules = loaded(f"from cptlaw.cli import main; assert main({args!r}) == 0")
    assert "jax" in modules and not {"tensorflow", "flax", "seqio", "orbax", "matplotlib", "scipy.optimize"} & modules


def test_predict_runs_a_users_law_only_when_it_is_named(csv, tmp_path, capsys):
    own, mark, out = tmp_path / "mine.py", tmp_path / "ran", str(tmp_path / "fit.json")
    own.write_text(
        f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n"
        "from cptlaw.laws import Param, law\n"
        "@law([Param('E', low=0, linear=True), Param('B', low=0, linear=True)], ['tokens'])\n"
        "def mine(p, x, xp):\n    return p.E + p.B * (x.tokens / 1e9) ** -0.4\n"
    )
    named = ["--law", f"{own}:mine"]
    assert main(["fit", str(csv), *COMMON, *named, "--starts", "2", "--bootstrap", "0", "--out", out]) == 0
    mark.unlink()
    asked = ["predict", out, "--tokens", "1e9"]
    assert main(asked) == 2 and "--law mine.py:mine" in capsys.readouterr().err
    assert main(["plan", "share", "--fit", out, "--params", "1e9", "--tokens", "1e9", "--loss", "2"]) == 2
    assert (
        main(["report", str(csv), "--fits", out, "-o", str(tmp_path / "r.html"), "--columns", "params=N,loss=val"]) == 2
    )
    own.write_text(own.read_text() + "# changed\n")
    assert main([*asked, *named]) == 2 and "has changed since the fit" in capsys.readouterr().err
    assert not mark.exists()
    own.write_text(own.read_text().removesuffix("# changed\n"))
    registry._run.cache_clear()  # as in a process of its own
    assert main([*asked, *named]) == 0 and mark.exists()


def test_predict_refuses_what_was_not_measured_and_says_what_rests_on_it(dcpt_table, tmp_path, capsys):
    table, out = tmp_path / "one.csv", str(tmp_path / "fit.json")
    dcpt_table[(dcpt_table["eval"] == "code") & (dcpt_table["w_code"] == 0.5)].to_csv(table, index=False)
    assert main(["fit", str(table), "--bootstrap", "2", "--starts", "4", "--out", out]) == 0
    told = capsys.readouterr().out
    assert "eta" in told and "not determined: ratio never varied" in told
    assert "params, tokens count in billions (1e9)" in told and "\n  D_min" in told
    asked = ["predict", out, "--params", "1e9", "--tokens", "5e9", "--ratio"]
    assert main([*asked, "0.3"]) == 2
    assert "ratio = 0.3: every fitted row has ratio = 0.5" in capsys.readouterr().err
    assert main([*asked, "0.5"]) == 0
    assert "this holds at ratio = 0.5 only" in capsys.readouterr().out
    assert main([*asked, "0.5", "--at", "ratio=0.5"]) == 2 and "given twice" in capsys.readouterr().err
    assert main([*asked, "0.5", "--law", "mine.py:mine"]) == 2 and "leave --law out" in capsys.readouterr().err


def test_published_coefficients_are_scored_without_fitting(csv, capsys):
    values = {"E": 1.7, "A": 0.5, "alpha": 0.35, "B": 1.2, "beta": 0.37}
    fixed = [word for name, value in values.items() for word in ("--fix", f"{name}={value}")]
    assert main(["fit", str(csv), "--columns", "params=N,loss=val", "--law", "chinchilla", *fixed]) == 0
    told = capsys.readouterr().out
    assert "every parameter is held: nothing was fitted" in told and told.count("   held\n") == 5 and "held out" in told
    assert main(["fit", str(csv), *COMMON, "--law", "chinchilla", "--fix", "E=1,2"]) == 2
    assert "one value, once" in capsys.readouterr().err


def test_columns_of_dates_and_lists_do_not_lose_the_fit(chinchilla_table, tmp_path, capsys):
    import pandas as pd

    path, out = tmp_path / "runs.parquet", tmp_path / "fit.json"
    chinchilla_table.assign(when=pd.Timestamp("2026-01-01"), tags=[["a", "b"]] * 30).to_parquet(path)
    assert main(["fit", str(path), *FIT, "--bootstrap", "2", "--out", str(out), "--json"]) == 0
    capsys.readouterr()
    assert main(["predict", str(out), "--params", "1e9", "--tokens", "5e9"]) == 0
