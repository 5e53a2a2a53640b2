"""Small tables of a known law, made where they are needed."""

import numpy as np
import pandas as pd
import pytest


def grid(sizes=(3e7, 1e8, 3e8, 1e9), shares=(0.1, 0.3, 0.6), tokens=(1e9, 2e9, 4e9, 8e9), corpora=("code",)):
    """A run a size and mix, a row a checkpoint and corpus; losses of a law without noise."""
    rows = [
        {
            "run": f"n{size:.0e}-r{share}", "params": size, "tokens": count, "w_code": share, "w_web": 1 - share,
            "eval": corpus, "loss": round(1.5 + 30 / size**0.22 + 0.1 / share**0.5 + (2e8 / count) ** 0.3, 6),
        }
        for size in sizes for share in shares for count in tokens for corpus in corpora
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def table():
    return grid()


@pytest.fixture
def two():
    return grid(corpora=("code", "web"))


@pytest.fixture
def saved(tmp_path):
    """Writes text or a frame (as CSV) to a file of a name; returns its path."""

    def save(content, name="runs.csv", encoding="utf-8"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            text = content.to_csv(index=False) if isinstance(content, pd.DataFrame) else content
            path.write_bytes(text.encode(encoding))
        return path

    return save


@pytest.fixture
def wide(table):
    """One loss column a corpus."""
    rest = table.drop(columns=["eval", "loss"])
    return rest.assign(**{"val/loss_code": table["loss"], "val/loss_web": np.round(table["loss"] + 0.5, 6)})
