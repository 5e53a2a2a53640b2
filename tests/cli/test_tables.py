"""The flags by which every command reads a table, on the tables that trackers export."""

import json

import numpy as np
import pandas as pd
import pytest

from cptlaw.cli import main, tables
from cptlaw.errors import UserError


def losses(params, tokens, share):
    return 1.0 + 60 / params**0.28 + 150 * share**1.3 / tokens**0.35 + 0.5 / (share + 0.1) ** 0.5


@pytest.fixture(scope="module")
def frames():
    """The same runs as rows of one corpus each, and with one loss column a corpus."""
    n, r, d = (
        a.ravel() for a in np.meshgrid([3e7, 1e8, 3e8, 1e9], [0.1, 0.3, 0.5, 0.8], [1e9, 4e9, 16e9], indexing="ij")
    )
    noise = 1 + 1e-3 * np.random.default_rng(0).normal(size=(2, len(n)))
    both = {"code": losses(n, d, r) * noise[0], "web": losses(n, d, 1 - r) * noise[1]}
    base = pd.DataFrame(
        {"run": [f"{a:.0e}-{b}" for a, b in zip(n, r)], "params": n, "tokens": d, "w_code": r, "w_web": 1 - r}
    )
    long = pd.concat([base.assign(eval=name, loss=loss) for name, loss in both.items()], ignore_index=True)
    return long, base.assign(**{f"val/loss_{name}": loss for name, loss in both.items()})


@pytest.fixture
def here(tmp_path, monkeypatch, frames):
    monkeypatch.chdir(tmp_path)
    long, wide = frames
    long.to_csv("long.csv", index=False)
    wide.to_csv("wide.csv", index=False)
    long.rename(columns={"params": "N", "tokens": "D", "loss": "eval/loss, nats"}).to_csv("foreign.csv", index=False)
    long[long["eval"] == "code"].drop(columns="eval").to_csv("one.csv", index=False)


QUICK = ["--bootstrap", "0", "--starts", "4", "--law", "dcpt:constrained=false"]
WIDE = ["--loss", "code=val/loss_code,web=val/loss_web"]
FOREIGN = ["--columns", 'params=N,tokens=D,loss="eval/loss, nats"']


def told(capsys):
    return json.loads(capsys.readouterr().out)


def test_one_fit_from_every_form_of_the_table(here, capsys):
    found = {}
    for name, flags in {
        "long": [], "wide": WIDE, "foreign": FOREIGN, "one": [], "wide ": ["--losses", "code=val/loss_code"],
        "foreign ": ["--columns", "params=N", "--columns", "tokens=D", "--columns", "loss=eval/loss, nats"],
    }.items():  # fmt: skip
        assert main(["fit", f"{name.strip()}.csv", *flags, *QUICK, "--eval", "code", "--json"]) == 0
        found[name] = told(capsys)["params"]
    assert all(params == found["long"] for params in found.values())


def test_compare_plan_and_report_read_the_same_forms(here, monkeypatch):
    from cptlaw import fitting, runs

    seen = []

    def look(table, *args, **kwargs):
        seen.append(runs.digest(table[table["eval"] == "code"]))
        raise UserError("seen")

    monkeypatch.setattr(fitting, "fit", look)
    monkeypatch.setattr(fitting, "contest", look)
    for name, flags in {"long": [], "wide": WIDE, "foreign": FOREIGN, "one": ["--eval", "code"]}.items():
        table = f"{name}.csv"
        own = ["--losses" if flag == "--loss" else flag for flag in flags]
        run = ["--params", "1e9", "--tokens", "8e9"]
        for words in (
            ["fit", table, *flags],
            ["compare", table, *flags],
            ["report", table, *flags, "--domain", "code"],
            ["plan", "trade-off", "--general", "web", "--domain", "code", *run, "--table", table, *flags],
            ["plan", "share", "--fit", "code", "--loss", "2.0", *run, "--table", table, *own],
            ["plan", "mixture", "--fits", "code", "--table", table, *flags],
        ):
            assert main(words) == 2
    assert len(seen) == 24 and len(set(seen)) == 1


