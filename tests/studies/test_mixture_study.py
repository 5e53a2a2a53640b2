"""What a new user gets wrong is said with its remedy; the shipped configs are whole."""

import importlib
import json
import subprocess
import sys

import pytest

from cptlaw import cli
from cptlaw.configs import demo
from cptlaw.errors import UserError
from cptlaw.models import transformer
from cptlaw.studies import answerable, grid, prepared
from cptlaw.studies import config as config_lib

CONFIG = """
from cptlaw.configs import demo
def get_config():
    config = demo.get_config("fast")
    {change}
    return config
"""


def command(tmp_path, capsys, change="pass", *extra):
    """Exit code and message of `cptlaw study` on a changed demo config."""
    path = tmp_path / "config.py"
    path.write_text(CONFIG.format(change=change))
    code = cli.main(["study", str(path), "--workdir", str(tmp_path / "work"), "--quiet", *extra])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["demo", "demo:fast", "demo:biomedical", "demo:biomedical,fast", "study_small", "mixture_small"]
)
def test_every_config_is_whole_and_its_models_exist(name):
    module, _, variant = name.partition(":")
    get_config = importlib.import_module(f"cptlaw.configs.{module}").get_config
    settings = config_lib.parse(get_config(variant) if variant else get_config())
    answerable.check(settings)
    runs = grid.plan(settings, settings.vocabulary.size, dict.fromkeys(settings.names, "data"))
    sizes = {run.size: transformer.count_params(transformer.Config(**run.model))["non_embedding"] for run in runs}
    assert len(set(sizes.values())) == len(settings.grid)
    held_out = settings.held_out
    assert sizes[held_out.size] == max(sizes.values()), "the law is judged on the largest size"
    assert any(tokens > held_out.tokens for tokens in settings.eval_tokens)
    assert any(tokens <= held_out.tokens for tokens in settings.eval_tokens)
    for run in runs:
        run.schedule()


def test_the_demo_header_does_its_arithmetic_right():
    settings = config_lib.parse(demo.get_config())
    runs = grid.plan(settings, 1024, {"prose": "p", "code": "c"})
    assert sum(run.flops() for run in runs) / 1e12 == pytest.approx(19.4, rel=0.01)
    for size, (params, flops) in {"small": (0.027, 0.38), "medium": (0.099, 1.0), "large": (0.32, 2.6)}.items():
        model = transformer.Config(**next(run.model for run in runs if run.size == size))
        assert transformer.count_params(model)["non_embedding"] / 1e6 == pytest.approx(params, rel=0.03)
        assert transformer.flops_per_token(model, 64)["training"] / 1e6 == pytest.approx(flops, rel=0.04)


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="not 'quick'"):
        demo.get_config("quick")


def test_a_workdir_of_another_config_is_refused_until_told(tmp_path, study, monkeypatch):
    (tmp_path / "config.json").write_text(study.to_json())
    other = json.loads(study.to_json())
    other["cpt"]["peak_lr"] = 0.5
    monkeypatch.setattr(prepared.build, "prepare", lambda *args, **kwargs: pytest.fail("it must be refused first"))
    with pytest.raises(UserError, match=r"these fields differ: config\.cpt\.peak_lr\. .*--update-config"):
        prepared.prepare(config_lib.parse(other), tmp_path)


def test_a_workdir_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "work").write_text("a file in the way")
    code, message = command(tmp_path, capsys)
    assert code == 2 and "cannot be written" in message and "--workdir" in message


@pytest.mark.parametrize(
    "change, message",
    [
        ("config.grid.small.domain_shares = (0.0, 1.5)", "a share lies between 0 and 1, not 1.5"),
        ("config.domains = ('law',)", "no corpus 'law' in config.corpora"),
        ("config.corpora.code.source = '/nowhere/at/all'", "/nowhere/at/all"),
        ("config.corpora.code.source = 'recipe:cobol'", "python_stdlib"),
        ("config.optimiser = 1", "did you mean 'optimizer'"),
    ],
)
def test_a_mistake_in_the_config_is_a_message_and_exit_code_2(tmp_path, capsys, change, message):
    code, error = command(tmp_path, capsys, change)
    assert code == 2
    assert message in error and "Traceback" not in error


@pytest.mark.parametrize(
    "change, message",
    [
        ("config.sizes.small.d_model = width", "config.py, line 5: NameError: name 'width' is not defined"),
        ("config = None", "config: expected a ConfigDict or a dictionary, got None"),
        ("config.cpt.peak_lr = 'fast'", "config.py, line 5: TypeError"),
        ("config[", "config.py, line 5: SyntaxError"),
    ],
)
def test_a_config_file_that_fails_names_its_line(tmp_path, capsys, change, message):
    code, error = command(tmp_path, capsys, change)
    assert code == 2 and message in error and "Traceback" not in error


def test_a_missing_config_file_is_named(tmp_path, capsys):
    assert cli.main(["study", str(tmp_path / "no.py"), "--workdir", str(tmp_path)]) == 2
    assert "no.py: no such Python file; start from a copy" in capsys.readouterr().err


def test_a_missing_package_says_what_to_install(tmp_path, capsys, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "seqio" else find_spec(name))
    code, message = command(tmp_path, capsys)
    assert code == 2 and "pip install 'cptlaw[train]'" in message


def test_neither_help_nor_version_imports_anything_heavy():
    heavy = {"jax", "pandas", "tensorflow", "flax", "matplotlib"}
    code = (
        "import sys; from cptlaw import cli\n"
        "try: cli.main(['--help'])\n"
        f"except SystemExit: print({heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()")


def test_a_field_that_is_new_and_empty_leaves_a_workdir_as_it_was(study):
    now = json.loads(study.to_json())
    before = {name: value for name, value in now.items() if name != "evaluated"}
    before["grid"] = {size: {"domain_shares": part["domain_shares"]} for size, part in now["grid"].items()}
    assert prepared._differences(before, now) == []
    assert prepared._differences(before, {**now, "evaluated": ["law"]}) == ["config.evaluated"]
