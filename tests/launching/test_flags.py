"""The launchers' flags, as the command and as absl programs."""

import argparse

import pytest

from cptlaw.cli import tables
from cptlaw.launching import flags


def parsed(name, *words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    flags.add_to(parser, flags.PROGRAMS[name], tables.number)
    return parser.parse_args([*words, *(f"--{flag}=x" for flag in flags.PROGRAMS[name].required)])


def test_flags_have_their_types_and_defaults():
    found = parsed("train", "--share=code=0.25", "--share=law=0.1", "--seed=3")
    assert (found.share, found.seed, found.size, found.multihost) == (["code=0.25", "law=0.1"], 3, None, False)
    assert parsed("train").share == [] and parsed("footprint", "--gib=80").gib == 80.0
    assert parsed("score", "--batch_tokens=16k").batch_tokens == 16_000


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("train", "--seed=-1", "at least 0"), ("train", "--seed=1.5", "no whole number"),
        ("footprint", "--mfu=1.5", "at most 1"), ("footprint", "--platform=cpu", "invalid choice"),
        ("checks", "--devices=many", "not a number"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_named(name, word, message):
    with pytest.raises(argparse.ArgumentError, match=message):
        parsed(name, word)


def test_every_launcher_has_its_module_and_its_absl_program():
    from pathlib import Path

    import cptlaw.launching

    modules = {path.stem for path in Path(cptlaw.launching.__file__).parent.glob("*.py")}
    programs = {path.stem for path in (Path(__file__).parents[2] / "launch").glob("*.py")} - {"__init__", "common"}
    assert set(flags.PROGRAMS) == programs <= modules
