"""What users add in a file of their own: found by FILE.py:NAME, remembered by content, never run by being read."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from cptlaw.data.recipes import RECIPES, RecipeError
from cptlaw.errors import UserError
from cptlaw.execution.run import Run
from cptlaw.execution.rundir import read_run
from cptlaw.fields import ConfigError
from cptlaw.laws.base import BUILDERS, LawError
from cptlaw.models import weights
from cptlaw.models.families import FAMILIES
from cptlaw.schedules import KINDS
from cptlaw.studies import config as config_lib
from cptlaw.studies import config_file, grid, inputs
from cptlaw.training.optimizers import OPTIMIZERS
from cptlaw.training.writers import WRITERS, writers
from tests.studies.tiny_study import VOCAB, minimal

OWN = """
from pathlib import Path
import numpy as np, optax
from cptlaw.laws import Param, law
from cptlaw.data.recipes import recipe
from cptlaw.models.families import family
from cptlaw.schedules import schedule
from cptlaw.training.optimizers import optimizer
from cptlaw.training.writers import writer

with (Path(__file__).parent / "runs_of_this_file").open("a") as file:
    file.write("x")

@law([Param("E", low=0, linear=True)], ["params"])
def flat(p, x, xp):
    return p.E + 0 * x.params

@recipe(title="t", licence="MIT", attribution="me")
def leaflets(members):
    yield from ()

@schedule("cooldown")
def halved(s):
    return np.concatenate([s.warm(), np.full(s.after, s.peak / 2)])

@schedule()
def short(s):
    return s.warm()

@optimizer
def lion(settings):
    return optax.scale_by_lion(settings.b1, settings.b2)

@writer
def kept(directory, name, config):
    directory.mkdir()
    with (directory / "kept.txt").open("w") as file:
        yield lambda record: print(name, record["loss"], file=file, flush=True)

@family(tensor=lambda name: name.replace("self_attn", "attention"))
def mine(given):
    return {**given, "model_type": "llama", "num_hidden_layers": given["n_layers"]}

@family()
def broken(given):
    return {"layers": given["no such field"]}
