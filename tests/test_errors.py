"""How a program ends, and the hint of its messages."""

import errno

import pytest

from cptlaw import errors
from cptlaw.errors import UserError


@pytest.mark.parametrize(
    "raised, code, said",
    [
        (UserError("config.seed: a seed lies above"), 2, "launch: config.seed: a seed lies above\n"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x.json"), 2, "launch: runs/x.json: No space left"),
        (OSError(errno.EIO, "Input/output error"), 2, "launch: Input/output error\n"),
        (OSError("no number"), 2, "launch: no number\n"),
        (KeyboardInterrupt(), 130, "launch: interrupted; what is finished is kept"),
    ],
)
def test_what_a_user_can_mend_is_one_line(raised, code, said, capsys):
    def command():
        raise raised

    assert errors.exit_code("launch", command) == code
    out, err = capsys.readouterr()
    assert not out and err.startswith(said) and err.count("\n") == 1


def test_other_codes_pass_and_bugs_stay_tracebacks():
    assert errors.exit_code("launch", lambda: None) == 0
    assert errors.exit_code("launch", lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        errors.exit_code("launch", lambda: 1 // 0)
    with pytest.raises(SystemExit):
        errors.exit_code("launch", lambda: exit(75))


def test_the_nearest_name_is_hinted_at():
    assert errors.did_you_mean("cosin", ("linear", "cosine")) == "did you mean 'cosine'?"
    assert errors.did_you_mean("zzz", ("linear", "cosine")) == ""
