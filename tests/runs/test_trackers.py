"""Runs as trackers keep them: Weights & Biases (a stand-in for its API), real event files, lm-evaluation-harness."""

import json
import sys
import types

import numpy as np
import pytest

from cptlaw import runs
from cptlaw.cli import main

CONFIG = {
    "a": {"model": {"n": 3e7}, "share": 0.2, "lrs": [1, 2], "eval": True, "loss": "nll", "status": "x"},
    "b": {"model": {"n": 1e8}, "share": 0.5, "lrs": []},
}


class Run:
    """What the public API gives of a run: its history is asked for by keys, and rows lack what was not logged."""

    def __init__(self, name, id="0", state="finished", history=True):
        self.id, self.name, self.state = id, name, state
        self.config = CONFIG.get(name, CONFIG["a"])
        rows = []
        for step in range(0, 100, 5):
            rows.append({"_step": step, "train/loss": 5.0, "train/tokens": 1e8 * step})
            if step and step % 20 == 0:  # logged by calls of its own, one step later
                rows.append({"_step": step + 1, "val/loss_med": 3 - step / 100, "val/loss_web": 2 + step / 100})
        self.rows = rows if history else []
        self.summary = {k: v for row in rows for k, v in row.items()} | {"_step": 95, "note": "x"}

    def scan_history(self, keys):
        return [{k: row[k] for k in keys} for row in self.rows if all(k in row for k in keys)]


@pytest.fixture
def wandb(monkeypatch):
    """Takes the place of the package; `runs` is what the project holds."""
    fake = types.ModuleType("wandb")
    fake.errors = types.SimpleNamespace(Error=type("Error", (Exception,), {}))
    fake.held = [Run("a"), Run("b", "1"), Run("b", "2", "crashed")]

    def project(path):
        if path != "lab/cpt":
            raise ValueError(f"Could not find project {path}")
        return fake.held

    fake.Api = lambda: types.SimpleNamespace(runs=project)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_the_runs_of_weights_and_biases_become_a_table(wandb):
    mapping = {"columns": {"tokens": "train/tokens", "params": "model.n"}, "losses": {"*": "val/loss_*"}}
    found = runs.read_runs("wandb:lab/cpt", **mapping)
    assert set(found["run"]) == {"a", "b-1", "b-2"}, "two runs of one name go by their ids"
    assert set(found["eval"]) == {"med", "web"} and len(found) == 3 * 4 * 2
    assert set(found["status"][found["run"] == "b-2"]) == {"crashed"}
    one = found[(found["run"] == "a") & (found["eval"] == "med")]
    np.testing.assert_allclose(one["tokens"], [2e9, 4e9, 6e9, 8e9], err_msg="the last count before the evaluation")
    np.testing.assert_allclose(one["loss"], [2.8, 2.6, 2.4, 2.2])
    assert set(one["params"]) == {3e7} and set(one["status"]) == {"finished"}


def test_without_a_mapping_the_metrics_are_named_and_their_flags_proposed(wandb):
    with pytest.raises(runs.TableError, match="--loss med=val/loss_med,web=val/loss_web"):
        runs.read_runs("wandb:lab/cpt")


