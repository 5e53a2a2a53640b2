import numpy as np
import pytest

from cptlaw import cli, laws
from cptlaw.laws import Param
from cptlaw.planning.decision import Decision, DecisionError
from cptlaw.planning.first_grid import CHECKPOINTS, first_grid

AT = {"params": 1e6, "tokens": 1e6, "ratio": 0.5}
GRID = {"sizes": [1e5, 4e5], "tokens": [1e6]}
LAW = laws.get("dcpt", constrained=False)


@laws.law([Param("a", linear=True), Param("b", linear=True)], ["params", "tokens", "ratio"])
def plane(p, x, xp):
    return p.a + p.b * x.ratio + 0 * x.tokens


def test_precision_is_that_of_generalised_least_squares_on_a_linear_law():
    theta, noise = {"a": 3.0, "b": -1.0}, {"run_noise": 0.3, "checkpoint_noise": 0.1}
    decision = first_grid(plane, theta, at=AT, precision=1.0, **GRID, **noise)
    for grid in decision.rows:
        sizes = len(grid["sizes"].split())
        share = np.repeat(np.tile(np.linspace(0, 1, grid["shares"]), sizes * grid["seeds"]), len(CHECKPOINTS))
        rows = np.stack([np.ones_like(share), share], axis=1)
        run = 0.09 + 0.01 * np.eye(len(CHECKPOINTS))
        precision = rows.T @ np.linalg.solve(np.kron(np.eye(len(share) // len(CHECKPOINTS)), run), rows)
        spread = np.sqrt(np.array([1, 0.5]) @ np.linalg.solve(precision, [1, 0.5]))
        assert grid["+/-"] == pytest.approx(1.6449 * spread, rel=1e-3)  # 0.1%: the vague prior


def test_it_is_the_cheapest_that_is_precise_enough(code):
    question = {"at": AT, "sizes": [5e4, 2e5, 8e5], "tokens": [5e5, 1e6]}
    wide = first_grid(LAW, code.params, precision=0.01, **question)
    narrow = first_grid(LAW, code.params, precision=0.003, **question)
    assert narrow.point["cost"] > wide.point["cost"]
    assert narrow.point["+/-"] <= 0.003
    cheaper = [row for row in narrow.rows if row["cost"] < narrow.point["cost"]]
    assert all(row["+/-"] > 0.003 for row in cheaper)


def test_less_noise_needs_less(code):
    question = {"at": AT, "sizes": [5e4, 2e5, 8e5], "tokens": [1e6], "precision": 0.003}
    loud, quiet = (first_grid(LAW, code.params, **question, run_noise=n, seeds=6).point["cost"] for n in (0.004, 0.001))
    assert quiet < loud


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"precision": 1e-9}, r"the best reaches \S+ for \S+ FLOPs"),
        ({"sizes": []}, "give the sizes"),
        ({"at": {"params": 1e6}}, "say at which tokens, ratio"),
        ({"shares": (0.5, 0.5)}, "is no range"),
        ({"seeds": 0}, "at least 1"),
        ({"theta": {"E": 1.0}}, "assume a value for A"),
        ({"law": laws.get("mixing", corpora=("a", "b"))}, "a design is made for laws of params"),
    ],
)
def test_bad_questions_are_refused(code, question, words):
    asked = {"law": LAW, "theta": code.params, "at": AT, "precision": 0.1, **GRID, **question}
    with pytest.raises(DecisionError, match=words):
        first_grid(asked.pop("law"), asked.pop("theta"), **asked)


def test_the_command(code, tmp_path, capsys):
    words = ["--params", "1e6", "--tokens", "1e6", "--ratio", "0.5", "--sizes", "5e4,2e5,8e5", "--lengths", "1e6"]
    assumed = ",".join(f"{name}={value}" for name, value in code.params.items())
    question = ["plan", "design", "--law", "dcpt:constrained=false", "--assume", assumed, *words, "--precision", "0.05"]
    assert cli.main([*question, "--out", str(tmp_path / "d.json")]) == 0
    assert Decision.load(tmp_path / "d.json").point["+/-"] <= 0.05
    question[question.index(assumed)] = "E=x"
    assert cli.main(question) == 2
    assert "write NAME=NUMBER" in capsys.readouterr().err
