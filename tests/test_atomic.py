"""Places that cannot be written are refused before any work."""

import pytest

from cptlaw import atomic, cli
from cptlaw.errors import UserError


@pytest.mark.parametrize("inside, folder", [("file/fit.json", False), ("file", True), ("file/deep/er", True)])
def test_a_place_under_a_file_is_refused(tmp_path, inside, folder):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"--out .*is a file and no folder; give another place"):
        atomic.check_place(tmp_path / inside, "--out", folder=folder)
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_is_no_place_for_a_file(tmp_path):
    with pytest.raises(UserError, match="a folder; give a file in it"):
        atomic.check_place(tmp_path, "--out")


def test_places_that_are_not_there_yet_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atomic.check_place("new/deeper/fit.json", "--out")
    atomic.check_place("plots", "--plot", folder=True)
    assert not list(tmp_path.iterdir())


def test_a_command_looks_before_it_reads_its_table(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert cli.main(["fit", str(tmp_path / "no.csv"), "--out", str(tmp_path / "file" / "fit.json")]) == 2
    assert "cannot be written, since" in capsys.readouterr().err
