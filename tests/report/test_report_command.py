import pytest

from cptlaw import cli, runs


@pytest.fixture
def workdir(study, tmp_path):
    """What a study leaves behind."""
    table, fits, decision, confirm = study
    runs.write(table, tmp_path / "runs.csv")
    for name, fit in fits.items():
        (tmp_path / "fits").mkdir(exist_ok=True)
        fit.save(tmp_path / "fits" / f"code-{name}.json")
    decision.save(tmp_path / "answer-code.json")
    runs.write(confirm, tmp_path / "confirm-code.csv")
    return tmp_path


def test_a_study_is_reported_from_its_workdir(workdir, capsys):
    out = workdir / "page.html"
    assert cli.main(["report", str(workdir), "-o", str(out), "--question", "How much code?"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    source = out.read_text()
    assert "How much code?" in source and "trained once" in source
    assert (workdir / "page_figures" / "front.png").is_file()


def test_a_decision_without_its_fit_is_refused(workdir, capsys):
    words = ["report", str(workdir / "runs.csv"), "--fits", str(workdir / "fits" / "code-code.json")]
    assert cli.main([*words, "--decisions", str(workdir / "answer-code.json")]) == 2
    assert "give it with --fits" in capsys.readouterr().err


def test_several_domains_ask_for_one(workdir, capsys):
    (workdir / "answer-law.json").write_text("{}")
    assert cli.main(["report", str(workdir)]) == 2
    assert "choose one with --domain" in capsys.readouterr().err


def test_a_folder_that_is_no_study_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "no runs.csv" in capsys.readouterr().err
