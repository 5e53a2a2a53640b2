"""What is recorded can be read back, once, also after a resume."""

import json
import sys
import types

import pytest

from cptlaw.errors import UserError
from cptlaw.training.writers import writers

RECORDS = [{"step": step, "loss": 5.0 - step / 10} for step in (10, 20, 30)]


def written(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_takes_back_what_it_repeats(tmp_path):
    with writers((), tmp_path, "run", {}) as write:
        for record in RECORDS:
            write(record)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    with writers((), tmp_path, "run", {}) as write:
        assert written_or_torn(tmp_path) == 4, "opening changes nothing"
        write({"step": 20, "loss": 1.0})
        assert written(tmp_path) == [RECORDS[0], {"step": 20, "loss": 1.0}], "on disk at once"


def written_or_torn(folder):
    return len((folder / "metrics.jsonl").read_text().splitlines())


def test_tensorboard_reads_the_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for records in (RECORDS, [{"step": 20, "loss": 1.0}]):
        with writers(("tensorboard",), tmp_path, "run", {}) as write:
            for record in records:
                write(record)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 4.0), (20, 1.0)]


def test_wandb_gets_one_run_by_its_name(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((step, values))

        def finish(self):
            calls.append("finish")

    fake = types.ModuleType("wandb")
    fake.init = lambda **options: calls.append(options) or Run()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with pytest.raises(KeyboardInterrupt), writers(("wandb",), tmp_path, "small-code0.5", {"seed": 3}) as write:
        write(RECORDS[0])
        raise KeyboardInterrupt
    options, logged, end = calls
    assert options["id"] == "small-code0.5" and options["resume"] == "allow" and options["config"] == {"seed": 3}
    assert logged == (10, {"loss": 4.0}) and end == "finish"
    assert written(tmp_path) == RECORDS[:1]


@pytest.mark.parametrize("kind, module", [("wandb", "wandb"), ("tensorboard", "tensorboard.compat.proto.event_pb2")])
def test_a_writer_that_is_not_installed_is_named(tmp_path, monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    with (
        pytest.raises(UserError, match=f"{kind} is not installed.*pip install {kind}"),
        writers((kind,), tmp_path, "", {}),
    ):
        pass
