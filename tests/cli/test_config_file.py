"""The config file of `cptlaw study`, which is the user's program."""

import pytest

from cptlaw.cli.demo import read_config
from cptlaw.errors import UserError


@pytest.mark.parametrize("source", ["raise SystemExit", "import sys; sys.exit(0)"])
def test_a_config_file_that_exits_is_refused(tmp_path, source):
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(UserError, match=r"own.py, line 1: SystemExit"):
        read_config(tmp_path / "own.py")


def test_a_variant_is_what_get_config_is_given(tmp_path):
    (tmp_path / "own.py").write_text("def get_config(usage='share'):\n    return {'usage': usage}\n")
    assert read_config(tmp_path / "own.py") == {"usage": "share"}
    assert read_config(tmp_path / "own.py:budget") == {"usage": "budget"}
    (tmp_path / "plain.py").write_text("def get_config():\n    return {}\n")
    with pytest.raises(UserError, match=r"plain.py: TypeError: get_config\(\) takes 0 positional"):
        read_config(tmp_path / "plain.py:budget")
