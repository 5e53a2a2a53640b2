"""`cptlaw watch` on files that grow and on a run of ours."""

import json

import pytest

from cptlaw.cli import main
from cptlaw.execution.run import Phase, Run
from cptlaw.execution.rundir import RunDir


def told(capsys):
    return json.loads(capsys.readouterr().out)


def test_a_file_that_grows(tmp_path, capsys):
    file = tmp_path / "metrics.csv"
    file.write_text("step,val/loss_web,val/loss_code\n0,3.0,4.0\n100,3.05,3.5\n200,3.1,3.3\n400,3.15,3.1\n800,3.2,2")
    flags = ["--loss", "*=val/loss_*", "--tokens-per-step", "1e4", "--tokens", "16M", "--tolerance", "3%", "--json"]
    assert main(["watch", str(file), *flags]) == 0
    web, code = told(capsys)
    assert web["seen"] == 4e6 and code["loss"] == 3.1  # the line that is being written says 2
    assert web["run"] == "metrics" and web["ceiling"] == pytest.approx(3.09)
    assert web["answer"] == "broken" and code["answer"] == "kept" and code["since"] == 2e6
    assert main(["watch", str(file), *flags[:-1], "--eval", "web"]) == 0
    assert "3.0900 will be broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--tokens: give the tokens at the end"),
        (["--tokens", "16M", "--level", "2"], "--level 2 is not between 0 and 1"),
        (["--tokens", "16M", "--every", "0"], "--every 0: give seconds"),
        (["--tokens", "-1"], "--tokens -1: give the tokens"),
        (["--tokens", "16M", "--tolerance", "3%"], "no loss of loss at zero tokens"),
        (["--tokens", "16M", "--eval", "none", "--where", "tokens < 0"], "no row satisfies"),
        (["--tokens", "16M", "--cooled"], "cooled down at the end"),
    ],
)
def test_what_cannot_be_watched_is_said(tmp_path, capsys, flags, message):
    file = tmp_path / "m.jsonl"
    file.write_text('{"tokens": 1000000, "loss": 3.0}\n{"tokens": 2000000, "loss": 2.9}\n{"tokens": 40')
    assert main(["watch", str(file), *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_run_of_ours_and_the_finished_runs_beside_it(tmp_path, capsys):
    phase = Phase(tokens=8_000_000, peak_lr=1e-3, warmup_tokens=0)
    tokens = (1_000_000, 2_000_000, 4_000_000, 8_000_000)

    def start(name, share, seen):
        run = Run(
            id=name, size="s", model={}, init="base", shares={"code": share, "web": 1 - share}, evals=("code",),
            phase=phase, eval_tokens=tokens, seed=0, seq_len=10, batch_size=100, optimizer={}, mesh={},
            eval_batch_size=1, eval_max_tokens=None, data={},
        )  # fmt: skip
        directory = RunDir(tmp_path, run)
        with directory.claim():
            loss = {t: 2 + (1 - share) * (t / 1e6) ** -0.3 for t in tokens[:seen]}
            common = {"run": name, "params": 1000, "w_code": share, "w_web": 1 - share, "eval": "code"}
            directory.add([{**common, "tokens": t, "step": t // 1000, "loss": y} for t, y in loss.items()])
            if seen == 4:
                directory.finish(spent={}, losses=[])
        return tmp_path / "runs" / name

    for i in range(8):
        start(f"r{i}", 0.1 * i, 4)
    live = start("live", 0.35, 2)
    assert main(["watch", str(live), "--ceiling", "2.5", "--json"]) == 0
    (found,) = told(capsys)
    assert found["tokens"] == 8e6 and found["earlier"] == 8 and found["answer"] == "kept"
    assert found["point"] == pytest.approx(2 + 0.65 * 8**-0.3, abs=2e-3)
