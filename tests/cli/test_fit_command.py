"""The commands as a user meets them."""

import json
import subprocess
import sys

import pytest

from cptlaw import laws
from cptlaw.cli import main


@pytest.fixture(scope="module")
def csv(chinchilla_table, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "runs.csv"
    chinchilla_table.rename(columns={"params": "N", "loss": "val"}).to_csv(path, index=False)
    return path


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