def test_a_wide_table_says_what_to_type_and_typing_it_works(here, capsys):
    assert main(["fit", "wide.csv", "--eval", "code", *QUICK]) == 2
    said = capsys.readouterr().err
    flags = said.rsplit("name them with ", 1)[1].split()
    assert main(["fit", "wide.csv", "--eval", "code", *QUICK, *flags]) == 0


def test_where_is_one_language_everywhere_and_runs_nothing(here, capsys, tmp_path):
    bad = "@pd.io.common.os.system('touch pwned')"
    for words in (
        ["fit", "long.csv", "--eval", "code", *QUICK, "--where", bad],
        ["fit", "long.csv", "--eval", "code", *QUICK, "--hold-out", bad],
        ["compare", "long.csv", "--eval", "code", "--laws", "chinchilla", "--where", bad],
        ["plan", "mixture", "--fits", "code", "--table", "long.csv", "--where", bad],
        ["report", "long.csv", "--where", bad],
        ["report", "long.csv", "--hold-out", bad, "--bootstrap", "0"],
    ):  # fmt: skip
        assert main(words) == 2
        assert "unexpected '@'" in capsys.readouterr().err
    assert not (tmp_path / "pwned").exists()
    assert (
        main(
            ["fit", "long.csv", "--eval", "code", *QUICK, "--where", "params < 5e8 and tokens in [1e9, 4e9]", "--json"]
        )
        == 0
    )
    assert told(capsys)["n_rows"] == 24


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--columns", "params"], "--columns params: write OURS=THEIRS"),
        (["--columns", "params=N,params=M"], "params is given twice"),
        (["--columns", "params=M"], "no header 'M'"),
        (["--loss", "val/loss_code"], "--loss val/loss_code: write CORPUS=THEIRS"),
        (["--loss", "code=val/loss_cod"], "the table has a column eval"),
        (["--encoding", "utf-9"], "no such encoding"),
        (["--max-line", "10"], "is longer than 10 bytes"),
        (["--where", "params <"], "something is missing"),
        (["--eval", "law"], "the table evaluates code, web"),
    ],
)
def test_flags_that_cannot_be_used_say_so(here, capsys, flags, words):
    assert main(["fit", "long.csv", "--eval", "code", *QUICK, *flags]) == 2
    assert words in capsys.readouterr().err


def test_what_was_understood_is_told_once_on_stderr(here, capsys):
    pd.read_csv("long.csv").rename(columns=str.title).to_csv("title.csv", index=False, sep=";", decimal=",")
    assert main(["fit", "title.csv", "--eval", "code", *QUICK, "--json"]) == 0
    out, err = capsys.readouterr()
    json.loads(out)
    assert err.count("note: title.csv: ") == 3 and "semicolons" in err and "decimal commas" in err


def test_a_table_of_one_corpus_asks_for_its_name(here, capsys):
    words = [
        "plan",
        "share",
        "--fit",
        "code",
        "--table",
        "one.csv",
        "--params",
        "1e9",
        "--tokens",
        "8e9",
        "--loss",
        "2",
    ]
    assert main(words) == 2
    assert "names its corpus with --eval CORPUS" in capsys.readouterr().err


def test_corpora_with_commas_can_be_asked_for(here, frames, capsys):
    odd = frames[0].rename(columns={"w_code": "w_a,b"}).replace({"eval": {"code": "a,b"}})
    odd.to_csv("odd.csv", index=False)
    for name in ("a,b", '"a,b"'):
        assert main(["fit", "odd.csv", "--eval", name, *QUICK, "--json"]) == 0
        assert told(capsys)["eval"] == "a,b"