"""
REGISTRIES = {
    "law": (BUILDERS, "flat"), "recipe": (RECIPES, "leaflets"), "schedule": (KINDS, "halved"),
    "optimizer": (OPTIMIZERS, "lion"), "writer": (WRITERS, "kept"), "family": (FAMILIES, "mine"),
}  # fmt: skip


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path / "own.py"


def planned(study):
    return grid.plan(study, VOCAB, {"prose": "p", "code": "c"})


@pytest.mark.parametrize("what", REGISTRIES)
def test_one_way_for_every_kind(own, what):
    registry, name = REGISTRIES[what]
    assert isinstance(registry.find(f"{own}:{name}"), registry.kind)
    pinned = registry.pinned(f"{own}:{name}")
    assert pinned.startswith(f"{own.resolve()}:{name}@") and registry.pinned(pinned) == pinned
    assert registry.refuse(f"{own}:{name}") is None and "or FILE.py:NAME, not 'no'" in registry.refuse("no")
    with pytest.raises(registry.error, match=rf"json is no {what}; it defines .*{name}|json is no {what}"):
        registry.find(f"{own}:json")
    with pytest.raises(registry.error, match=f"no such file .*a {what} of your own is given as FILE.py:NAME"):
        registry.find(f"{own.parent / 'other.py'}:{name}")
    own.write_text("raise SystemExit('of another content')")
    with pytest.raises(registry.error, match=r"has changed since the (fit|run).*nothing of it was run"):
        registry.find(pinned)
    with pytest.raises(registry.error, match="cannot be run: SystemExit"):
        registry.find(f"{own}:{name}")


def test_errors_are_of_the_kind():
    with pytest.raises(LawError):
        BUILDERS.find("dctp")
    with pytest.raises(RecipeError, match="did you mean 'smiles'"):
        RECIPES.find("smile")
    with pytest.raises(UserError, match="there is a writer wandb already"):
        WRITERS.add("wandb", WRITERS["wandb"])


def test_a_run_is_told_by_the_content_of_the_file_and_not_by_its_place(own, tmp_path):
    changes = {"cpt__schedule": f"{own}:halved", "optimizer": {"kind": f"{own}:lion"}}
    study = config_lib.parse(minimal(**changes))
    assert study.cpt.schedule.startswith(f"{own.resolve()}:halved@") and "@" in study.optimizer["kind"]
    runs = planned(study)
    (tmp_path / "elsewhere").mkdir()
    there = shutil.copy(own, tmp_path / "elsewhere" / "renamed.py")
    moved = {"cpt__schedule": f"{there}:halved", "optimizer": {"kind": f"{there}:lion"}}
    assert [run.id for run in planned(config_lib.parse(minimal(**moved)))] == [run.id for run in runs]
    own.write_text(OWN + "\n# another content\n")
    assert not {run.id for run in planned(config_lib.parse(minimal(**changes)))} & {run.id for run in runs}
    # A run of the old content, as a worker is given it, does not train by the new one.
    run = Run.of(json.loads(json.dumps(dataclasses.asdict(runs[-1]))))
    with pytest.raises(UserError, match="has changed since the run"):
        run.schedule()
    with pytest.raises(UserError, match="has changed since the run"):
        run.make_optimizer().transform()


def test_reading_a_run_runs_no_file(own, tmp_path):
    run = planned(config_lib.parse(minimal(cpt__schedule=f"{own}:halved")))[-1]
    ran = (tmp_path / "runs_of_this_file").read_text()
    own.write_text(OWN + "\n# another content, which would be run anew\n")
    folder = tmp_path / run.id
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(dataclasses.asdict(run)))
    assert read_run(folder) == run
    assert (tmp_path / "runs_of_this_file").read_text() == ran


def test_what_is_added_does_its_work(own, tmp_path):
    study = config_lib.parse(minimal(cpt__schedule=f"{own}:halved", optimizer={"kind": f"{own}:lion"}))
    run = planned(study)[-1]
    np.testing.assert_allclose(run.schedule().learning_rates(), [1e-2, 5e-3, 5e-3, 5e-3])
    transform = run.make_optimizer().transform()
    params = {"layers": {"norm": jnp.ones(3)}}
    gradients = {"layers": {"norm": jnp.array([0.3, -0.2, 0.0])}}
    direction, _ = transform.update(gradients, transform.init(params), params)
    np.testing.assert_array_equal(direction["layers"]["norm"], [1, -1, 0])  # Lion's step is a sign
    with writers((f"{own}:kept",), tmp_path, "run-7", {}) as write:
        write({"step": 1, "loss": 2.5})
    assert (tmp_path / "kept" / "kept.txt").read_text() == "run-7 2.5\n"
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2.5}\n'


@pytest.mark.parametrize(
    "changes, field, words",
    [
        ({"cpt__schedule": "{own}:short"}, "cpt.schedule", "must give 4 learning rates"),
        ({"cpt__schedule": "{own}:lion"}, "cpt.schedule", "lion is no schedule; it defines halved, short"),
        ({"cpt__schedule": "{own}:halved", "cpt__cycles": 2}, "cpt.cycles", "cycles belong to cyclic, not to"),
        ({"optimizer": {"kind": "{own}:gone"}}, "optimizer.kind", "gone is no optimizer; it defines lion"),
        ({"optimizer": {"kind": "{own}:lion", "mup_base": "small"}}, "optimizer.mup_base", "those of kind adamw"),
        ({"monitor": {"writers": ("{own}:gone",)}}, "monitor.writers", "gone is no writer; it defines kept"),
    ],
)
def test_what_is_wrong_is_said_by_field_before_anything_is_trained(own, changes, field, words):
    def filled(value):
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(map(filled, value))
        return value.replace("{own}", str(own)) if isinstance(value, str) else value

    with pytest.raises(ConfigError, match=rf"config\.{field}.*{words}"):
        inputs.check(config_lib.parse(minimal(**filled(changes))))


def test_paths_are_taken_from_the_configs_folder(own, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    given = {
        "cpt": {"schedule": "own.py:halved"}, "optimizer": {"kind": "own.py:lion"}, "fit": {"law": "own.py:flat"},
        "monitor": {"writers": ["own.py:kept", "tensorboard"]}, "init_from": {"small": "own.py:mine:models"},
        "corpora": {"text": "recipe:own.py:leaflets"},
    }  # fmt: skip
    (tmp_path / "config.py").write_text(f"def get_config():\n    return {given!r}\n")
    monkeypatch.chdir("/")
    found = config_file.read(tmp_path / "config.py")
    assert found["cpt"]["schedule"] == f"{own}:halved" and found["fit"]["law"] == f"{own}:flat"
    assert found["optimizer"]["kind"] == f"{own}:lion" and found["corpora"]["text"] == f"recipe:{own}:leaflets"
    assert found["monitor"]["writers"] == [f"{own}:kept", "tensorboard"]
    assert found["init_from"]["small"] == f"{own}:mine:{tmp_path / 'models'}"


def test_weights_of_a_family_of_ones_own(own, tmp_path):
    """The same folder under other names: another word in its config.json, another in its tensors."""
    from safetensors.numpy import load_file, save_file

    from cptlaw.models import hf
    from cptlaw.models.families import of_json
    from cptlaw.models.sharding import Layout, make_mesh
    from tests.models.tiny_models import FAMILIES as TINY
    from tests.models.tiny_models import weight

    config = TINY["llama2"]
    cfg = of_json(config)
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    stored = {name: weight(name, tensor.shape) for name, tensor in hf.tensors("llama", cfg).items()}
    save_file(stored, tmp_path / "ours" / "model.safetensors")
    (tmp_path / "ours" / "config.json").write_text(json.dumps(config))
    other = {name.replace("self_attn", "attention"): value for name, value in stored.items()}
    save_file(other, tmp_path / "theirs" / "model.safetensors")
    fields = {("n_layers" if key == "num_hidden_layers" else key): value for key, value in config.items()}
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(fields | {"model_type": "new"}))
    assert load_file(tmp_path / "theirs" / "model.safetensors").keys() == other.keys()

    with pytest.raises(UserError, match=r"model_type 'new' is not supported.*FILE.py:NAME:FOLDER"):
        weights.read_config(tmp_path / "theirs")
    with pytest.raises(UserError, match="its family, which your file describes, fails: KeyError"):
        weights.read_config(f"{own}:broken:{tmp_path / 'theirs'}")
    named = f"{own}:mine:{tmp_path / 'theirs'}"
    assert weights.read_config(named) == cfg
    weights.check(named)
    abstract = hf.abstract_params(cfg, Layout(make_mesh()))
    found, wanted = (weights.load_params(place, cfg, abstract) for place in (named, tmp_path / "ours"))
    np.testing.assert_array_equal(found["layers"]["attention"]["q"], wanted["layers"]["attention"]["q"])