def test_a_run_without_history_has_its_summary(wandb):
    wandb.held = [Run("a", history=False)]
    wandb.held[0].summary = {"val/loss_med": 2.5, "_step": 7}
    found = runs.read_runs("wandb:lab/cpt", losses={"med": "val/loss_med"}, tokens_per_step=1e6)
    assert found[["loss", "tokens"]].to_numpy().tolist() == [[2.5, 7e6]]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("wandb:lab", "write wandb:ENTITY/PROJECT"), ("wandb:lab/other", "Could not find project.*wandb login"),
        ("tensorboard:none", "no such folder"), ("mlflow:x", "write wandb:"), ("lm-eval:.", "no results of"),
        ("tensorboard:.", "no event files"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(wandb, tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(runs.TableError, match=words):
        runs.read_runs(source)


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(runs.TableError, match="wandb is not installed; pip install"):
        runs.read_runs("wandb:lab/cpt")


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """Two runs as our trainer writes them, one with hyperparameters, and one in TensorFlow 2's tensors."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    from cptlaw.training.writers import writers

    folder = tmp_path_factory.mktemp("events")
    for name, size in (("small", 3e7), ("large", 1e8)):
        with writers(("tensorboard",), folder / name, name, {}) as write:
            for step in (10, 20, 30):
                write({"step": step, "train/loss": 4.0})
                write({"step": step, "val/loss_med": 3 - step / 100, "val/loss_web": 2.0})
        file = EventFileWriter(str(folder / name / "tensorboard"), filename_suffix=".hp")
        settings = plugin_data_pb2.HParamsPluginData(session_start_info=plugin_data_pb2.SessionStartInfo())
        settings.session_start_info.hparams["params"].number_value = size
        settings.session_start_info.hparams["act"].string_value = "gelu"
        told = Summary.Value(tag=metadata.SESSION_START_INFO_TAG, metadata=metadata.create_summary_metadata(settings))
        file.add_event(Event(step=0, summary=Summary(value=[told])))
        file.close()
    file = EventFileWriter(str(folder / "two"))
    about = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    value = Summary.Value(tag="val/loss_med", metadata=about, tensor=make_tensor_proto(2.5, np.float32))
    file.add_event(Event(step=10, summary=Summary(value=[value])))
    file.close()
    return folder


def test_event_files_become_a_table(events):
    mapping = {"losses": {"*": "val/loss_*"}, "tokens_per_step": 1e6}
    found = runs.read_runs(f"tensorboard:{events}", **mapping, where="run != 'two'")
    assert set(found["run"]) == {"small", "large"}
    one = found[(found["run"] == "small") & (found["eval"] == "med")]
    np.testing.assert_allclose(one["loss"], [2.9, 2.8, 2.7], rtol=1e-6)
    assert list(one["tokens"]) == [1e7, 2e7, 3e7] and set(one["params"]) == {3e7} and set(one["act"]) == {"gelu"}
    two = runs.read_runs(f"tensorboard:{events}/two", **mapping)
    assert two[["run", "eval", "loss"]].to_numpy().tolist() == [["two", "med", 2.5]]


def test_runs_import_writes_a_table_that_needs_no_flags(events, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["runs", "import", f"tensorboard:{events}", "--loss", "*=val/loss_*", "--tokens-per-step", "1M"]
    assert main([*command, "--where", "run != 'two'", "--set", "w_med=30%,w_web=0.7", "--out", "runs.csv"]) == 0
    assert "runs.csv: 2 runs, 12 rows; evaluated med, web; shares of med, web" in capsys.readouterr().out
    found = runs.read("runs.csv")
    assert not found.attrs["notes"] and set(found["w_med"]) == {0.3} and len(found) == 12


def test_results_of_lm_evaluation_harness_become_a_table(tmp_path):
    for i, size in enumerate((3e7, 1e8)):
        folder = tmp_path / f"model-{i}"
        folder.mkdir()
        results = {
            "wikitext": {"alias": "wikitext", "bits_per_byte,none": 1.0 + i, "bits_per_byte_stderr,none": "N/A",
                         "word_perplexity,none": 20.0},
            "old": {"word_perplexity": 20.0},
            "arc_easy": {"acc,none": 0.4},
        }  # fmt: skip
        data = {"results": results, "config": {"model_num_parameters": size}, "model_name": f"m{i}"}
        (folder / "results_2026.json").write_text(json.dumps(data))
    found = runs.read_runs(f"lm-eval:{tmp_path}", constants={"tokens": "2B"})
    assert len(found) == 4 and set(found["params"]) == {3e7, 1e8} and set(found["run"]) == {"m0", "m1"}
    assert found[found["eval"] == "wikitext"]["loss"].tolist() == [np.log(2), 2 * np.log(2)]
    assert found[found["eval"] == "old"]["loss"].tolist() == [np.log(20)] * 2
    told = "\n".join(found.attrs["notes"])
    assert "nats per byte and nats per word" in told and "left out: arc_easy" in told
    with pytest.raises(runs.TableError, match="runs import lm-eval:FOLDER"):
        runs.read(tmp_path / "model-0" / "results_2026.json")
    with pytest.raises(runs.TableError, match="cptlaw runs import wandb:a/b"):
        runs.read("wandb:a/b")
