"""The config file of `cptlaw study`, which is the user's program."""

import pytest

from cptlaw.errors import UserError
from cptlaw.studies.config_file import read as read_config


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


def test_fields_are_changed_by_the_command_line_in_their_own_types(tmp_path):
    (tmp_path / "own.py").write_text(
        "def get_config():\n    return {'model': {'layers': 2}, 'name': 'x', 'eval_tokens': (1, 2)}\n"
    )
    words = ["--config.model.layers=4", "--config.name", "y", "--config.eval_tokens=(3,)"]
    found = read_config(tmp_path / "own.py", words)
    assert found.to_dict() == {"model": {"layers": 4}, "name": "y", "eval_tokens": (3,)}
    for word, message in (
        ("--config.model.leyers=4", "leyers: the config file has no such field"),
        ("--config.model.layers=four", "config.model.layers"), ("share=3", "unexpected argument 'share=3'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            read_config(tmp_path / "own.py", [word])


def test_relative_paths_are_taken_from_the_configs_folder(tmp_path, monkeypatch):
    for name in ("corpora/web/a.txt", "corpora/code.jsonl", "own_recipes.py", "weights/7b/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "own.py").write_text(
        "def get_config():\n    return {'corpora': {'web': 'corpora/web', 'code': {'source': 'corpora/*.jsonl'},"
        " 'own': 'recipe:own_recipes.py:mine', 'prose': {'source': 'recipe:wikitext2'},"
        " 'far': 's3://b/corpora', 'none': 'not/there'},\n"
        " 'vocabulary': {'kind': 'file', 'path': 'weights/7b'}, 'init_from': {'7b': 'weights/7b'}}\n"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = read_config("../own.py")
    assert found["corpora"] == {
        "web": f"{tmp_path}/corpora/web", "code": {"source": f"{tmp_path}/corpora/*.jsonl"},
        "prose": {"source": "recipe:wikitext2"}, "far": "s3://b/corpora", "none": "not/there",
        "own": f"recipe:{tmp_path}/own_recipes.py:mine",
    }  # fmt: skip
    assert found["vocabulary"]["path"] == found["init_from"]["7b"] == f"{tmp_path}/weights/7b"
