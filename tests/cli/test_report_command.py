import dataclasses

import pandas as pd
import pytest

from cptlaw import cli, report, runs


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


def test_a_study_of_several_domains_answers_for_one_with_its_own_runs(workdir, study, capsys, monkeypatch):
    table = study[0].assign(w_law=0.0)
    other = table[table["w_code"] > 0].rename(columns={"w_code": "w_law", "w_law": "w_code"})
    other = other.assign(run="law-" + other["run"], eval=other["eval"].replace("code", "law"))
    runs.write(pd.concat([table, other], ignore_index=True)[table.columns], workdir / "runs.csv")
    fit = study[1]["code"]
    dataclasses.replace(fit.alone(), eval="law", residuals=fit.residuals.assign(eval="law")).save(
        workdir / "fits" / "law-law.json"
    )
    assert cli.main(["report", str(workdir)]) == 2
    assert "answers for code, law: choose one with --domain" in capsys.readouterr().err
    seen = {}
    monkeypatch.setattr(report, "write", lambda path, **given: seen.update(given))
    assert cli.main(["report", str(workdir), "--domain", "code"]) == 0
    assert runs.digest(seen["table"]) == runs.digest(study[0])
    assert set(seen["fits"]) == {"general", "code"} and seen["decisions"][0].inputs["domain"] == "code"
    assert cli.main(["report", str(workdir), "--domain", "law"]) == 0
    assert set(seen["table"]["eval"]) == {"law"} and not seen["decisions"]


def test_a_perplexity_study_has_its_report_already(tmp_path, capsys):
    (tmp_path / "landscape-law.html").write_text("")
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "landscape-law.html" in capsys.readouterr().err


def test_a_folder_that_is_no_study_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "no runs.csv" in capsys.readouterr().err