def test_columns_that_no_law_reads_do_not_stop_a_fit(here, frames, capsys):
    rich = frames[0].assign(when=pd.Timestamp("2026-01-01"), tags=[["x"]] * len(frames[0]))
    rich.to_parquet("rich.parquet")
    assert main(["fit", "rich.parquet", "--eval", "code", *QUICK, "--out", "fit.json"]) == 0
    assert "tags hold lists or objects and are left out" in capsys.readouterr().err
    assert main(["predict", "fit.json", "--params", "1e9", "--tokens", "1e9", "--ratio", "0.5"]) == 0
    from cptlaw import fitting

    fit = fitting.fit(rich, "dcpt", "code", bootstrap=0, starts=4)
    fit.save("again.json")
    assert "tags" not in fitting.Fit.load("again.json").residuals


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}), ("a=1", {"a": "1"}), ("a=1,b=2", {"a": "1", "b": "2"}), ("a=1,b=2,", {"a": "1", "b": "2"}),
        ('loss="x, y",params=N', {"loss": "x, y", "params": "N"}), ("loss=x,y", {"loss": "x,y"}),
        ('"w_a,b"=H', {"w_a,b": "H"}), ('w_a="h=1"', {"w_a": "h=1"}), ("a=b=c", {"a": "b=c"}),
        (' a = "b" ', {"a": "b"}),
        ('a="say ""x"""', {"a": 'say "x"'}), ("loss=x, y, z", {"loss": "x, y, z"}),
    ],
)  # fmt: skip
def test_pairs_of_names(text, found):
    assert tables.pairs("--columns", text) == found


def test_lists_of_names():
    assert tables.names("a,b") == ["a", "b"] and tables.names("a,b", ["a,b", "c"]) == ["a,b"]
    assert tables.names('"a,b",c') == ["a,b", "c"] and tables.names(None) == []
    with pytest.raises(UserError, match="write X=Y"):
        tables.pairs("--x", "a", "X=Y")


def test_a_fit_remembers_how_its_table_was_read(here, frames, capsys, monkeypatch):
    """plan and report read the table that was fitted, or a confirming one, without being told again."""
    _, wide = frames
    base = wide.drop_duplicates("params").assign(tokens=0.0, run=lambda t: "base" + t["run"])
    base[["val/loss_code", "val/loss_web"]] += 1
    table = pd.concat([base, wide]).rename(columns={"params": "N"})
    table.assign(tokens=[f"{v / 1e9:g}B" for v in table["tokens"]]).to_csv("tracker.csv", index=False)
    mapping = ["--columns", "params=N", "--loss", "*=val/loss_*"]
    for name in ("code", "web"):
        assert (
            main(["fit", "tracker.csv", *mapping, *QUICK, "--bootstrap", "8", "--eval", name, "--out", f"{name}.json"])
            == 0
        )
    capsys.readouterr()
    ask = ["plan", "trade-off", "--general", "web.json", "--domain", "code.json", "--params", "1B", "--tokens", "8B"]
    for table in ([], ["--table", "tracker.csv"], ["--table", "tracker.csv", *mapping]):
        assert main([*ask, *table, "--law-only", "--confidence", "0", "--tolerance", "3%", "--json"]) == 0
        told_once = capsys.readouterr()
        assert "read as the fit's table was" in told_once.err or mapping[0] in table
        assert json.loads(told_once.out)["inputs"]["base_loss"] == pytest.approx(base["val/loss_web"].iloc[-1])
    from cptlaw import report

    seen = {}
    monkeypatch.setattr(report, "write", lambda out, **given: seen.update(given))
    assert main(["report", "tracker.csv", "--fits", "code.json", "web.json"]) == 0
    assert set(seen["table"]["eval"]) == {"code", "web"} and seen["table"]["params"].max() == 1e9
    assert main(["fit", "wide.csv", *WIDE, *QUICK, "--eval", "web", "--out", "other.json"]) == 0
    assert main(["report", "tracker.csv", "--fits", "code.json", "other.json"]) == 2
    assert "tables that were read differently" in capsys.readouterr().err
