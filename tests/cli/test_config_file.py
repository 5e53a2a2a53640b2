"""The config file of `cptlaw study`, which is the user's program."""

import pytest

from cptlaw.cli.demo import read_config
from cptlaw.errors import UserError


@pytest.mark.parametrize("source", ["raise SystemExit", "import sys; sys.exit(0)"])
def test_a_config_file_that_exits_is_refused(tmp_path, source):
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(UserError, match=r"own.py, line 1: SystemExit"):
        read_config(tmp_path / "own.py")
