"""What every command has: quiet and verbose, numbers as they are printed, completion, and no weight before it runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cptlaw.cli import main, parser

ROOT = Path(__file__).parents[2]


def python(code, *, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


def test_help_and_completion_import_nothing_heavy(tmp_path):
    code = """if True:
        import sys
        from cptlaw.cli import main
        for words in (["--help"], ["fit", "--help"], ["train", "--help"], ["completion", "bash"]):
            try: main(words)
            except SystemExit: pass
        heavy = ("numpy", "pandas", "jax", "matplotlib", "absl", "flax")
        print("HEAVY", [name for name in heavy if name in sys.modules])
    """
    done = python(code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.stdout.endswith("HEAVY []\n"), done.stdout[-300:] + done.stderr
    for word in ("--tokens-per-step", "trade-off", "--share", "_shtab_compgen_files", "completion"):
        assert word in done.stdout, "completion knows commands, flags and files"


def test_required_flags_stand_by_themselves(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    needed = capsys.readouterr().out.split("required flags:")[1]
    assert "--config" in needed and "--workdir" in needed and "--seed" not in needed
    with pytest.raises(SystemExit):
        main(["plan", "trade-off", "--help"])
    needed = capsys.readouterr().out.split("required flags:")[1]
    assert all(f"--{name}" in needed for name in ("general", "domain", "params", "tokens"))


@pytest.mark.parametrize(
    "words", [["laws", "--config.seed=3"], ["laws", "--colour"], ["study", "c.py", "--workdir", "w", "--share=x"]]
)
def test_what_no_command_knows_is_refused(capsys, words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and "unrecognized arguments: " + words[-1] in capsys.readouterr().err


def test_numbers_are_read_as_they_are_printed(capsys):
    words = "plan trade-off --general a --domain b --params 7B --tokens 2.1b --tolerance 3% --corpus-tokens code=512k"
    found = parser().parse_args(words.split())
    assert (found.params, found.tokens, found.tolerance) == (7e9, 2.1e9, 0.03)
    assert found.corpus_tokens == {"code": 512e3}
    with pytest.raises(SystemExit):
        parser().parse_args([*words.split(), "--params", "seven"])
    assert "'seven' is not a number, such as 7e9, 7B or 30%" in capsys.readouterr().err


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n = np.repeat([3e7, 1e8, 3e8, 1e9], 4)
    d = np.tile([1e9, 2e9, 4e9, 8e9], 4)
    frame = pd.DataFrame({"Run": n.astype(str), "Params": n, "Tokens": d, "Loss": 1.7 + 400 / n**0.34 + 410 / d**0.28})
    frame.to_csv("t.csv", index=False, sep=";")


def test_quiet_shows_no_notes(table, capsys):
    command = ["runs", "import", "t.csv", "--out", "o.csv"]
    assert main(command) == 0
    assert "note: t.csv" in capsys.readouterr().err
    for words in ([*command, "-q"], ["-q", *command]):
        assert main(words) == 0
        found = capsys.readouterr()
        assert found.err == "" and found.out.startswith("o.csv: 4 runs, 16 rows")


def test_verbose_shows_where_an_error_comes_from(table, capsys):
    assert main(["fit", "none.csv"]) == 2
    assert capsys.readouterr().err == "cptlaw: none.csv: no such file\n"
    assert main(["fit", "none.csv", "-v"]) == 2
    assert "Traceback" in (said := capsys.readouterr().err) and said.endswith("cptlaw: none.csv: no such file\n")
